"""Controllers as programs, against some API server: started, asked whether they lead, stopped and ended.

with replica(access, folder, "first", port := free_port()) as process:      # folder/token is its account's
    await wait_leads(port)
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import trio

from exclave.cluster.endpoint import Access

PROGRAM = (sys.executable, "-m", "exclave")


@contextmanager
def replica(
    access: Access, folder: Path, name: str, port: int, program: Sequence[str] = PROGRAM, source: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A replica. `source`: the folder with another version of the package."""
    (folder / "ca.pem").write_text(access.ca)
    command = [
        *program, "controller",
        "--server", access.servers[0],
        "--ca-file", str(folder / "ca.pem"), "--token-file", str(folder / "token"),
        "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    environment = os.environ if source is None else {**os.environ, "PYTHONPATH": str(source)}
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(command, env=environment, stderr=log)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.kill()
        started.wait()


async def leads(port: int) -> bool | None:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    except httpx.TransportError:
        return None
    return "exclave_controller_leads 1.0" in text


async def wait_leads(port: int) -> None:
    with trio.fail_after(60):
        while not await leads(port):  # noqa: ASYNC110  another process
            await trio.sleep(0.2)
