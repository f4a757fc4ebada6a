"""A trial connection: proof that an instance takes what the rules hand it and reaches where that was going.

Rules: we listen on the trial address and connect to it; the rules of a trial send that connection to the instance on
trial, which must find the original destination and dial it. What arrives must come from a socket of that very process,
and a token, drawn anew, must make the way there and back. Everything within `PATIENCE` seconds.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import psutil
import trio

from exclave.errors import Fault, HostError
from exclave.kit.tasks.nursery import open_bare_nursery

PATIENCE = 10.0
"""Seconds for one trial; the proxy looks the destination up first, as it would for anybody."""

HINT = "see the new proxy's log in the runtime folder; the old one goes on"


async def try_connection(address: str, pid: int) -> None:
    """Connect to ourselves by way of process `pid`. Raises HostError with what went wrong."""
    try:
        with trio.fail_after(PATIENCE):
            await _try(address, pid)
    except trio.TooSlowError:
        raise _failure(address, f"did not arrive within {PATIENCE:.0f} s") from None
    except (OSError, trio.BrokenResourceError) as problem:
        raise _failure(address, f"broke: {problem}") from None


async def _try(address: str, pid: int) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=address)
    async with listener, open_bare_nursery() as nursery:
        token = secrets.token_hex(16).encode() + b"\r\n"
        nursery.start_soon(_answer, listener, address, pid, token)
        async with await trio.open_tcp_stream(address, listener.socket.getsockname()[1]) as stream:
            await stream.send_all(token)
            if await _read(stream, len(token)) != token:
                raise _failure(address, "was closed, or brought back something else")
        nursery.cancel_scope.cancel()


async def _answer(listener: trio.SocketListener, address: str, pid: int, token: bytes) -> None:
    """Take one connection, see whose it is, send back what it brings."""
    async with await listener.accept() as stream:
        peer = stream.socket.getpeername()[:2]
        if not await trio.to_thread.run_sync(_holds, pid, peer):
            raise _failure(address, f"arrived from {peer[0]}:{peer[1]}, which is no socket of the proxy on trial")
        if await _read(stream, len(token)) != token:
            raise _failure(address, "did not bring what was sent")
        await stream.send_all(token)
        await trio.sleep_forever()  # whoever connected closes


async def _read(stream: trio.SocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := await stream.receive_some(size - len(received))):
        received += piece
    return received


def _holds(pid: int, place: tuple[str, int]) -> bool:
    """Whether a process has a connection from this address and port."""
    try:
        process = psutil.Process(pid)
        look = process.net_connections if hasattr(process, "net_connections") else process.connections  # psutil < 6
        found: Sequence[Any] = look(kind="tcp")
    except psutil.Error:
        return False
    return any(tuple(one.laddr) == place for one in found)


def _failure(address: str, what: str) -> HostError:
    return HostError(Fault.PROXY_UNUSABLE, f"a trial connection to {address} {what}", HINT)
