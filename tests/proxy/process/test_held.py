"""A child of the agent as the proxy's parts hold it, and the words for its end."""

import signal
import subprocess
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import Fault, HostError
from exclave.kit.host.gated import HeldProcess
from exclave.kit.host.procfs import open_pidfd
from exclave.proxy.process.held import KILL_TIME, ChildProcess, describe_end, end_process


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


class Stuck:
    """A process that no signal ends."""

    pid = 4711

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    async def send(self, number: signal.Signals) -> None:
        await trio.lowlevel.checkpoint()
        self.signals.append(number)

    async def wait_end(self) -> None:
        await trio.sleep_forever()

    async def wait(self) -> str:
        await trio.sleep_forever()
        return ""

    def close(self) -> None:
        pass


async def test_a_process_that_no_signal_ends_is_not_waited_for_without_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    process = Stuck()
    with pytest.raises(HostError) as stuck:
        await end_process(process, 30.0)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert trio.current_time() == pytest.approx(30.0 + KILL_TIME)
    assert stuck.value.fault is Fault.PROXY_UNUSABLE
    assert stuck.value.message == "the proxy's process 4711 does not end: it still runs 10 s after SIGKILL was sent"
    assert stuck.value.hint.endswith("end it: kill -s KILL 4711")
