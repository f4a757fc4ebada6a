"""A socket that fails is replaced; one that was served is closed."""

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.kit.host.rebinding_socket import WATCH_INTERVAL, ReopenedSocket, Socket
from exclave.kit.tasks.supervise import supervise


class Place:
    """Sockets of one place, and how often each was served."""

    def __init__(self) -> None:
        self.opened: list[Socket] = []
        self.served: list[Socket] = []
        self.refuses = 0

    def bind(self) -> Socket:
        if self.refuses:
            self.refuses -= 1
            raise OSError("taken")
        self.opened.append(trio.socket.socket())
        return self.opened[-1]

    async def serve(self, sock: Socket) -> None:
        await trio.lowlevel.checkpoint()
        self.served.append(sock)
        if len(self.served) < 3:
            raise OSError("it broke")


async def test_each_failure_brings_another_socket_and_closes_the_one_before(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    place = Place()
    part = ReopenedSocket(place.bind, place.serve)
    place.refuses = 1
    await supervise("part", part.serve, draw=lambda: 0.0)
    assert place.served == place.opened
    assert len(place.opened) == 3
    assert [sock.fileno() for sock in place.opened] == [-1, -1, -1]


async def test_closing_closes_what_is_held_and_may_be_repeated() -> None:
    place = Place()
    part = ReopenedSocket(place.bind, place.serve)
    part.close()
    part.close()
    assert place.opened[0].fileno() == -1


async def test_what_was_cancelled_is_closed() -> None:
    place = Place()

    async def serve(sock: Socket) -> None:
        await trio.sleep_forever()

    part = ReopenedSocket(place.bind, serve)
    with trio.move_on_after(0):
        await part.serve()
    assert place.opened[0].fileno() == -1


async def test_what_cannot_be_bound_again_raises() -> None:
    place = Place()
    part = ReopenedSocket(place.bind, place.serve)
    place.refuses = 1
    with pytest.raises(OSError, match="it broke"):
        await part.serve()
    with pytest.raises(OSError, match="taken"):
        await part.serve()


async def test_a_path_that_somebody_removes_is_bound_again(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    path, bound = tmp_path / "socket", 0

    def bind() -> Socket:
        nonlocal bound
        bound += 1
        made = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        made.bind(str(path))
        return trio.socket.from_stdlib_socket(made)

    async def serve(_: Socket) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, "part", ReopenedSocket(bind, serve, path).serve)
        await trio.sleep(100)
        assert bound == 1
        path.unlink()
        await trio.sleep(WATCH_INTERVAL + 3)
        assert (bound, path.is_socket()) == (2, True)
        nursery.cancel_scope.cancel()
