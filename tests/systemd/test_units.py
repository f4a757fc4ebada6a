"""The units of systemd/, as systemd itself reads them; and what other units and documents rely on."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from architecture.tree import TOP
from exclave.errors import NO_RESTART, Fault
from support.needs import need

FOLDER = TOP / "systemd"

LIMITS = {"exclave.service": 2.2, "exclave-ready.service": 1.3, "exclave-join.service": 2.2}
"""The highest exposure that `systemd-analyze security` may compute. NET_ADMIN and root cost the agent most of it."""

UNITS = (*LIMITS, "exclave-ready.target")

WEAKENED = (
    "CapabilityBoundingSet=CAP",
    "RestrictAddressFamilies",
    "SystemCallErrorNumber",
    "RuntimeDirectoryPreserve",
    "KillMode",
    "StartLimitIntervalSec",
    "RestartPreventExitStatus",
)
"""Lines that give a unit more than nothing, or take a safeguard away: a comment close above has the reason."""


def lines_of(unit: str) -> list[str]:
    return (FOLDER / unit).read_text(encoding="utf-8").splitlines()


def value_of(unit: str, key: str) -> list[str]:
    """The values of each line with this key."""
    return [line.partition("=")[2] for line in lines_of(unit) if line.startswith(f"{key}=")]


def systemd_analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    need(shutil.which("systemd-analyze") is not None, "needs systemd-analyze: apt install systemd")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("unit", LIMITS)
def test_the_exposure_is_below_the_limit(unit: str) -> None:
    done = systemd_analyze("security", "--offline=true", str(FOLDER / unit))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= LIMITS[unit], done.stdout


def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    """In a root of its own, where the programs that the units start are there."""
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(FOLDER / unit, folder)
    for name in ("multi-user.target", "sysinit.target", "basic.target", "shutdown.target"):
        (folder / name).write_text("[Unit]\nDescription=of systemd\n")
    for program in ("usr/bin/exclave", "usr/bin/env", "usr/bin/systemctl"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    done = systemd_analyze("verify", "--man=no", f"--root={tmp_path}", *UNITS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_no_unit_lets_a_boot_wait_for_the_network(unit: str) -> None:
    ordered = [value_of(unit, key) for key in ("Wants", "Requires", "After")]
    assert "network-online.target" not in " ".join(value for values in ordered for value in values)


@pytest.mark.parametrize("unit", LIMITS)
def test_what_weakens_a_unit_has_its_reason(unit: str) -> None:
    lines = lines_of(unit)
    for place, line in enumerate(lines):
        if line.startswith((*WEAKENED, "StateDirectory=", "RuntimeDirectory=")):
            assert any(above.startswith("#") for above in lines[place - 3 : place]), f"{unit}: {line}"


def test_a_restart_is_not_tried_where_only_a_person_can_help() -> None:
    (codes,) = value_of("exclave.service", "RestartPreventExitStatus")
    assert [int(code) for code in codes.split()] == [fault.code for fault in NO_RESTART]


def test_a_join_is_tried_again_only_where_time_may_help() -> None:
    (codes,) = value_of("exclave-join.service", "RestartPreventExitStatus")
    may_help = {
        Fault.BUG,
        Fault.UNREACHABLE,
        Fault.CLOCK_SKEW,
        Fault.NOT_ADMITTED,
        Fault.PROXY_UNUSABLE,
        Fault.DISK,
        Fault.OCCUPIED,
        Fault.ANOTHER_AGENT,
        Fault.TOOL_HANGS,
        Fault.DOWNLOAD,
    }
    assert set(map(int, codes.split())) == {fault.code for fault in set(Fault) - may_help}


def test_a_person_may_always_start_it() -> None:
    assert value_of("exclave.service", "StartLimitIntervalSec") == ["0"]


@pytest.mark.parametrize("unit", ["exclave.service", "exclave-join.service", "exclave-proxy@.service"])
def test_no_secret_reaches_the_disk_by_a_core_dump(unit: str) -> None:
    assert value_of(unit, "LimitCORE") == ["0"]
