"""One agent at a time: locks that go with their process."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError
from exclave.kit.host.locks import hold_lock

HOLD = """
import sys
from pathlib import Path
from exclave.kit.host.locks import hold_lock
with hold_lock(Path(sys.argv[1]), "another agent", "stop it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def refusal(path: Path) -> HostError:
    with pytest.raises(HostError) as caught, hold_lock(path, "another agent", "stop it"):
        pass
    return caught.value


def test_the_second_of_two_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    with hold_lock(path, "another agent", "stop it"):
        problem = refusal(path)
        assert problem.fault is Fault.ANOTHER_AGENT
        assert problem.message == f"another agent runs already: it holds {path}"
        assert problem.hint == "stop it"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    with hold_lock(path, "another agent", "stop it"):
        pass


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert refusal(path).fault is Fault.ANOTHER_AGENT
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.exists()  # it had no time to remove it, and that keeps nobody out
    with hold_lock(path, "another agent", "stop it"):
        pass


def test_a_lock_on_a_file_that_has_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our opening and our locking the holder removes its file, and a third one makes and locks another."""
    path = tmp_path / "agent.lock"
    whole, third = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not third:
            path.unlink()
            third.append(os.open(path, os.O_RDWR | os.O_CREAT))
            whole(third[0], operation)
        whole(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    assert refusal(path).fault is Fault.ANOTHER_AGENT
    os.close(third[0])


def test_what_fails_inside_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    with pytest.raises(ValueError), hold_lock(path, "another agent", "stop it"):
        raise ValueError
    assert not path.exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    problem = refusal(tmp_path / "missing" / "agent.lock")
    assert problem.fault is Fault.DISK
    assert problem.message == f"cannot open {tmp_path}/missing/agent.lock: No such file or directory"
    assert problem.hint == "make its folder exist and writable for root"
