"""What a leave would remove; tests/uninstall compares it with what a real leave removes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.config import Paths
from exclave.daemon.leave_preview import RUNTIME_FILES, STATE_FILES, LeavePreview, preview_leave
from exclave.member.record import store_membership
from exclave.proxy.process.records import RecordFile
from support.mesh import RECORD

PROGRAMS = Path(__file__).parents[1] / "support/recording_programs"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    shutil.copytree(PROGRAMS, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    made = Paths(tmp_path / "state", tmp_path / "run")
    made.state.mkdir()
    made.runtime.mkdir()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_it_names_member_processes_table_and_files_and_changes_nothing(paths: Paths, tmp_path: Path) -> None:
    store_membership(paths.state, RECORD)
    for folder, names in ((paths.state, STATE_FILES), (paths.runtime, RUNTIME_FILES)):
        for name in names:
            if not (folder / name).exists():
                (folder / name).write_text("")
    RecordFile(paths.runtime).add("b", os.getpid(), os.path.realpath("/proc/self/exe"), "e")
    (paths.runtime / "agent.lock").write_text("")
    before = contents(tmp_path)
    found = await preview_leave(paths)
    after = contents(tmp_path)
    assert after.pop(str(tmp_path / "trace")).decode() == "ip -json address show\n", "nothing but questions"
    assert after == before
    assert found == LeavePreview(
        member="shop/web-k7q2x-1",
        processes=(f"{os.getpid()} (proxy b)",),
        tables=("inet exclave", "inet exclave-private"),
        rules=(),
        links=(),
        files=(
            *(str(paths.state / name) for name in STATE_FILES),
            *(str(paths.runtime / name) for name in RUNTIME_FILES),
        ),
    )
    assert found.lines()[:3] == [
        "Member shop/web-k7q2x-1, with its account, Lease and ExternalWorkload",
        f"process {os.getpid()} (proxy b)",
        "table inet exclave",
    ]


async def test_a_process_that_has_ended_is_not_named_and_its_record_stays(paths: Paths) -> None:
    records = RecordFile(paths.runtime)
    record = records.add("a", os.getpid(), os.path.realpath("/proc/self/exe"), "e")
    records.store("a", replace(record, start_ticks=1))
    found = await preview_leave(paths)
    assert (found.member, found.processes) == (None, ())
    assert [*records.read()] == ["a"]
