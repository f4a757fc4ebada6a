"""A listener under a shortage of descriptors and memory, and the limits of connections."""

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import Fault, HostError
from exclave.kit.host.accepting import LOG_INTERVAL, SHORTAGES, Quota, SparseLog, accept_connections, is_shortage, log


@pytest.mark.parametrize("number", sorted(SHORTAGES), ids=lambda number: errno.errorcode[number])
async def test_a_shortage_ends_no_listener(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    accept, left = trio.SocketListener.accept, [None] * 30

    async def short(listener: trio.SocketListener) -> trio.SocketStream:
        if left:
            left.pop()
            raise OSError(number, os.strerror(number))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", short)
    assert await answers() == b"served"
    assert caplog.messages == [f"test: no connection can be accepted: {os.strerror(number)}"]


async def test_any_other_failure_of_the_listener_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: trio.SocketListener) -> trio.SocketStream:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(trio.SocketListener, "accept", fail)
    with trio.socket.socket() as sock:
        sock.listen()
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="Invalid argument"):
                await accept_connections("test", sock, nursery, serve, lambda _: True)


async def test_a_connection_that_is_not_admitted_is_closed_at_once() -> None:
    assert await answers(admitted=False) == b""


async def serve(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"served")


async def answers(*, admitted: bool = True) -> bytes:
    """All that a client of a listener receives."""
    sock = trio.socket.socket()
    await sock.bind(("127.0.0.1", 0))
    sock.listen()
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_connections, "test", sock, nursery, serve, lambda _: admitted)
            async with await trio.open_tcp_stream(*sock.getsockname()) as client:
                received = b"".join([piece async for piece in client])
            nursery.cancel_scope.cancel()
    return received


def test_each_listed_user_has_a_limit_of_its_own_and_others_share_one() -> None:
    quota = Quota({7: 2, 8: 1}, others=2)
    assert [quota.admit(uid) for uid in (7, 7, 7, 8, 8, 1000, 1001, 1002, 0)] == [
        *(True, True, False),
        *(True, False),
        *(True, True, False, False),
    ]
    quota.release(1000)
    quota.release(7)
    assert [quota.admit(uid) for uid in (1002, 1003, 7, 7, 8)] == [True, False, True, False, False]


async def test_a_warning_is_logged_at_most_once_a_minute(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    sparse = SparseLog()
    for number in range(1000):
        sparse.warning("user %d was refused", number)
    await trio.sleep(LOG_INTERVAL + 1)
    sparse.warning("user %d was refused", 1000)
    assert caplog.messages == ["user 0 was refused", "user 1000 was refused (999 more in the meantime)"]
    assert {record.name for record in caplog.records} == {log.name}


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EMFILE, True), (errno.ENOMEM, True), (errno.ENOSPC, True), (errno.EAGAIN, True), (errno.ENOENT, False)],
)
def test_a_shortage_is_recognised_also_as_the_cause_of_a_failed_write(
    tmp_path: Path, number: int, *, expected: bool
) -> None:
    problem = OSError(number, os.strerror(number))
    assert is_shortage(problem) is expected
    try:
        raise HostError(Fault.DISK, f"cannot write {tmp_path}", "free some space") from problem
    except HostError as error:
        assert is_shortage(error) is expected
    assert not is_shortage(ValueError("no number"))
