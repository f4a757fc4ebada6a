"""How an end is told, and one that does not come. What else a process lives through, `test_instance` plays."""

import math
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.config import ProxyConfig
from exclave.ending import Ending, EndingSwitch
from exclave.kit.host.gated import HeldProcess
from exclave.kit.tasks.latest import Latest
from exclave.proxy.instance import KILL_TIME, open_proxy
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.records import RecordFile
from exclave.proxy.running import KILL_DELAY, describe_end
from support.mesh import RECORD


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (-15, "was ended by SIGTERM"),
        (None, "ended (an earlier agent started it, so its exit status is unknown)"),
    ],
)
def test_an_end_in_words(status: int | None, words: str) -> None:
    assert describe_end(status) == words


async def find_nobody(name: str) -> ProxyUser:
    return ProxyUser(name, 65534, 65534)


async def test_a_proxy_that_no_signal_ends_keeps_no_agent_from_ending(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sleep = Path(shutil.which("sleep") or "").resolve()
    config, endings = ProxyConfig(sleep, "nobody", drain=7.0), EndingSwitch()
    membership: Any = SimpleNamespace(settings=Latest(None), record=RECORD, captured=Latest(()))
    identity: Any = SimpleNamespace(svid=Latest(None))
    autojump_clock.autojump_threshold, autojump_clock.rate = math.inf, 1.0  # a user is looked up in a thread
    process = subprocess.Popen([sleep, "1000"])
    try:
        RecordFile(tmp_path).add("a", process.pid, str(sleep), "digest")
        monkeypatch.setattr(HeldProcess, "send", lambda *_: None)
        # The real lookup runs in a thread, and virtual time would pass its limit at once.
        monkeypatch.setattr("exclave.proxy.instance.find_proxy_user", find_nobody)
        given = (membership, identity, tmp_path / "workload.sock", "169.254.77.3", "a", endings, time.time)
        async with open_proxy(config, tmp_path, *given):  # type: ignore[arg-type]
            autojump_clock.autojump_threshold, autojump_clock.rate = 0.0, 0.0
            began = trio.current_time()
            endings.ask_nowait(Ending.LEAVE)
        assert trio.current_time() == pytest.approx(began + 7.0 + KILL_DELAY + KILL_TIME)
        assert RecordFile(tmp_path).find_running().keys() == {"a"}, "cleanup finds the process by its record"
    finally:
        process.kill()
        process.wait()
    told = "a proxy has not ended 10 s after SIGKILL; its record stays, and exclave cleanup tries again"
    assert caplog.messages[-1] == told
