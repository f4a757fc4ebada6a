"""Ansible over ssh against three booted machines: the collection installs, joins, upgrades, goes back and leaves.

The join token is made on the control host by the real kubectl and must not appear anywhere.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from exclave.api.join_token import decode_token, encode_token
from exclave.api.requests import MEMBERS, list_all
from exclave_sandbox.demo.membership import issue_token
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from support.figures import add_figure
from support.needs import need
from support.release import RELEASE_TOOLS
from vm.control_host import SETTINGS, WITH_FACTS, ControlHost, Played, open_control_host
from vm.lab import Lab, Packages, nothing_runs, proxy_pids, state_of
from vm.machine import LIMIT, BootedMachine
from vm.packages import BAD, OLD
from vm.repository import make_repository
from vm.roots import DEBIANS
from vm.traffic import open_load

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800), pytest.mark.parametrize("debian", DEBIANS)]

TOKEN = r"exclave1_[A-Za-z0-9_-]{40,}"
JOINED = {"namespace": mesh.NAMESPACE, "group": mesh.GROUP, "accept": "ready", "config": SETTINGS}
AT_ONCE = {"serial": ["100%"]}
STEADY = 40  # requests each way before and after an event

COPY, SETTLE = "Copy the package to the host", "Write the settings and reload the agent"
CREATE, JOIN = "Create a join token on the control host", "Join, and wait until the host passes the health gate"
KEY, DEFINE, FROM_REPOSITORY = (
    "Write the repository's key",
    "Define the repository",
    "Install the package from a repository",
)
INSTALL, WOULD_INSTALL = "Install the package from the file", "Install the package (check mode)"
LEAVE, REMOVE, FILE = "Leave the mesh", "Remove the package", "Remove the package's file"

SAMPLES = "while :; do ps -eww -o args=; sleep 0.1; done >/root/samples"


def succeeded(played: Played) -> Played:
    assert played.code == 0, played.output[-6000:]
    return played


def settled(played: Played, machines: Sequence[BootedMachine], *tasks: str) -> None:
    """On each machine, exactly these tasks changed something."""
    assert {machine.name: played.changed(machine.name) for machine in machines} == {
        machine.name: list(tasks) for machine in machines
    }


async def expect_no_token(control: ControlHost, *played: Played) -> None:
    """No join token is in what Ansible printed, logged or gave to callbacks, nor on a machine."""
    texts = [text for one in played for text in (one.output, json.dumps(one.results))]
    texts.append((control.folder / "ansible.log").read_text())
    for machine in control.machines:
        texts += [await machine.journal(), await machine.shell("cat /root/samples")]
        # grep ends with 1 where it finds nothing.
        found = await machine.run("grep", "-rlE", TOKEN, "/etc", "/root", "/run", "/tmp", "/var", "/dev/shm")
        assert (found.status, found.output) == (1, b""), (machine.name, found)
    assert all(texts)
    assert [re.findall(TOKEN, text) for text in texts if re.search(TOKEN, text)] == []
    on_control_host = [path for path in control.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in on_control_host if re.search(TOKEN.encode(), path.read_bytes())] == []


async def versions(control: ControlHost) -> list[str]:
    show = ("dpkg-query", "--show", "--showformat=${Version}", "exclave")
    return [await machine.must(*show) for machine in control.machines]


async def members(lab: Lab) -> list[str]:
    listed = await lab.stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE))
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_three_machines_join_nothing_changes_twice_and_they_leave(debian: str, packages: Packages) -> None:
    async with open_control_host(debian, packages) as (lab, control):
        machines, wanted = control.machines, {**JOINED, **AT_ONCE, "package_file": str(packages.new)}
        for machine in machines:
            await machine.shell(f"systemd-run --quiet --unit=samples -- sh -c '{SAMPLES}'")

        checked = succeeded(await control.play("roll_out", "--check", "--diff", **wanted))
        settled(checked, machines, COPY, WOULD_INSTALL, SETTLE, JOIN)
        assert f"+a member of {mesh.NAMESPACE}/{mesh.GROUP}" in checked.output
        assert '+drain = "2s"' in checked.output
        assert [machine.name for machine in machines if (machine.root / "usr/bin/exclave").exists()] == []
        assert await members(lab) == []

        first = succeeded(await control.play(WITH_FACTS, "--diff", **wanted))
        assert "exclave_before" in first.output
        settled(first, machines[:1], COPY, INSTALL, SETTLE, CREATE, JOIN)
        settled(first, machines[1:], COPY, INSTALL, SETTLE, JOIN)
        assert [await state_of(machine) for machine in machines] == ["ready"] * len(machines)
        assert len(await members(lab)) == len(machines)

        second = succeeded(await control.play("roll_out", "--diff", **wanted))
        settled(second, machines)
        facts = {one["host"]: one["result"]["ansible_facts"] for one in second.results if "facts" in one["task"]}
        assert {host: found["exclave"]["outcome"] for host, found in facts.items()} == {
            machine.name: "ready" for machine in machines
        }
        add_figure(
            f"{debian}: a playbook over {len(machines)} machines: installs and joins in {first.seconds:.0f} s; "
            f"the second run, which changes nothing, in {second.seconds:.0f} s"
        )
        await expect_no_token(control, checked, first, second)
        await changed_settings(control, wanted)
        await leaving(lab, control)


async def changed_settings(control: ControlHost, wanted: dict[str, Any]) -> None:
    """Wrong settings are refused, also in check mode. Right ones are in use after the play."""
    machines, file = control.machines, "etc/exclave/config.toml"
    before = [(machine.root / file).read_text() for machine in machines]
    for options in (("--check",), ()):
        wrong = await control.play("roll_out", *options, **{**wanted, "config": {"member": {"zone": "?", "zones": 1}}})
        assert wrong.code == 2
        assert "member.zones: no such key" in wrong.failure("vm1")
        assert "member.zone: a label's value such as eu-1a was expected" in wrong.failure("vm1")
        assert [(machine.root / file).read_text() for machine in machines] == before
    zone = {**wanted, "config": {**SETTINGS, "member": {"zone": "eu-1a"}}}
    checked = succeeded(await control.play("roll_out", "--check", "--diff", **zone))
    settled(checked, machines, SETTLE)
    assert '+zone = "eu-1a"' in checked.output
    assert [(machine.root / file).read_text() for machine in machines] == before
    succeeded(await control.play("roll_out", **zone))
    assert [await state_of(machine) for machine in machines] == ["ready"] * len(machines)


async def leaving(lab: Lab, control: ControlHost) -> None:
    machines, gone = control.machines, {**AT_ONCE, "remove_package": True}
    checked = succeeded(await control.play("leave", "--check", "--diff", **gone))
    settled(checked, machines, LEAVE, REMOVE, FILE)
    assert "-tables: inet exclave" in checked.output
    assert [await state_of(machine) for machine in machines] == ["ready"] * len(machines)
    left = succeeded(await control.play("leave", **gone))
    settled(left, machines, LEAVE, REMOVE, FILE)
    for machine in machines:
        await nothing_runs(machine)
        assert not (machine.root / "usr/bin/exclave").exists()

    async def remaining() -> list[str]:
        return await members(lab)

    with trio.fail_after(LIMIT):
        await eventually("no Member", remaining, lambda names: names == [], 0.2)
    settled(succeeded(await control.play("leave", **gone)), machines)


async def test_an_upgrade_fails_no_request_and_a_host_that_fails_goes_back(debian: str, packages: Packages) -> None:
    async with open_control_host(debian, packages) as (lab, control):
        machines = control.machines
        succeeded(await control.play("roll_out", **JOINED, **AT_ONCE, package_file=str(packages.old)))
        assert await versions(control) == [OLD] * len(machines)
        async with open_load(lab.stage, machines[0]) as load:
            await load.more(STEADY)
            proxies = [await proxy_pids(machine) for machine in machines]

            before = await load.figures()
            upgraded = succeeded(await control.play("roll_out", **JOINED, package_file=str(packages.new)))
            settled(upgraded, machines, COPY, INSTALL)
            await load.more(STEADY)
            for way, counts in (await load.since(before)).items():
                add_figure(
                    f"{debian}: an upgrade of {len(machines)} machines one by one in {upgraded.seconds:.0f} s: "
                    f"{way}: {counts}"
                )
                assert (counts.failed, counts.plain, counts.broken) == (0, 0, 0), counts
            new = await versions(control)
            assert OLD not in new

            before = await load.figures()
            failed = await control.play("roll_out", **JOINED, package_file=str(packages.bad), timeout=15)
            assert failed.code == 2
            assert failed.hosts() == {"vm1"}  # the others are untouched
            assert "no agent runs on this machine" in failed.failure("vm1")
            assert "and so is the version" in failed.failure("vm1")
            assert await versions(control) == new
            assert BAD not in new
            await lab.wait_ready(machines[0])
            await load.more(STEADY)
            for way, counts in (await load.since(before)).items():
                add_figure(f"{debian}: a version that does not start, and the way back: {way}: {counts}")
                assert (counts.failed, counts.plain, counts.broken) == (0, 0, 0), counts
            assert [await proxy_pids(machine) for machine in machines] == proxies
        settled(succeeded(await control.play("roll_out", **JOINED, package_file=str(packages.new))), machines)


async def test_a_host_that_cannot_join_or_is_not_ready_fails_with_the_reason(debian: str, packages: Packages) -> None:
    async with open_control_host(debian, packages, machines=1) as (lab, control):
        [machine] = control.machines
        line = await issue_token(lab.stage, 9)
        wanted = {**JOINED, "package_file": str(packages.new), "timeout": 20}

        token = decode_token(line)
        # The server refuses the signature with 401, as it refuses a token that has ended.
        ended = encode_token(replace(token, token=f"{token.token[:-8]}AAAAAAAA", expires=1.0))
        expired = await control.play("roll_out", **wanted, token=ended)
        assert expired.code == 2
        assert "expired" in expired.failure("vm1")
        assert "membership and settings are as before" in expired.failure("vm1")
        assert await state_of(machine) == "unjoined"
        assert "drain" not in (machine.root / "etc/exclave/config.toml").read_text().replace("#drain", "")

        await machine.shell("systemctl stop application")
        strict = await control.play("roll_out", **wanted, token=line)
        assert strict.code == 2
        assert "is not ready: tcp 8080" in strict.failure("vm1")
        assert await state_of(machine) == "unjoined"

        lenient = {**wanted, "accept": "no-application"}
        joined = succeeded(await control.play("roll_out", **lenient, token=line))
        printed = " ".join(joined.output.split())  # in lines of 80 columns
        assert "gets no traffic yet, since no application answers: tcp 8080" in printed
        settled(succeeded(await control.play("roll_out", **lenient)), [machine])
        assert await state_of(machine) == "pending"

        other = await control.play("roll_out", **{**lenient, "group": "api"})
        assert "whose group is web, not api: let it leave first" in other.failure("vm1")
        await machine.shell("systemctl start application")
        settled(succeeded(await control.play("roll_out", **wanted)), [machine])


async def test_a_repository_is_verified_and_an_upgrade_comes_from_it(
    debian: str, packages: Packages, tmp_path: Path
) -> None:
    for program in ("gpg", "apt-ftparchive"):
        need(shutil.which(program) is not None, f"a repository needs {program} ({RELEASE_TOOLS[program]})")
    key = make_repository(tmp_path / "repository", [packages.old, packages.new])
    wrong_key = make_repository(tmp_path / "another", [packages.old])
    async with open_control_host(debian, packages, machines=1) as (_, control):
        [machine] = control.machines
        machine.copy(tmp_path / "repository", "/srv/exclave")
        # A machine without a network can read no other repository, so what exclave needs is there before.
        machine.copy(packages.new, "/root/new.deb")
        await machine.shell(
            'needed=$(dpkg-deb --field /root/new.deb Depends); export DEBIAN_FRONTEND=noninteractive; '
            'apt-get -qq -y satisfy "$needed"; rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*'
        )  # fmt: skip
        wanted = {**JOINED, "repository_url": "file:/srv/exclave", "repository_key": key}

        refused = await control.play("roll_out", **{**wanted, "repository_key": wrong_key})
        assert refused.code == 2
        assert "Failed to update apt cache" in refused.failure("vm1")
        assert not (machine.root / "usr/bin/exclave").exists()

        for file in ("/etc/apt/sources.list.d/exclave.sources", "/etc/apt/keyrings/exclave.asc"):
            (machine.root / file.lstrip("/")).unlink()
        checked = succeeded(await control.play("roll_out", "--check", "--diff", **wanted, version=OLD))
        settled(checked, [machine], KEY, DEFINE, WOULD_INSTALL, SETTLE, JOIN)
        first = succeeded(await control.play("roll_out", **wanted, version=OLD))
        settled(first, [machine], KEY, DEFINE, FROM_REPOSITORY, SETTLE, CREATE, JOIN)
        assert await versions(control) == [OLD]
        settled(succeeded(await control.play("roll_out", **wanted)), [machine])
        settled(succeeded(await control.play("roll_out", **wanted, version="latest")), [machine], FROM_REPOSITORY)
        assert await versions(control) != [OLD]
        # The way back from a repository: a member of another group fails, after its package was downgraded.
        before = await versions(control)
        other = await control.play("roll_out", **{**wanted, "group": "api"}, version=OLD)
        assert "and so is the version" in other.failure("vm1")
        assert await versions(control) == before
