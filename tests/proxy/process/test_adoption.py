"""What the next agent finds of an earlier one's units, with and without a fitting record."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.api.settings import digest
from exclave.config import ProxyConfig
from exclave.errors import HostError
from exclave.kit.tasks.latest import Latest
from exclave.proxy.process.adoption import adopted_record, find_running
from exclave.proxy.process.binary import BinaryId, ProxyUser
from exclave.proxy.process.launcher import ProxyLauncher
from exclave.proxy.process.records import InstanceRecord, RecordFile, unit_record
from exclave.proxy.process.systemd import read_output, show_unit
from exclave.proxy.process.units import NOTICE_TIME, Units, find_process, unit_of, wait_ended
from support.fake_systemd import FakeSystemd, fake_systemd
from support.mesh import ADDRESS, CA, RECORD, make_settings

from ..lab import GID, UID, USER, write_script

NOBODY = ProxyUser(USER, UID, GID)
BINARY = BinaryId("8:1:2:3", "binary")
STARTED: Any = SimpleNamespace(pid=4711, invocation="2cc4")


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    yield fake_systemd(tmp_path, monkeypatch)
    subprocess.run(["systemctl", "stop", unit_of("a"), unit_of("b")], check=True)


async def start(systemd: FakeSystemd, instance: Any = "a") -> int:
    """Start a unit; its pid. The agent that did it is gone then."""
    units = Units(systemd.runtime, NOBODY)
    process = await units.start(instance, write_script(systemd.runtime / "program", "exec sleep 600"), {})
    process.close()
    return process.pid


async def adopt(systemd: FakeSystemd, *, has_units: bool = True) -> dict[Any, InstanceRecord]:
    found = await find_running(systemd.runtime, has_units=has_units)
    for _, process in found.values():
        process.close()
    return {instance: record for instance, (record, _) in found.items()}


FORMER = unit_record(unit_of("a"), "environment", BINARY)

RECORDS = {
    "recorded and confirmed": (replace(FORMER, pid=4711, invocation="2cc4"), ("environment", BINARY)),
    "the agent was killed before it knew the process": (FORMER, ("environment", BINARY)),
    "somebody started the unit again": (replace(FORMER, pid=4000, invocation="1b1b"), ("", None)),
    "a child's record": (replace(FORMER, unit=""), ("", None)),
    "no record": (None, ("", None)),
}


@pytest.mark.parametrize(("former", "digests"), RECORDS.values(), ids=RECORDS)
def test_digests_are_those_of_this_start_or_unknown(former: InstanceRecord | None, digests: tuple[Any, Any]) -> None:
    record = adopted_record("a", former, STARTED)
    assert (record.environment, record.program) == digests
    assert (record.unit, record.pid, record.invocation) == (unit_of("a"), 4711, "2cc4")


async def test_a_running_unit_without_a_record_is_adopted_and_recorded(systemd: FakeSystemd) -> None:
    pid = await start(systemd, "b")
    (record,) = (await adopt(systemd)).values()
    assert (record.pid, record.environment, record.program) == (pid, "", None)
    assert RecordFile(systemd.runtime).read() == {"b": record}


async def test_a_record_of_an_agent_that_was_killed_during_the_start_is_completed(systemd: FakeSystemd) -> None:
    records = RecordFile(systemd.runtime)
    records.store("a", FORMER)
    pid = await start(systemd)
    (record,) = (await adopt(systemd)).values()
    assert (record.pid, record.environment, record.program) == (pid, "environment", BINARY)
    assert records.read()["a"] == record
    assert await adopt(systemd) == {"a": record}


@pytest.mark.parametrize("boot_id", [FORMER.boot_id, "another"])
async def test_the_record_of_a_unit_that_does_not_run_is_dropped(systemd: FakeSystemd, boot_id: str) -> None:
    records = RecordFile(systemd.runtime)
    records.store("a", replace(FORMER, pid=os.getpid(), invocation="2cc4", boot_id=boot_id))
    assert await adopt(systemd) == {}
    assert records.read() == {}


async def test_a_unit_that_failed_while_no_agent_ran_is_reported_and_counts_as_stopped(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    units = Units(systemd.runtime, NOBODY)
    process = await units.start("a", write_script(systemd.runtime / "program", "echo words; exec sleep 600"), {})
    RecordFile(systemd.runtime).store("a", replace(FORMER, invocation=process.invocation))
    while "words" not in await read_output(process.invocation, 1):
        pass
    os.kill(process.pid, signal.SIGKILL)
    await wait_ended(unit_of("a"), NOTICE_TIME, process.invocation)
    process.close()
    assert await adopt(systemd) == {}
    assert caplog.messages == ["proxy a: while no agent ran, it was ended by SIGKILL: words"]
    assert (await show_unit(unit_of("a"))).active == "inactive"
    assert RecordFile(systemd.runtime).read() == {}


async def test_a_recorded_unit_is_found_also_by_an_agent_that_systemd_did_not_start(systemd: FakeSystemd) -> None:
    RecordFile(systemd.runtime).store("a", FORMER)
    pid = await start(systemd)
    found = await adopt(systemd, has_units=False)
    assert {instance: record.pid for instance, record in found.items()} == {"a": pid}


async def test_without_units_nothing_is_asked_of_systemd(systemd: FakeSystemd) -> None:
    assert await adopt(systemd, has_units=False) == {}
    assert systemd.commands == []


async def test_children_of_an_earlier_agent_are_adopted_beside_units(systemd: FakeSystemd) -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        executable = os.readlink(f"/proc/{child.pid}/exe")
        RecordFile(systemd.runtime).add("a", child.pid, executable, "child")
        pid = await start(systemd, "b")
        found = await adopt(systemd)
        assert {instance: record.pid for instance, record in found.items()} == {"a": child.pid, "b": pid}
        child.kill()


# Launching, which makes the records


def launcher(systemd: FakeSystemd, binary: Path) -> ProxyLauncher:
    membership: Any = SimpleNamespace(record=RECORD, captured=Latest((ADDRESS,)))
    units = Units(systemd.runtime, NOBODY)
    made = ProxyLauncher(ProxyConfig(binary), NOBODY, systemd.runtime, membership, systemd.runtime / "w.sock", units)
    made.write_files("169.254.77.3")
    return made


async def test_a_launched_unit_is_on_record_with_its_digests(systemd: FakeSystemd) -> None:
    made = launcher(systemd, write_script(systemd.runtime / "program", "exec sleep 600"))
    process, record = await made.launch("a", make_settings(), "v2.366.0")
    assert (record.anchors, record.version) == (digest(CA), "v2.366.0")
    assert record.environment == made.wanted_digest(make_settings(), "a")
    assert record.program is not None
    assert made.records.read() == {"a": record}
    assert (record.pid, record.unit) == (process.pid, unit_of("a"))
    assert await adopt(systemd) == {"a": record}
    await process.send(signal.SIGTERM)
    assert await process.wait() == "was ended by SIGTERM"
    process.close()


async def test_a_unit_that_does_not_start_leaves_neither_record_nor_process(systemd: FakeSystemd) -> None:
    made = launcher(systemd, systemd.runtime / "absent")
    with pytest.raises(HostError, match="proxy a ended with status 127"):
        await made.launch("a", make_settings(), None)
    assert made.records.read() == {}
    assert await find_process("a") is None


async def test_removing_the_files_leaves_nothing(systemd: FakeSystemd) -> None:
    made = launcher(systemd, write_script(systemd.runtime / "program", "exit 64"))
    assert await made.check() is None
    made.remove_files()
    assert [path.name for path in systemd.runtime.iterdir()] == ["program"]
