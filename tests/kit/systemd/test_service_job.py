"""The job of our own unit, from the kernel's and systemd's texts."""

import os
from pathlib import Path

import pytest
import trio.testing

from exclave.kit.systemd import service_job
from exclave.kit.systemd.service_job import ANSWER_TIME, find_job, find_unit, read_own_job

CGROUPS = {
    "0::/system.slice/exclave.service\n": "exclave.service",
    "0::/system.slice/exclave.service/below\n": "exclave.service",
    "0::/machine.slice/machine-a.scope/payload/system.slice/exclave.service\n": "exclave.service",
    "12:pids:/x.service\n1:name=systemd:/system.slice/exclave.service\n0::/y.scope\n": "exclave.service",
    "0::/user.slice/user-0.slice/session-1.scope\n": None,
    "0::/\n": None,
    "": None,
    "no cgroup\n": None,
}

JOBS = "12 other.service restart running\n13 exclave.service {} running\n"


@pytest.mark.parametrize(("text", "unit"), CGROUPS.items())
def test_the_unit_is_the_service_in_the_cgroup(text: str, unit: str | None) -> None:
    assert find_unit(text) == unit


@pytest.mark.parametrize("job", ["restart", "stop", "start"])
def test_the_job_is_that_of_the_unit(job: str) -> None:
    assert find_job(JOBS.format(job), "exclave.service") == job


@pytest.mark.parametrize("listed", ["", "No jobs running.\n", JOBS.replace("exclave", "exclave-ready")])
def test_other_jobs_are_not_ours(listed: str) -> None:
    assert find_job(listed.format("restart"), "exclave.service") is None


class Host:
    """A host with systemd, where this process is in a unit's cgroup and `systemctl` is a script."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "system").mkdir()
        (folder / "cgroup").write_text("0::/system.slice/exclave.service\n")
        monkeypatch.setattr(service_job, "SYSTEMD", folder / "system")
        monkeypatch.setattr(service_job, "_CGROUP", folder / "cgroup")
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")

    def systemctl(self, script: str) -> None:
        program = self.folder / "bin" / "systemctl"
        program.write_text(f'#!/bin/sh\necho "$@" > {self.folder}/asked\n{script}\n')
        program.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


async def test_systemd_is_asked_for_the_job_of_our_own_unit(host: Host) -> None:
    host.systemctl("echo '5 exclave.service restart running'")
    assert await read_own_job() == "restart"
    assert (host.folder / "asked").read_text().split() == ["list-jobs", "--no-legend", "--full", "exclave.service"]


async def test_without_systemd_or_outside_of_a_service_nobody_is_asked(host: Host) -> None:
    host.systemctl("echo '5 exclave.service restart running'")
    (host.folder / "cgroup").write_text("0::/user.slice/session-1.scope\n")
    assert await read_own_job() is None
    (host.folder / "cgroup").write_text("0::/system.slice/exclave.service\n")
    (host.folder / "system").rmdir()
    assert await read_own_job() is None
    assert not (host.folder / "asked").exists()


async def test_a_systemctl_that_is_missing_means_no_job(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.folder / "bin"))
    assert await read_own_job() is None


async def test_a_systemd_that_does_not_answer_means_no_job(
    host: Host, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(arguments: list[str], *, timeout: float) -> None:
        with trio.fail_after(timeout):
            await trio.sleep_forever()

    monkeypatch.setattr(service_job, "run_command", silent)
    began = trio.current_time()
    assert await read_own_job() is None
    assert trio.current_time() - began == ANSWER_TIME
