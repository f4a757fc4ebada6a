"""The trial connection: proof that a new instance accepts redirected connections and reaches their destination.

The agent listens on the trial address and connects to it. The rules of a trial redirect that connection to the new
instance, which must find the original destination and connect to it.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import psutil
import trio

from exclave.errors import Fault, HostError
from exclave.kit.tasks.nursery import open_bare_nursery

TRIAL_TIMEOUT = 10.0
"""Seconds for one trial. The proxy looks up the destination first, as for any connection."""

HINT = "see the new proxy's log in the runtime folder; the old one goes on"


async def try_connection(address: str, pid: int) -> None:
    """Connect to ourselves by way of process `pid`. Raises HostError with the reason if that fails."""
    try:
        with trio.fail_after(TRIAL_TIMEOUT):
            await _try(address, pid)
    except trio.TooSlowError:
        raise _failure(address, f"did not arrive within {TRIAL_TIMEOUT:.0f} s") from None
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
                raise _failure(address, "was closed, or returned other bytes than were sent")
        nursery.cancel_scope.cancel()


async def _answer(listener: trio.SocketListener, address: str, pid: int, token: bytes) -> None:
    """Accept one connection of process `pid` and echo the token."""
    async with await listener.accept() as stream:
        peer = stream.socket.getpeername()[:2]
        if not await trio.to_thread.run_sync(_has_socket, pid, peer):
            raise _failure(address, f"arrived from {peer[0]}:{peer[1]}, which is not a socket of the new proxy")
        if await _read(stream, len(token)) != token:
            raise _failure(address, "did not bring the bytes that were sent")
        await stream.send_all(token)
        await trio.sleep_forever()  # the other side closes, and cancels this


async def _read(stream: trio.SocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size and (piece := await stream.receive_some(size - len(received))):
        received += piece
    return received


def _has_socket(pid: int, address: tuple[str, int]) -> bool:
    """Whether a process has a socket with this local address and port."""
    try:
        process = psutil.Process(pid)
        read = process.net_connections if hasattr(process, "net_connections") else process.connections  # psutil < 6
        found: Sequence[Any] = read(kind="tcp")
    except psutil.Error:
        return False
    return any(tuple(one.laddr) == address for one in found)


def _failure(address: str, what: str) -> HostError:
    return HostError(Fault.PROXY_UNUSABLE, f"a trial connection to {address} {what}", HINT)
