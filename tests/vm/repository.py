"""A signed apt repository as a release has it, of any packages."""

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from architecture.tree import TOP
from support.release import make_key, open_keyring


def make_repository(folder: Path, packages: Sequence[Path]) -> str:
    """Write it, signed with a new key; that key as armoured text. Needs gpg and apt-ftparchive."""
    with (
        tempfile.TemporaryDirectory(prefix="gpg") as work,
        open_keyring(Path(work) / "home") as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("GNUPGHOME", str(home))
        patch.syspath_prepend(str(TOP / "packaging"))
        key = importlib.import_module("signing").find_key(make_key(home, "a test"))
        importlib.import_module("repositories").make_apt_repository(folder, packages, key)
        return str(key.public)
