"""The record on disk, and the kernel's word on real processes."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError
from exclave.proxy.process.instances import BinaryId
from exclave.proxy.process.records import LAUNCHERS, RecordFile, find_executable

SLEEP = "/usr/bin/sleep"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen([SLEEP, "600"], start_new_session=True)
    yield started
    started.kill()
    started.wait()


def executable_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")


def test_the_process_on_record_is_found_and_held(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    records = RecordFile(tmp_path)
    program = BinaryId("8:1:2:3", "d")
    records.add("b", sleeper.pid, executable_of(sleeper.pid), "digest", program)
    ((instance, (record, process)),) = records.find_running().items()
    assert (instance, record.pid, record.environment, record.program) == ("b", sleeper.pid, "digest", program)
    process.send(signal.SIGTERM)
    process.close()
    assert sleeper.wait() == -signal.SIGTERM


def test_nothing_on_record_is_nothing_found(tmp_path: Path) -> None:
    assert RecordFile(tmp_path).find_running() == {}
    assert list(tmp_path.iterdir()) == []


def test_one_that_has_ended_is_dropped(tmp_path: Path) -> None:
    started = subprocess.Popen([SLEEP, "600"])
    records = RecordFile(tmp_path)
    records.add("a", started.pid, executable_of(started.pid), "digest")
    started.kill()
    started.wait()
    assert records.find_running() == {}
    assert list(tmp_path.iterdir()) == []  # no record, no file


def test_another_program_with_that_number_is_left_alone(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    records = RecordFile(tmp_path)
    records.add("a", sleeper.pid, "/usr/lib/exclave/linkerd2-proxy", "digest")
    assert records.find_running() == {}
    assert sleeper.poll() is None


def test_of_two_the_one_that_runs_is_found_and_the_other_dropped(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    records = RecordFile(tmp_path)
    records.add("a", 2**22 - 1, SLEEP, "digest")
    records.add("b", sleeper.pid, executable_of(sleeper.pid), "digest")
    ((instance, (_, process)),) = records.find_running().items()
    process.close()
    assert instance == "b"
    assert list(records.read()) == ["b"]


def test_two_that_run_are_both_found(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    records = RecordFile(tmp_path)
    with subprocess.Popen([SLEEP, "600"]) as other:
        records.add("b", sleeper.pid, executable_of(sleeper.pid), "digest")
        records.add("a", other.pid, executable_of(other.pid), "digest")
        found = records.find_running()
        assert {instance: record.pid for instance, (record, _) in found.items()} == {"a": other.pid, "b": sleeper.pid}
        for _, process in found.values():
            process.close()
        other.kill()


def test_a_zombie_has_ended_and_its_record_is_dropped(tmp_path: Path) -> None:
    started = subprocess.Popen([SLEEP, "600"])
    records = RecordFile(tmp_path)
    records.add("a", started.pid, executable_of(started.pid), "digest")
    started.kill()
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)  # it stays, for its parent to ask
    assert Path(f"/proc/{started.pid}/stat").read_text().split()[2] == "Z"
    assert records.find_running() == {}
    assert records.read() == {}
    started.wait()


def test_a_process_of_the_same_number_that_was_started_at_another_time_is_left_alone(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    records = RecordFile(tmp_path)
    record = records.add("a", sleeper.pid, executable_of(sleeper.pid), "digest")
    records._write({"a": replace(record, start_ticks=record.start_ticks - 1)})
    assert records.find_running() == {}
    records._write({"a": replace(record, boot_id="another")})
    assert records.find_running() == {}
    assert sleeper.poll() is None


def test_a_child_that_is_not_the_proxy_yet_is_on_its_way(tmp_path: Path) -> None:
    records = RecordFile(tmp_path)
    with subprocess.Popen(["sh", "-c", 'read -r _; exec "$@"', "sh", SLEEP, "600"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        records.add("a", child.pid, SLEEP, "digest")
        while os.path.basename(executable_of(child.pid)) not in LAUNCHERS:
            pass  # Popen returns once it runs the shell, or is about to
        assert records.has_starting_child()
        child.stdin.write(b"\n")
        child.stdin.flush()
        while records.has_starting_child():
            pass
        ((_, (record, process)),) = records.find_running().items()
        process.close()
        assert record.pid == child.pid
        child.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": {"pid": 1}}'])
def test_a_damaged_file_adopts_nobody_and_says_so(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "instances.json").write_text(text)
    assert RecordFile(tmp_path).find_running() == {}
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"proxy: {tmp_path}/instances.json cannot be read, so nothing is adopted: ")


def test_dropping_one_keeps_the_other(tmp_path: Path) -> None:
    records = RecordFile(tmp_path)
    for instance in ("a", "b"):
        records.add(instance, os.getpid(), sys.executable, instance)  # type: ignore[arg-type]
    records.drop("a")
    assert {instance: record.environment for instance, record in records.read().items()} == {"b": "b"}
    records.drop("a")
    records.drop("b")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_the_record_that_was_there(tmp_path: Path) -> None:
    records = RecordFile(tmp_path)
    records.add("a", os.getpid(), sys.executable, "before")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))  # the kernel's own refusal: File too large
    try:
        with pytest.raises(HostError) as caught:
            records.add("b", os.getpid(), sys.executable, "after")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.fault is Fault.DISK
    assert list(records.read()) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]


def test_a_script_is_known_by_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    assert find_executable(script) == os.path.realpath("/bin/sh")
    link = tmp_path / "link"
    link.symlink_to(sys.executable)
    assert find_executable(link) == os.path.realpath(sys.executable)
