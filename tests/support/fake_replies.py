"""An agent that only has its control socket: it sends fixed replies, one to each client.

with fake_replies(runtime, b'{"state": "ready"}\n') as commands:
    ...
assert commands == ["status"]
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def json_lines(*objects: dict[str, Any]) -> bytes:
    """Objects in the form in which the agent sends them."""
    return b"".join(json.dumps(object_).encode() + b"\n" for object_ in objects)


@contextmanager
def fake_replies(runtime: Path, *replies: bytes) -> Iterator[list[str]]:
    """Send each reply to one client. Yields the commands that the clients sent."""
    commands: list[str] = []
    runtime.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "control.sock"))
        listener.listen()

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    commands.append(json.loads(lines.readline())["command"])
                    connection.sendall(reply)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield commands
        server.join()
    (runtime / "control.sock").unlink()
