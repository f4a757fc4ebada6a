"""A name service of users and groups whose server does not answer, as LDAP can be."""

import grp
import pwd
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def silent_name_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every lookup block its thread until the block is left."""
    answers = threading.Event()

    def block(*_: Any) -> Any:
        answers.wait()
        raise KeyError("the server was away")

    for module, name in ((pwd, "getpwnam"), (pwd, "getpwuid"), (grp, "getgrnam")):
        monkeypatch.setattr(module, name, block)
    try:
        yield
    finally:
        answers.set()
