"""A process that is started behind a gate, recorded and released; and a recorded process, adopted."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from exclave.kit.host.gated import (
    GATE,
    GatedProcess,
    HeldProcess,
    adopt_process,
    make_record,
    open_high_pipe,
    start_gated,
)

KILLED_PARENT = """
import os, signal, sys
from exclave.kit.host.gated import GATE, start_gated
gated = start_gated("/bin/sh", ["sh", "-c", f"{GATE}; echo ran >{sys.argv[1]}"], {}, [])
if sys.argv[2] == "after the gate":
    gated.open_gate()
print(gated.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def start(*lines: str, environment: dict[str, str] | None = None) -> GatedProcess:
    return start_gated("/bin/sh", ["sh", "-c", "; ".join((GATE, *lines))], environment or {}, [])


async def end_of(process: HeldProcess) -> int | None:
    with trio.fail_after(20):
        status = await process.wait()
    process.close()
    return status


async def test_the_child_runs_only_after_its_record_is_stored(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    gated = start(f"echo $$ >{ran}")

    def store(pid: int) -> str:
        assert not ran.exists()
        return f"record of {pid}"

    assert await gated.release(store) == f"record of {gated.process.pid}"
    assert await end_of(gated.process) == 0
    assert ran.read_text() == f"{gated.process.pid}\n"


async def test_a_record_that_cannot_be_stored_ends_the_child_at_its_gate(tmp_path: Path) -> None:
    gated = start(f"touch {tmp_path}/ran")

    def store(pid: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await gated.release(store)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ChildProcessError):  # its exit status has been read: no zombie is left
        os.waitpid(gated.process.pid, os.WNOHANG)  # noqa: ASYNC222  with WNOHANG it returns at once


async def test_a_cancelled_child_never_runs(tmp_path: Path) -> None:
    gated = start(f"touch {tmp_path}/ran")
    await gated.cancel()
    assert list(tmp_path.iterdir()) == []


async def test_the_gate_of_a_child_that_has_ended_opens_without_an_error() -> None:
    gated = start("exit 7")
    gated.process.send(signal.SIGKILL)
    await gated.process.wait_end()
    gated.open_gate()
    gated.process.send(signal.SIGTERM)
    assert await end_of(gated.process) == -signal.SIGKILL


@pytest.mark.parametrize("when", ["before the gate", "after the gate"])
def test_a_killed_parent_leaves_no_child_at_its_gate_and_leaves_one_that_has_passed_it(
    tmp_path: Path, when: str
) -> None:
    ran = tmp_path / "ran"
    parent = subprocess.run(
        [sys.executable, "-c", KILLED_PARENT, str(ran), when],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "agent")},
    )
    # `run` has read standard error to its end, which the child holds open: so the child has ended as well.
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert ran.exists() == (when == "after the gate")


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 64", 64), ("kill -SEGV $$", -11)])
async def test_wait_returns_the_exit_status(line: str, status: int) -> None:
    gated = start(line)
    gated.open_gate()
    assert await end_of(gated.process) == status


async def test_the_child_has_a_session_of_its_own_its_own_environment_and_default_signals(tmp_path: Path) -> None:
    output = tmp_path / "output"
    gated = start(
        f"exec >{output}",
        "echo $$ $(cut -d' ' -f6 /proc/$$/stat) $WORD $HOME",
        "grep SigIgn /proc/$$/status",
        environment={"WORD": "word", "PATH": "/usr/bin:/bin"},
    )
    gated.open_gate()
    assert await end_of(gated.process) == 0
    words, ignored = output.read_text().splitlines()
    assert words == f"{gated.process.pid} {gated.process.pid} word"
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0


def test_a_program_that_does_not_exist_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        start_gated("/nowhere/sh", ["sh"], {}, [])
    assert os.listdir("/proc/self/fd") == before


async def test_file_actions_of_the_caller_overwrite_no_pipe_of_ours() -> None:
    """The gate is 0 in the child; here a pipe takes the numbers from 3 on, which a gate below 10 could have."""
    reading, writing = open_high_pipe()
    assert min(reading, writing) >= 10
    actions = [(os.POSIX_SPAWN_DUP2, writing, number) for number in range(3, 10)]
    gated = start_gated("/bin/sh", ["sh", "-c", f"{GATE}; echo word >&9"], {}, actions)
    os.close(writing)
    gated.open_gate()
    assert await end_of(gated.process) == 0
    assert os.read(reading, 99) == b"word\n"
    os.close(reading)


# Adopted.

SLEEP = "/usr/bin/sleep"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen([SLEEP, "600"])
    yield started
    started.kill()
    started.wait()


def executable_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")


def test_a_recorded_process_is_adopted(sleeper: "subprocess.Popen[bytes]") -> None:
    found = adopt_process(make_record(sleeper.pid, executable_of(sleeper.pid)))
    assert isinstance(found, HeldProcess)
    assert found.pid == sleeper.pid
    found.send(signal.SIGTERM)
    found.close()
    assert sleeper.wait() == -signal.SIGTERM


DIFFERENCES: dict[str, tuple[dict[str, object], str]] = {
    "an earlier boot": ({"boot_id": "another"}, "it was started before the last boot"),
    "another start time": ({"start_ticks": 1}, "was started at another time: its number was used again"),
    "another executable": ({"executable": "/usr/bin/true"}, "not /usr/bin/true"),
}


@pytest.mark.parametrize(("difference", "reason"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_process_that_differs_from_its_record_is_neither_adopted_nor_ended(
    difference: dict[str, object], reason: str, sleeper: "subprocess.Popen[bytes]"
) -> None:
    before = os.listdir("/proc/self/fd")
    record = make_record(sleeper.pid, executable_of(sleeper.pid))
    found = adopt_process(replace(record, **difference))  # type: ignore[arg-type]
    assert isinstance(found, str)
    assert found.endswith(reason)
    assert sleeper.poll() is None
    assert os.listdir("/proc/self/fd") == before


def test_a_process_that_has_ended_is_not_adopted() -> None:
    started = subprocess.Popen([SLEEP, "600"])
    record = make_record(started.pid, executable_of(started.pid))
    started.kill()
    started.wait()
    assert adopt_process(record) == f"process {started.pid} has ended"
    assert adopt_process(make_record(started.pid, SLEEP)) == f"process {started.pid} has ended"


async def test_the_exit_status_of_a_foreign_child_is_none_and_is_not_reaped() -> None:
    started = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait $!; echo $?"], stdout=subprocess.PIPE)
    )
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    grandchild = HeldProcess(pid, os.pidfd_open(pid))
    grandchild.send(signal.SIGTERM)
    assert await end_of(grandchild) is None
    assert int(started.stdout.readline()) == 128 + signal.SIGTERM
    started.communicate()
