"""The runtime folder, which somebody empties while the agent runs."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from exclave.daemon.runtime_folder import RuntimeFolder
from exclave.errors import HostError
from exclave.kit.host.files import hold_lock, write_atomic
from exclave.member.facts import read_boot_identity
from exclave.proxy.process.records import RecordFile

FILES = {
    "boot.json": 0o600,
    "instances.json": 0o600,
    "resolv.conf": 0o644,
    "proxy-a.env": 0o600,
    "proxy-etc/passwd": 0o644,
}


def fill(folder: Path) -> None:
    (folder / "proxy-etc").mkdir(parents=True)
    for name, mode in FILES.items():
        write_atomic(folder / name, name.encode(), mode)
    for name in ("proxy-a.log", ".boot.json.0123abcd"):
        (folder / name).write_text("not restored")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def found_in(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in paths}


@pytest.mark.parametrize("how", [empty, shutil.rmtree])
def test_every_record_and_the_lock_come_back_with_their_modes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: object
) -> None:
    folder = tmp_path / "run"
    fill(folder)
    with hold_lock(folder / "agent.lock", "another agent", "") as lock:
        runtime = RuntimeFolder(folder, lock)
        runtime.refresh()
        how(folder)  # type: ignore[operator]
        runtime.refresh()
        assert found_in(folder) == {**FILES, "agent.lock": 0o600}
        assert (folder / "proxy-etc/passwd").read_text() == "proxy-etc/passwd"
        assert f"somebody has emptied {folder}: 5 files were restored" in caplog.text
        with (
            pytest.raises(HostError, match="another agent runs already"),
            hold_lock(folder / "agent.lock", "another agent", ""),
        ):
            raise AssertionError
    assert not (folder / "agent.lock").exists()


def test_a_file_that_the_agent_removes_itself_stays_away_and_a_newer_one_stays(tmp_path: Path) -> None:
    fill(tmp_path)
    with hold_lock(tmp_path / "agent.lock", "another agent", "") as lock:
        runtime = RuntimeFolder(tmp_path, lock)
        runtime.refresh()
        (tmp_path / "boot.json").unlink()
        runtime.refresh()
        empty(tmp_path)
        write_atomic(tmp_path / "instances.json", b"newer")
        runtime.refresh()
        assert not (tmp_path / "boot.json").exists()
        assert (tmp_path / "instances.json").read_bytes() == b"newer"


async def test_the_next_agent_has_the_same_name_of_the_boot_and_knows_the_proxies(tmp_path: Path) -> None:
    records = RecordFile(tmp_path)
    with hold_lock(tmp_path / "agent.lock", "another agent", "") as lock:
        name = await read_boot_identity(tmp_path)
        record = records.add("a", os.getpid(), sys.executable, "digest")
        runtime = RuntimeFolder(tmp_path, lock)
        runtime.refresh()
        empty(tmp_path)
        runtime.refresh()
    assert await read_boot_identity(tmp_path) == name
    assert records.read() == {"a": record}
