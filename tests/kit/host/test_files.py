"""Files written whole, and lock files."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError
from exclave.kit.host.files import hold_lock, make_folder, remove, remove_folder, write_atomic

SMALL_DISK = """
import sys
from pathlib import Path
from exclave.errors import HostError
from exclave.kit.host.files import write_atomic
path = Path(sys.argv[1], "state.json")
write_atomic(path, b"old")
try:
    write_atomic(path, bytes(1_000_000))
except HostError as problem:
    left = [file.name for file in path.parent.iterdir()]
    print(problem.message, problem.hint, path.read_bytes(), left, sep=" | ")
"""

READ_ONLY = """
import sys
from pathlib import Path
from exclave.errors import HostError
from exclave.kit.host.files import remove
remove(Path(sys.argv[1], "absent"))
try:
    remove(Path(sys.argv[1], "there"))
except HostError as problem:
    print(problem.message)
"""


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"one")
    assert path.read_bytes() == b"one"
    before = path.stat().st_ino
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_ino != before  # a reader of the old one keeps the old one, whole
    assert [left.name for left in tmp_path.iterdir()] == ["state.json"]


def test_a_file_is_for_its_owner_alone_unless_a_mode_is_set(tmp_path: Path) -> None:
    write_atomic(tmp_path / "secret", b"")
    write_atomic(tmp_path / "public", b"", 0o644)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "state.json"
    with pytest.raises(HostError) as caught:
        write_atomic(path, b"")
    assert caught.value.fault is Fault.DISK
    assert caught.value.message == f"cannot write {path}: No such file or directory"
    assert caught.value.hint == "make that folder exist and writable for root"


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(HostError) as caught:
        write_atomic(path, b"new")
    assert caught.value.message == f"cannot write {path}: Read-only file system"
    assert caught.value.hint == "mount that filesystem writable; the file that was there is untouched"
    assert path.read_bytes() == b"old"
    assert [left.name for left in tmp_path.iterdir()] == ["state.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=64k none "$0" && exec "$@" "$0"'
    shell = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", SMALL_DISK]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == (
        f"cannot write {tmp_path}/state.json: No space left on device | "
        "free some space on that disk; the file that was there is untouched | b'old' | ['state.json']"
    ), done.stderr


def test_a_file_is_removed_and_may_be_absent(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"")
    remove(path)
    assert not path.exists()
    remove(path)
    remove(tmp_path / "none" / "state.json")
    (tmp_path / "file").touch()
    remove(tmp_path / "file" / "state.json")


def test_what_a_write_that_was_cut_off_has_left_is_removed_with_its_file(tmp_path: Path) -> None:
    others = {".credential.json.old", ".credential.json.0a1b2c3d4", ".other.json.0a1b2c3d", "credential.json.0a1b2c3d"}
    for name in ("credential.json", ".credential.json.0a1b2c3d", ".credential.json.ffffffff", *others):
        (tmp_path / name).touch()
    for _ in range(2):
        remove(tmp_path / "credential.json")
        assert {path.name for path in tmp_path.iterdir()} == others
    (tmp_path / ".credential.json.0a1b2c3d").touch()
    remove(tmp_path / "credential.json")
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_folder_is_removed_with_its_files_and_may_be_absent(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    for _ in range(2):
        remove_folder(folder)
        assert list(tmp_path.iterdir()) == []
        folder.mkdir()
        for name in ("credential.json", ".credential.json.0a1b2c3d"):
            (folder / name).touch()
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_stays_of_a_folder_is_named_and_the_rest_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    for name in ("a", "c"):
        (folder / name).mkdir(parents=True)
    (folder / "b").touch()
    with pytest.raises(HostError) as caught:
        remove_folder(folder)
    assert caught.value.fault is Fault.DISK
    assert caught.value.message == f"cannot remove {folder}/a (Is a directory), {folder}/c (Is a directory)"
    assert caught.value.hint == f"remove it yourself: rm -r {folder}"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c"]


def test_on_a_read_only_disk_what_is_absent_need_not_be_removed(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs none "$0" && touch "$0/there" && mount -o remount,ro "$0" && exec "$@" "$0"'
    shell = ["unshare", "--mount", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", READ_ONLY]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"cannot write {tmp_path}/there: Read-only file system\n", done.stderr


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(HostError) as caught:
        remove(path)
    assert caught.value.message.startswith(f"cannot write {path}: ")


HOLD = """
import sys
from pathlib import Path
from exclave.kit.host.files import hold_lock
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


def test_a_missing_folder_of_a_lock_is_named(tmp_path: Path) -> None:
    problem = refusal(tmp_path / "missing" / "agent.lock")
    assert problem.fault is Fault.DISK
    assert problem.message == f"cannot open {tmp_path}/missing/agent.lock: No such file or directory"
    assert problem.hint == "make its folder exist and writable for root"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", 0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    make_folder(tmp_path / "a" / "b", 0o755)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        make_folder(tmp_path / "file" / "b", 0o700)
    assert caught.value.message == f"cannot make folder {tmp_path}/file/b: Not a directory"
    assert caught.value.hint == "make its parent writable for root"
