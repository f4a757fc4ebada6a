"""An agent as far as its control socket goes: what it says to each client, one after the other, is given.

with answering(runtime, b'{"state": "ready"}\n') as asked:
    ...
assert asked == ["status"]
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def json_lines(*objects: dict[str, Any]) -> bytes:
    """Objects as the agent says them."""
    return b"".join(json.dumps(object_).encode() + b"\n" for object_ in objects)


@contextmanager
def answering(runtime: Path, *answers: bytes) -> Iterator[list[str]]:
    """Answer one client each; the commands they have asked."""
    asked: list[str] = []
    runtime.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "control.sock"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    asked.append(json.loads(lines.readline())["command"])
                    connection.sendall(answer)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield asked
        server.join()
    (runtime / "control.sock").unlink()
