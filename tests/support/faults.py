"""Faults of the world: a function that fails once, and name services without an answer."""

import grp
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest
import trio


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
