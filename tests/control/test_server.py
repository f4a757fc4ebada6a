"""The control socket as its clients find it: real sockets, several at once, and some that misbehave."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.control.server import CLIENT_TIMEOUT, MAX_REQUEST, MOST_CLIENTS, SendReply, open_control
from exclave.errors import Fault, HostError
from support.faults import failing_once

UNKNOWN = [{"error": {"message": "no such command"}}]


class Agent:
    """Answers `status` at once, `watch` whenever it is told something, and falls over at `fall`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_ready = trio.Event()

    async def answer(self, command: str, reply: SendReply) -> None:
        if command not in ("status", "watch", "fall", "flood"):
            raise LookupError(command)
        self.asked.append(command)
        if command == "fall":
            raise RuntimeError("over")
        while command == "flood":
            await reply({"state": "x" * 100_000})
        await reply({"state": "starting"})
        if command == "watch":
            await self.is_ready.wait()
            await reply({"state": "ready"})


@asynccontextmanager
async def connected(runtime: Path) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_unix_socket(runtime / "control.sock") as stream:
        yield stream


async def ask(runtime: Path, line: bytes) -> list[dict[str, Any]]:
    """Send, and read all there is until the connection ends."""
    async with connected(runtime) as stream:
        await stream.send_all(line)
        answer = b"".join([piece async for piece in stream])
    return [json.loads(each) for each in answer.splitlines()]


async def test_a_command_is_answered_line_by_line_until_it_is_done(tmp_path: Path) -> None:
    agent = Agent()
    agent.is_ready.set()
    async with open_control(tmp_path, agent.answer):
        assert await ask(tmp_path, b'{"command": "watch"}\n') == [{"state": "starting"}, {"state": "ready"}]


async def test_a_waiting_client_blocks_no_other(tmp_path: Path) -> None:
    agent = Agent()
    async with open_control(tmp_path, agent.answer):
        async with connected(tmp_path) as first, connected(tmp_path) as second, connected(tmp_path) as silent:
            for stream in (first, second):
                await stream.send_all(b'{"command": "watch"}\n')
                assert await stream.receive_some() == b'{"state": "starting"}\n'
            assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]
            agent.is_ready.set()
            for stream in (first, second):
                assert await stream.receive_some() == b'{"state": "ready"}\n'
            await silent.aclose()
    assert agent.asked == ["watch", "watch", "status"]


NONSENSE = {
    "an unknown command": b'{"command": "dance"}\n',
    "no JSON": b"status\n",
    "no object": b'["status"]\n',
    "no command": b"{}\n",
    "no name of one": b'{"command": ["status"]}\n',
    "no text": b'{"command": "\xff"}\n',
    "more than a line may hold": b"x" * (MAX_REQUEST + 1),
}


@pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE)
async def test_a_line_that_is_no_command_is_an_error(tmp_path: Path, line: bytes) -> None:
    async with open_control(tmp_path, Agent().answer):
        assert await ask(tmp_path, line) == UNKNOWN


async def test_a_request_may_come_in_pieces(tmp_path: Path) -> None:
    async with open_control(tmp_path, Agent().answer), connected(tmp_path) as stream:
        for piece in (b'{"comm', b'and": "sta', b'tus"}\n'):
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert await stream.receive_some() == b'{"state": "starting"}\n'


async def test_an_answer_that_falls_over_ends_neither_agent_nor_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_control(tmp_path, Agent().answer):
        assert await ask(tmp_path, b'{"command": "fall"}\n') == []
        assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]
    assert caplog.messages == ["control: a command failed"]


@pytest.mark.parametrize("line", [b"", b'{"command": "sta', b'{"command": "watch"}\n'], ids=["silent", "half", "asked"])
async def test_a_client_that_goes_away_is_forgotten(tmp_path: Path, line: bytes) -> None:
    agent = Agent()
    async with open_control(tmp_path, agent.answer):
        async with connected(tmp_path) as stream:
            await stream.send_all(line)
            await trio.testing.wait_all_tasks_blocked()
        agent.is_ready.set()
        assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]


async def test_a_client_that_sends_or_reads_nothing_is_dropped(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_control(tmp_path, Agent().answer):
        for line in (b"", b'{"command": "flood"}\n'):
            async with connected(tmp_path) as stream:
                await stream.send_all(line)
                await trio.sleep(CLIENT_TIMEOUT + 1)
                async for _ in stream:  # the end comes, after what was on its way
                    pass


async def test_only_the_owner_may_connect_and_the_socket_goes_with_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with open_control(tmp_path, Agent().answer):
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_waiting_clients_do_not_block_closing(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with connected_while_closing(tmp_path) as stream:
            assert await stream.receive_some() == b""


@asynccontextmanager
async def connected_while_closing(runtime: Path) -> AsyncIterator[trio.SocketStream]:
    async with open_control(runtime, Agent().answer):
        stream = await trio.open_unix_socket(runtime / "control.sock")
        await stream.send_all(b'{"command": "watch"}\n')
        assert await stream.receive_some() == b'{"state": "starting"}\n'
    async with stream:
        yield stream


async def test_a_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    async with open_control(tmp_path, Agent().answer):
        assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        async with open_control(tmp_path / "missing", Agent().answer):
            pass
    assert caught.value.fault is Fault.DISK
    assert caught.value.message == f"cannot listen on {tmp_path}/missing/control.sock: No such file or directory"
    assert caught.value.hint == "make its folder exist and writable for root"


async def test_something_else_in_the_sockets_place_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "control.sock").mkdir()
    with pytest.raises(HostError) as caught:
        async with open_control(tmp_path, Agent().answer):
            pass
    assert caught.value.fault is Fault.DISK
    assert (tmp_path / "control.sock").is_dir()


async def test_a_socket_that_fails_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent()
    failing_once(monkeypatch, "trio.SocketListener.accept", trio.SocketListener.accept)
    async with open_control(tmp_path, agent.answer):
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            await ask(tmp_path, b"")
        with trio.fail_after(20):
            while True:
                try:
                    assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]
                    break
                except OSError:
                    await trio.lowlevel.checkpoint()


async def test_clients_beyond_the_limit_are_refused_and_the_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent()
    async with open_control(tmp_path, agent.answer):
        streams = [await trio.open_unix_socket(tmp_path / "control.sock") for _ in range(MOST_CLIENTS)]
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            async with connected(tmp_path) as refused:
                assert await refused.receive_some() == b""
        await streams[0].send_all(b'{"command": "status"}\n')
        assert await streams[0].receive_some() == b'{"state": "starting"}\n'
        assert await streams[0].receive_some() == b""  # its place is free again
        assert await ask(tmp_path, b'{"command": "status"}\n') == [{"state": "starting"}]
        for stream in streams:
            await stream.aclose()
    assert caplog.messages == [f"control: a client was refused: {MOST_CLIENTS} are connected"]
