"""After each way to remove exclave the machine is, byte for byte, what it was before."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
def ways() -> dict[str, dict[str, Any]]:
    """What was printed of each way to go, and of each change made on purpose."""
    need(os.geteuid() == 0, "making network namespaces needs root")
    need("\toverlay\n" in Path("/proc/filesystems").read_text(), "the kernel has no overlay file system")
    for program in ("iptables-legacy", "iptables-nft"):
        need(shutil.which(program) is not None, f"{program} is not installed")
    path = os.pathsep.join([str(TESTS.parent / "agent"), str(TESTS)])
    command = ["unshare", "--net", "--mount", "--", sys.executable, "-m", "uninstall.run_ways"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["way"]: line for line in lines}


@pytest.fixture(scope="module")
def differences(ways: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    return {name: line["differences"] for name, line in ways.items()}


def test_a_dry_run_of_a_leave_names_everything_and_changes_nothing(ways: dict[str, dict[str, Any]]) -> None:
    line = ways["leave --dry-run"]
    preview, there = line["preview"], line["there"]
    # The agent goes on: its sockets have queues, and each answer of the cluster touches a file.
    changing = (
        "sockets that listen: ",
        "files: -/mnt/var/lib/exclave/last-answer.json",
        "files: +/mnt/var/lib/exclave/last-",
    )
    assert [one for one in line["differences"] if not one.startswith(changing)] == []
    active = there["proxy"]["active"]
    pid = there["proxy"]["instances"][active]["pid"]
    assert preview["processes"][0] == f"{pid} (proxy {active})"
    assert [name.split()[1] for name in preview["processes"]] == ["(proxy", "(keepalive)"]
    assert preview["tables"] == ["inet exclave", "inet exclave-guard", "inet exclave-private"]
    assert preview["links"] == ["exclave0"]
    # The leave that follows removes exactly these: only the agent's own files stay until it ends.
    assert {*there["files"]} - {*preview["files"]} == {
        "/run/exclave/agent.lock",
        "/run/exclave/control.sock",
    }
    assert {*preview["files"]} <= {*there["files"]}
    assert preview["member"].startswith("shop/web-")


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
