"""What a test needs of the machine: without it the test is skipped with the reason; in CI that is a failure."""

import os
import secrets
import socket

import pytest


def need(condition: bool, why: str) -> None:
    """Go on if the condition holds; else skip, or fail where EXCLAVE_CI=1 promises that it can run."""
    if condition:
        return
    if os.environ.get("EXCLAVE_CI") == "1":
        pytest.fail(f"CI must be able to run this: {why}", pytrace=False)
    pytest.skip(why)


_RANGE = range(10_240, 32_768)
_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody has."""
    while True:
        port = secrets.choice(_RANGE)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
