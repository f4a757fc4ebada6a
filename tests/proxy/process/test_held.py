"""A child of the agent as the proxy's parts hold it, and the words for its end."""

import signal
import subprocess
from pathlib import Path

import pytest

from exclave.kit.host.gated import HeldProcess
from exclave.kit.host.procfs import open_pidfd
from exclave.proxy.process.held import ChildProcess, describe_end


@pytest.mark.parametrize(
    ("status", "line", "words"),
    [
        (0, "", "ended with status 0"),
        (3, "boom", "ended with status 3: boom"),
        (-15, "", "was ended by SIGTERM"),
        (None, "", "ended (an earlier agent started it, so its exit status is unknown)"),
    ],
)
def test_the_end_of_a_process_is_described(status: int | None, line: str, words: str) -> None:
    assert describe_end(status, line) == words


async def test_a_child_is_signalled_and_its_end_has_its_last_line(tmp_path: Path) -> None:
    output = tmp_path / "proxy-a.log"
    output.write_text("first\nlast words\n\n")
    with subprocess.Popen(["sleep", "600"]) as started:
        pidfd = open_pidfd(started.pid)
        assert pidfd is not None
        process = ChildProcess(HeldProcess(started.pid, pidfd), output)
        await process.send(signal.SIGTERM)
        await process.wait_end()
        assert await process.wait() == "was ended by SIGTERM: last words"
        await process.send(signal.SIGTERM)  # it has ended: nothing happens
        process.close()
        started.returncode = -signal.SIGTERM
