"""Faults as the world makes them: a listening socket that is of no use any more, a function that falls over once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def break_listener(place: object) -> None:
    """Shut down this process's socket that listens at a place: an address and port, or a path."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and found.getsockname() == (str(place) if isinstance(place, Path) else place):
                    found.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            continue
    raise AssertionError(f"nobody listens at {place}")


def failing_once(monkeypatch: pytest.MonkeyPatch, name: str, real: Callable[..., Any]) -> list[object]:
    """Have the function at `name` raise at its next call, then be the real one; what it was called with."""
    calls: list[object] = []

    def fall(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("it fell over")
        return real(*given, **named)

    monkeypatch.setattr(name, fall)
    return calls
