"""Instances as units: their life with a systemctl that behaves as the real one did, and the unit's own file."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import trio

from exclave.config import ProxyConfig
from exclave.errors import Fault, HostError
from exclave.kit.host.gated import HeldProcess
from exclave.proxy.process import units as module
from exclave.proxy.process.binary import _NO_CONFIGURATION, ProxyUser
from exclave.proxy.process.units import (
    FOLDER,
    PROGRAM,
    UnitProcess,
    Units,
    check_proxy,
    environment_path,
    find_process,
    open_units,
    remove_unit_files,
    stop_all,
    unit_of,
)
from support.fake_systemd import FakeSystemd, fake_systemd
from support.needs import need

from ..lab import GID, UID, USER, write_script

NOBODY = ProxyUser(USER, UID, GID)
TOP = Path(__file__).resolve().parents[3]
PROGRAM_OF_LIFE = Path(__file__).with_name("programs") / "unit_life.py"
LIFE = Path(__file__).parent / "golden" / "unit_life.jsonl"
UNIT_FILE = TOP / "systemd" / "exclave-proxy@.service"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    """A machine with systemd, which has started this process."""
    monkeypatch.setenv("INVOCATION_ID", "1")
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    monkeypatch.setattr(module, "is_booted", lambda: True)
    yield fake_systemd(tmp_path, monkeypatch)
    subprocess.run(["systemctl", "stop", unit_of("a"), unit_of("b"), unit_of("check")], check=True)


def test_the_life_of_units_is_as_with_the_real_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The expected observations were printed by the same program on a machine with systemd 252.
    systemd = fake_systemd(tmp_path, monkeypatch)
    programs = tmp_path / "programs"
    programs.mkdir()
    done = subprocess.run(
        [sys.executable, PROGRAM_OF_LIFE, systemd.runtime, programs],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP / "agent")},
    )
    assert done.returncode == 0, done.stderr
    observed = [json.loads(line) for line in done.stdout.splitlines()]
    assert observed == [json.loads(line) for line in LIFE.read_text().splitlines()]


# Units or children


@pytest.mark.parametrize("facts", list(product([True, False], repeat=3)))
async def test_instances_are_units_only_if_systemd_runs_machine_and_agent_and_has_the_unit(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch, facts: tuple[bool, bool, bool]
) -> None:
    is_booted, is_run_by_systemd, is_installed = facts
    monkeypatch.setattr(module, "is_booted", lambda: is_booted)
    if not is_run_by_systemd:
        monkeypatch.delenv("SYSTEMD_EXEC_PID")
    systemd.install(installed=is_installed)
    assert (await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is not None) == all(facts)


async def test_an_agent_that_systemd_started_uses_the_installed_unit(systemd: FakeSystemd) -> None:
    assert await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is not None


async def test_without_systemd_nothing_is_asked_of_it(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_booted", lambda: False)
    assert await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is None
    monkeypatch.setattr(module, "is_booted", lambda: True)
    monkeypatch.delenv("SYSTEMD_EXEC_PID")
    assert await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is None
    assert systemd.commands == []


async def test_without_the_unit_s_file_proxies_are_children_and_the_log_says_so(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    systemd.install(installed=False)
    assert await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is None
    assert caplog.messages == [
        "proxy: the unit exclave-proxy@.service is not installed, so the proxies are part of the agent's unit"
    ]


async def test_another_user_than_the_unit_s_is_refused_with_both_remedies(systemd: FakeSystemd) -> None:
    systemd.install(user="daemon")
    with pytest.raises(HostError) as caught:
        await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY)
    assert (caught.value.fault, caught.value.message, caught.value.hint) == (
        Fault.PROXY_UNUSABLE,
        "[proxy] user is nobody, but exclave-proxy@.service has User=daemon",
        "give both the same user: systemctl edit exclave-proxy@.service, [Service] User=nobody; or change config.toml",
    )
    systemd.install(user=str(UID))  # the same user by its number
    assert await open_units(systemd.runtime, ProxyConfig(user=USER), NOBODY) is not None


@pytest.mark.parametrize(("limit", "warnings"), [("infinity", 0), ("1610612736", 0), (str(2**30), 1)])
async def test_a_unit_with_less_memory_than_the_agent_s_limit_is_reported(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture, limit: str, warnings: int
) -> None:
    systemd.install(memory_max=limit)
    assert await open_units(systemd.runtime, ProxyConfig(user=USER, memory_limit=2**30), NOBODY) is not None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warnings
    assert all("allows 1073741824 bytes of memory" in message for message in caplog.messages)


# Files


def test_the_proxies_etc_is_readable_by_every_user_and_complete(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        Units(tmp_path, ProxyUser("exclave-proxy", 997, 996)).write_etc("169.254.77.3")
    finally:
        os.umask(former)
    folder = tmp_path / FOLDER
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "resolv.conf": "nameserver 169.254.77.3\noptions ndots:0\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "passwd": "exclave-proxy:x:997:996::/:/usr/sbin/nologin\n",
        "group": "exclave-proxy:x:996:\n",
    }
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_folder_for_etc_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("")
    with pytest.raises(HostError) as caught:
        Units(tmp_path, NOBODY).write_etc("169.254.77.3")
    assert (caught.value.fault, caught.value.message) == (Fault.DISK, f"cannot make {tmp_path}/proxy-etc: File exists")


async def test_the_environment_is_readable_by_root_alone_and_removed_with_all_files(systemd: FakeSystemd) -> None:
    units = Units(systemd.runtime, NOBODY)
    units.write_etc("169.254.77.3")
    process = await units.start("a", write_script(systemd.runtime / "program", "exec sleep 600"), {"A": "1"})
    try:
        path = environment_path(systemd.runtime, "a")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == f'{PROGRAM}="{systemd.runtime}/program"\nA="1"\n'
    finally:
        await stop_all()
        process.close()
    for _ in range(2):
        remove_unit_files(systemd.runtime)
    assert [path.name for path in systemd.runtime.iterdir()] == ["program"]


# Failures


async def test_a_cancelled_start_leaves_no_unit(systemd: FakeSystemd) -> None:
    units = Units(systemd.runtime, NOBODY)
    program = write_script(systemd.runtime / "program", "exec sleep 600")
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.cancel()
        try:
            await units.start("a", program, {})
        finally:
            await units.undo("a")
    assert await find_process("a") is None
    stopped = [line for line in systemd.commands if " stop " in line]
    assert stopped == [f"--no-ask-password --no-block stop {unit_of('a')}"], "waiting would block while we are stopped"


async def test_a_machine_without_user_namespaces_is_named_as_the_reason(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """systemd ends such a unit with status 217/USER before its program runs."""
    limit = tmp_path / "max_user_namespaces"
    monkeypatch.setattr("exclave.kit.host.procfs.MAX_USER_NAMESPACES", limit)
    refusal = "Job for exclave-proxy@check.service failed because the control process exited with error code."
    (systemd.folder / "bin" / "systemctl").rename(systemd.folder / "systemctl")
    (systemd.folder / "bin" / "systemctl").write_text(
        f'#!/bin/sh\n[ "$2" != restart ] || {{ echo "{refusal}" >&2; exit 1; }}\nexec {systemd.folder}/systemctl "$@"\n'
    )
    (systemd.folder / "bin" / "systemctl").chmod(0o755)
    program = write_script(systemd.runtime / "program", "exit 64")
    limit.write_text("0\n")
    with pytest.raises(HostError) as refused:
        await Units(systemd.runtime, NOBODY).check(program)
    assert refused.value.message == (
        f"systemd did not start exclave-proxy@check.service: {refusal}; this machine permits no user namespaces, "
        "and the unit has PrivateUsers=yes"
    )
    assert "sysctl user.max_user_namespaces=15000" in refused.value.hint
    limit.write_text("7000\n")
    with pytest.raises(HostError) as refused:
        await Units(systemd.runtime, NOBODY).check(program)
    assert refused.value.message == f"systemd did not start exclave-proxy@check.service: {refusal}"


async def test_a_program_that_does_not_end_is_refused_and_ended(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GREETING_TIME", 1.0)
    with pytest.raises(HostError, match="was run without a configuration and did not end within"):
        await Units(systemd.runtime, NOBODY).check(write_script(systemd.runtime / "program", "exec sleep 600"))
    assert '"active"' not in (systemd.folder / unit_of("check")).read_text()


async def test_a_proxy_that_the_kernel_ended_for_its_memory_is_reported_as_such(systemd: FakeSystemd) -> None:
    units = Units(systemd.runtime, NOBODY)
    process = await units.start("b", write_script(systemd.runtime / "program", "exec sleep 600"), {})
    (systemd.folder / "oom").touch()
    os.kill(process.pid, 9)
    assert await process.wait() == "was ended by the kernel: it used more memory than its unit allows (MemoryMax)"
    process.close()


async def test_a_signal_that_systemd_refuses_is_logged_while_the_process_runs(
    systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    units = Units(systemd.runtime, NOBODY)
    process = await units.start("a", write_script(systemd.runtime / "program", "exec sleep 600"), {})
    path = systemd.folder / unit_of("a")
    path.write_text(json.dumps({**json.loads(path.read_text()), "MainPID": 0}))
    await process.send(signal.SIGTERM)
    assert caplog.messages == [
        "exclave-proxy@a.service: SIGTERM was not sent by systemd: "
        "Failed to kill unit exclave-proxy@a.service: No main process to kill"
    ]
    with trio.fail_after(30):  # it was sent without systemd
        await process.wait_end()
    path.unlink()
    process.close()


class Unsignalled(HeldProcess):
    """A process that this one may not signal, as the agent's unit may not without CAP_KILL."""

    def send(self, number: signal.Signals) -> None:
        raise PermissionError


