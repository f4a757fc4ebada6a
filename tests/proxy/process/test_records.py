"""The records as a file, and the processes that they name."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import Fault, HostError
from exclave.proxy.process.binary import BinaryId
from exclave.proxy.process.records import (
    LAUNCHERS,
    InstanceRecord,
    RecordFile,
    find_executable,
    interpreter_of,
    parse_instances,
    render_instances,
)

SLEEP = "/usr/bin/sleep"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen([SLEEP, "600"], start_new_session=True)
    yield started
    started.kill()
    started.wait()


def executable_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")


def test_a_recorded_process_is_found_and_held(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    records = RecordFile(tmp_path)
    program = BinaryId("8:1:2:3", "d")
    records.add("b", sleeper.pid, executable_of(sleeper.pid), "digest", program)
    ((instance, (record, process)),) = records.find_running().items()
    assert (instance, record.pid, record.environment, record.program) == ("b", sleeper.pid, "digest", program)
    process.send(signal.SIGTERM)
    process.close()
    assert sleeper.wait() == -signal.SIGTERM


def test_without_a_record_nothing_is_found(tmp_path: Path) -> None:
    assert RecordFile(tmp_path).find_running() == {}
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_an_ended_process_is_dropped(tmp_path: Path) -> None:
    started = subprocess.Popen([SLEEP, "600"])
    records = RecordFile(tmp_path)
    records.add("a", started.pid, executable_of(started.pid), "digest")
    started.kill()
    started.wait()
    assert records.find_running() == {}
    assert list(tmp_path.iterdir()) == []  # no record, no file


def test_another_program_with_the_same_pid_is_not_ended(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    records = RecordFile(tmp_path)
    records.add("a", sleeper.pid, "/usr/lib/exclave/linkerd2-proxy", "digest")
    assert records.find_running() == {}
    assert sleeper.poll() is None


def test_a_running_instance_is_found_and_an_ended_one_is_dropped(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    records = RecordFile(tmp_path)
    records.add("a", 2**22 - 1, SLEEP, "digest")
    records.add("b", sleeper.pid, executable_of(sleeper.pid), "digest")
    ((instance, (_, process)),) = records.find_running().items()
    process.close()
    assert instance == "b"
    assert list(records.read()) == ["b"]


def test_two_running_instances_are_both_found(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
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
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)  # it stays until its parent reads its status
    assert Path(f"/proc/{started.pid}/stat").read_text().split()[2] == "Z"
    assert records.find_running() == {}
    assert records.read() == {}
    started.wait()


def test_a_process_with_the_same_pid_and_another_start_is_not_ended(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    records = RecordFile(tmp_path)
    record = records.add("a", sleeper.pid, executable_of(sleeper.pid), "digest")
    records._write({"a": replace(record, start_ticks=record.start_ticks - 1)})
    assert records.find_running() == {}
    records._write({"a": replace(record, boot_id="another")})
    assert records.find_running() == {}
    assert sleeper.poll() is None


def test_a_released_child_that_is_not_the_proxy_yet_is_starting(tmp_path: Path) -> None:
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
def test_a_damaged_file_is_logged_and_nothing_is_adopted(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "instances.json").write_text(text)
    assert RecordFile(tmp_path).find_running() == {}
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"proxy: {tmp_path}/instances.json cannot be read, so nothing is adopted: ")


def test_dropping_a_record_leaves_the_other(tmp_path: Path) -> None:
    records = RecordFile(tmp_path)
    for instance in ("a", "b"):
        records.add(instance, os.getpid(), sys.executable, instance)  # type: ignore[arg-type]
    records.drop("a")
    assert {instance: record.environment for instance, record in records.read().items()} == {"b": "b"}
    records.drop("a")
    records.drop("b")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_records(tmp_path: Path) -> None:
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


def test_the_executable_of_a_script_is_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    assert find_executable(script) == os.path.realpath("/bin/sh")
    link = tmp_path / "link"
    link.symlink_to(sys.executable)
    assert find_executable(link) == os.path.realpath(sys.executable)


BOOT = "5f9a7d5e-0000-4000-8000-000000000001"
RECORD = InstanceRecord(4711, 90_210, BOOT, "/usr/lib/exclave/linkerd2-proxy", "0123456789abcdef")

RECORDS = st.builds(
    InstanceRecord, st.integers(1, 2**22), st.integers(0, 2**63), st.text(), st.text(), st.text("0123456789abcdef")
)


@given(st.dictionaries(st.sampled_from(("a", "b")), RECORDS))
def test_records_are_read_as_they_were_written(stored: dict[str, InstanceRecord]) -> None:
    assert parse_instances(render_instances(stored)) == stored  # type: ignore[arg-type]


def test_keys_of_a_newer_agent_are_ignored() -> None:
    tree = json.loads(render_instances({"a": RECORD}))
    tree["a"]["cgroup"] = "exclave.slice"
    tree["c"] = {"pid": 1}
    assert parse_instances(json.dumps(tree)) == {"a": RECORD}


DAMAGED = {
    "nothing": "",
    "half of the file": render_instances({"a": RECORD})[:60],
    "a list": "[]",
    "no pid": '{"a": {"start_ticks": 1, "boot_id": "", "executable": "", "environment": ""}}',
    "a pid in letters": '{"a": {"pid": "one", "start_ticks": 1, "boot_id": "", "executable": "", "environment": ""}}',
    "an infinite pid": render_instances({"a": RECORD}).replace("4711", "Infinity"),
    "no record": '{"a": null}',
    "a program that is a text": render_instances({"a": RECORD}).replace('"program": null', '"program": "p"'),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # json's own words differ by version
        parse_instances(text)


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"\x7fELF\x02\x01\x01", None),
        (b"", None),
        (b"#!", None),
        (b"#!/bin/sh\necho", "/bin/sh"),
        (b"#!/opt/\xff/sh\necho", "/opt/\udcff/sh"),  # as Python names a file that is not UTF-8
        (b"#! /usr/bin/python3 -I\nimport sys", "/usr/bin/python3"),
    ],
)
def test_a_script_s_first_line_names_its_interpreter(head: bytes, interpreter: str | None) -> None:
    assert interpreter_of(head) == interpreter
