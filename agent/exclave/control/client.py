"""A command's side of `control.sock`: ask the agent that runs, and read what it says.

Blocking, and with no more than the standard library: `exclave status` is asked by scripts, often, and has no use for an
event loop. Raises NoAgent when nobody listens, HostError when somebody does and we may not ask.
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exclave.errors import Fault, HostError

SOCKET_NAME = "control.sock"


class NoAgent(Exception):
    """Nobody answers on the control socket: no agent runs, or it ended while we asked."""


def send_command(runtime: Path, command: str, timeout: float | None = 10.0) -> Iterator[dict[str, Any]]:
    """Send a command and yield what comes back, line by line. `timeout` is seconds between lines, None for ever."""
    path = runtime / SOCKET_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout)
        try:
            channel.connect(str(path))
            channel.sendall(json.dumps({"command": command}).encode() + b"\n")
        except PermissionError:
            raise HostError(
                Fault.NO_PRIVILEGE, f"asking the agent at {path} is not permitted", "run this command as root"
            ) from None
        except OSError:
            raise NoAgent from None
        with channel.makefile("rb") as lines:
            yield from _objects(lines)


def _objects(lines: Any) -> Iterator[dict[str, Any]]:
    try:
        for line in lines:
            found = json.loads(line)
            if isinstance(found, dict):
                yield found
    except (OSError, ValueError):
        raise NoAgent from None


def query_agent(runtime: Path, command: str, timeout: float = 10.0) -> dict[str, Any]:
    """The first line of the answer. Raises NoAgent, HostError."""
    for found in send_command(runtime, command, timeout):
        return found
    raise NoAgent