async def test_a_process_that_nobody_can_signal_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(unit: str, number: signal.Signals) -> str:
        await trio.lowlevel.checkpoint()
        return "refused"

    monkeypatch.setattr(module, "signal_unit", refuse)
    process = UnitProcess(unit_of("a"), Unsignalled(os.getpid(), os.pidfd_open(os.getpid())), "1")
    await process.send(signal.SIGTERM)
    process.close()
    assert caplog.messages == [
        "exclave-proxy@a.service: SIGTERM was not sent by systemd: refused",
        "exclave-proxy@a.service: SIGTERM was not sent: this process may not signal it",
    ]


async def test_without_the_right_to_change_its_user_a_proxy_is_checked_by_its_unit(
    systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in exclave-join.service, which has no capabilities."""
    monkeypatch.setattr(module, "has_capability", lambda number: False)
    # systemd does not start the unit without the folder that it binds over /etc.
    bound = f"[ -e {systemd.runtime / FOLDER}/resolv.conf ] || exit 226"
    program = write_script(systemd.runtime / "program", f"{bound}; echo it cannot work; exit 3")
    config = ProxyConfig(program, USER)
    with pytest.raises(HostError) as refused:
        await check_proxy(config, systemd.runtime)
    assert refused.value.fault is Fault.PROXY_UNUSABLE
    assert refused.value.message.endswith("ended with status 3: it cannot work")
    assert not environment_path(systemd.runtime, "check").exists()
    systemd.install(installed=False)  # nothing more can be found out here than that it is there
    await check_proxy(config, systemd.runtime)
    program.unlink()
    with pytest.raises(HostError, match="there is no proxy at"):
        await check_proxy(config, systemd.runtime)


# The unit's file


def lines(section: str) -> dict[str, list[str]]:
    """The settings of a section of the unit's file."""
    text = UNIT_FILE.read_text().partition(f"[{section}]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_s_file_agrees_with_the_agent() -> None:
    service = lines("Service")
    assert service["ExecStart"] == [f"/bin/sh -c 'exec \"${PROGRAM}\"'"]
    runtime = Path("/run/exclave")
    assert service["EnvironmentFile"] == [str(environment_path(runtime, "check")).replace("check", "%i")]
    assert service["BindReadOnlyPaths"] == [f"{runtime / FOLDER}:/etc"]
    assert service["User"] == [ProxyConfig().user]
    assert service["Restart"] == ["no"]
    megabytes = int(service["MemoryMax"][0].removesuffix("M"))
    assert megabytes * 1024 * 1024 > ProxyConfig().memory_limit
    assert float(service["TimeoutStopSec"][0].removesuffix("s")) > ProxyConfig().drain


def test_the_agent_stops_before_the_proxies() -> None:
    assert lines("Unit")["Before"] == ["exclave.service"]


def test_a_refused_system_call_is_an_error_and_not_the_proxy_s_end() -> None:
    assert lines("Service")["SystemCallErrorNumber"] == ["EPERM"]


def test_a_unit_that_has_ended_is_not_forgotten_while_the_agent_runs() -> None:
    agent = (UNIT_FILE.parent / "exclave.service").read_text()
    assert f"After={unit_of('a')} {unit_of('b')} {unit_of('check')}" in agent.splitlines()


def test_the_status_without_a_configuration_is_a_success_for_the_check_alone() -> None:
    assert "SuccessExitStatus" not in lines("Service")
    (file,) = (UNIT_FILE.parent / f"{unit_of('check')}.d").iterdir()
    settings = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert settings == ["[Service]", f"SuccessExitStatus={_NO_CONFIGURATION}", "RemainAfterExit=yes"]


def test_the_unit_is_exposed_to_at_most_1_3(tmp_path: Path) -> None:
    need(shutil.which("systemd-analyze") is not None, "needs systemd-analyze: apt install systemd")
    instance = shutil.copy(UNIT_FILE, tmp_path / "exclave-proxy@a.service")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(instance)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 1.3
