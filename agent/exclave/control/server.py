"""The agent's side of `control.sock`: one JSON object per line in both directions. Its mode is 0600: root only.

A client sends one line, `{"command": NAME}`, and reads lines until the connection ends.
"""

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from exclave.control.client import SOCKET_NAME
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.accepting import SparseLog, accept_connections
from exclave.kit.host.rebinding_socket import ReopenedSocket
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

MAX_REQUEST = 4096  # bytes of a request
MOST_CLIENTS = 64  # connections at a time; further ones are closed at once
CLIENT_TIMEOUT = 10.0  # seconds for a client to send its command, and to read each line; then it is dropped

SendReply = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends one object to the client. Raises trio.BrokenResourceError if the client has disconnected."""

CommandHandler = Callable[[str, SendReply], Awaitable[None]]
"""Answers a command and returns when it is done. Raises LookupError for an unknown command."""


@asynccontextmanager
async def open_control(runtime: Path, answer: CommandHandler) -> AsyncIterator[None]:
    """Serve commands while open. Raises HostError if the socket cannot be opened."""
    path = runtime / SOCKET_NAME
    clients, refusals = 0, SparseLog()

    def admit(_: trio.SocketStream) -> bool:
        nonlocal clients
        if clients >= MOST_CLIENTS:
            refusals.warning("control: a client was refused: %d are connected", clients)
            return False
        clients += 1
        return True

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal clients
        try:
            await _serve(answer, stream)
        finally:
            clients -= 1

    async with open_bare_nursery() as nursery:

        async def accept(sock: trio.socket.SocketType) -> None:
            await accept_connections("control", sock, nursery, serve, admit)

        part = ReopenedSocket(partial(_bind_socket, path), accept, path)
        try:
            nursery.start_soon(supervise, "control", part.serve)
            yield
            nursery.cancel_scope.cancel()
        finally:
            path.unlink(missing_ok=True)


def _bind_socket(path: Path) -> trio.socket.SocketType:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)  # we hold the agent's lock, so the process that bound it has ended
        channel.bind(str(path))
        channel.listen(16)
    except OSError as problem:
        channel.close()
        text = f"cannot listen on {path}: {problem.strerror}"
        raise HostError(Fault.DISK, text, "make its folder exist and writable for root") from problem
    finally:
        os.umask(mask)
    return trio.socket.from_stdlib_socket(channel)


async def _serve(answer: CommandHandler, stream: trio.SocketStream) -> None:
    async def reply(object_: dict[str, Any]) -> None:
        with trio.fail_after(CLIENT_TIMEOUT):
            await stream.send_all(json.dumps(object_).encode() + b"\n")

    try:
        async with stream:
            command = await _read_command(stream)
            try:
                await answer(command, reply)
            except LookupError:
                await reply({"error": {"message": "no such command"}})
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        log.debug("control: a client has gone")
    except Exception:
        log.exception("control: a command failed")  # a command must not end the agent


async def _read_command(stream: trio.SocketStream) -> str:
    """The command's name; "" for an invalid line."""
    line = b""
    with trio.fail_after(CLIENT_TIMEOUT):
        while b"\n" not in line and len(line) <= MAX_REQUEST:
            more = await stream.receive_some(MAX_REQUEST)
            if not more:
                break
            line += more
    try:
        return str(parse_json(line)["command"])
    except (ValueError, KeyError, TypeError):
        return ""
