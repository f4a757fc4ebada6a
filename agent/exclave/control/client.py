"""The commands' side of `control.sock`. It imports the standard library only: scripts run `exclave status` often."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json

SOCKET_NAME = "control.sock"


class NoAgent(Exception):
    """No agent answers on the control socket: none runs, or it has just ended."""


def send_command(runtime: Path, command: str, timeout: float | None = 10.0) -> Iterator[dict[str, Any]]:
    """Send a command and yield the answers. Raises NoAgent, or HostError without permission.

    `timeout`: seconds between two answers; None: no limit.
    """
    path = runtime / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            channel.connect(str(path))
            channel.sendall(json.dumps({"command": command}).encode() + b"\n")
        except PermissionError:
            text = f"the agent's socket {path} is for root only"
            raise HostError(Fault.NO_PRIVILEGE, text, "run this command as root") from None
        except OSError:
            raise NoAgent from None
        with channel.makefile("rb") as lines:
            yield from _objects(lines)


def _objects(lines: Any) -> Iterator[dict[str, Any]]:
    try:
        for line in lines:
            found = parse_json(line)
            if isinstance(found, dict):
                yield found
    except (OSError, ValueError):
        raise NoAgent from None


def query_agent(runtime: Path, command: str, timeout: float = 10.0) -> dict[str, Any]:
    """The first answer to a command. Raises NoAgent, HostError."""
    for found in send_command(runtime, command, timeout):
        return found
    raise NoAgent
