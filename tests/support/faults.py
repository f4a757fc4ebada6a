"""Faults of the world: a listening socket that fails, a function that fails once, name services without an answer."""

import errno
import grp
import os
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio


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
    """Replace a function by one that raises at its first call and then calls `real`; returns the arguments so far."""
    calls: list[object] = []

    def fall(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("it fell over")
        return real(*given, **named)

    monkeypatch.setattr(name, fall)
    return calls


@contextmanager
def silent_name_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every lookup of users and groups blocks its thread until the block ends, as LDAP can do."""
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


class NameServers(trio.abc.HostnameResolver):
    """A fake name server for one run of trio. `answers` by name: addresses, an error to raise, or None for silence."""

    def __init__(self, **answers: "tuple[str, ...] | OSError | None") -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        name = str(host, "ascii")
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        answer = self.answers[name]
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, OSError):
            raise answer
        return [_target(address, port) for address in answer]

    async def getnameinfo(self, *_: Any) -> Any:
        raise AssertionError("nobody asks for the name of an address")


def _target(address: str, port: int) -> tuple[Any, ...]:
    bare, _, zone = address.partition("%")
    if ip_address(bare).version == 4:
        return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 3 if zone else 0)


def no_such_name() -> OSError:
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def no_name_server() -> OSError:
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def network_is_down() -> OSError:
    return OSError(errno.ENETDOWN, "Network is down")
