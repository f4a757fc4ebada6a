"""After each way to remove exclave the machine is, byte for byte, what it was before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.needs import need

from .run_ways import CHANGES

TESTS = Path(__file__).resolve().parents[1]

MEMBERSHIP = {
    f"/mnt/var/lib/exclave/{name}.json" for name in ("membership", "credential", "settings", "svid", "last-answer")
}
"""The files of a member that has stopped."""

BOOT = "/mnt/run/exclave/boot.json"
"""It identifies this boot, so that its next agent does not count as a clone."""

WAYS: dict[str, set[str]] = {
    "leave": set(),
    "stop and cleanup": {*MEMBERSHIP, BOOT},
    "cleanup after kill -9 of agent and proxy": {*MEMBERSHIP, BOOT},
    "leave while the API server is away": set(),
}


@pytest.fixture(scope="module")
def differences() -> dict[str, list[str]]:
    """The differences after each way to go, and after each change made on purpose."""
    need(os.geteuid() == 0, "making network namespaces needs root")
    need("\toverlay\n" in Path("/proc/filesystems").read_text(), "the kernel has no overlay file system")
    for program in ("iptables-legacy", "iptables-nft"):
        need(shutil.which(program) is not None, f"{program} is not installed")
    path = os.pathsep.join([str(TESTS.parent / "agent"), str(TESTS)])
    command = ["unshare", "--net", "--mount", "--", sys.executable, "-m", "uninstall.run_ways"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["way"]: line["differences"] for line in lines}


@pytest.mark.parametrize(("way", "files"), WAYS.items(), ids=WAYS)
def test_only_the_files_of_a_stopped_member_are_left(
    differences: dict[str, list[str]], way: str, files: set[str]
) -> None:
    found = {line: line.split()[1] for line in differences[way]}
    assert [line for line in found if not line.startswith("files: +")] == []
    assert {path.removeprefix("+") for path in found.values()} == files, differences[way]


@pytest.mark.parametrize("subject", CHANGES)
def test_a_snapshot_shows_a_change_of_each_kind(differences: dict[str, list[str]], subject: str) -> None:
    assert differences[f"a change of {subject}"]
