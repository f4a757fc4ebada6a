"""Machines that cannot be members: one message in `systemctl status`, an unchanged network, a start after the fix."""

import pytest

from exclave.link.layout import ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT
from exclave_sandbox.demo.membership import issue_token
from vm.lab import Installed, open_lab, status_of
from vm.machine import BootedMachine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1200)]

UNIT = "exclave.service"

DROP_IN = "/run/systemd/system/exclave.service.d/test.conf"

SNAPSHOT = (
    "{ nft -a list ruleset || /root/nft -a list ruleset; } 2>&1; ip -details link; ip address; "
    "ip route show table all; ip rule; "
    "find /proc/sys/net -type f -perm -400 ! -name nf_conntrack_count | sort | xargs grep -rHs . || true"
)

PACKAGE = "/usr/lib/python3/dist-packages/trio"

BROKEN = {
    "without NET_ADMIN": (
        f"mkdir -p {DROP_IN.rpartition('/')[0]}; printf '[Service]\\nCapabilityBoundingSet=\\n' >{DROP_IN}; "
        "systemctl daemon-reload",
        f"rm {DROP_IN}; systemctl daemon-reload",
        30,
        "this machine's network cannot be changed: the capability NET_ADMIN is missing",
    ),
    "without nftables": (
        "mv /usr/sbin/nft /root/nft",
        "mv /root/nft /usr/sbin/nft",
        31,
        "the program nft cannot be run: No such file or directory",
    ),
    "without a Python package": (
        f"mv {PACKAGE} /root/trio",
        f"mv /root/trio {PACKAGE}",
        36,
        "Python package is missing: trio",
    ),
    "with rules of Linkerd's init container": (
        "nft add table ip nat; nft add chain ip nat PROXY_INIT_REDIRECT; "
        "nft 'add chain ip nat PREROUTING { type nat hook prerouting priority -100; }'; "
        "nft add rule ip nat PREROUTING jump PROXY_INIT_REDIRECT",
        "nft delete table ip nat",
        37,
        "rules of Linkerd redirect this machine's traffic: chain PROXY_INIT_REDIRECT in ip nat",
    ),
    "with a mistake in config.toml": (
        "cp -p /etc/exclave/config.toml /root; echo nonsense >>/etc/exclave/config.toml",
        "cp -p /root/config.toml /etc/exclave/config.toml",
        40,
        "/etc/exclave/config.toml is not TOML: ",
    ),
}

LISTENER = "import socket, signal; taken = socket.create_server(('', {port})); signal.pause()"
"""A program that has a port on every address. {port}: its number."""

NEIGHBOUR = "cp /bin/sleep /root/spire-agent; systemd-run --quiet --unit=spire /root/spire-agent infinity"
"""A program by the name of SPIRE's agent, which is one of another mesh."""


async def show_broken(machine: BootedMachine, name: str) -> None:
    """Break the machine, start the unit, and repair the machine."""
    damage, repair, code, message = BROKEN[name]
    await machine.shell(damage)
    before = await machine.shell(SNAPSHOT)
    assert (await machine.run("systemctl", "restart", UNIT)).status != 0, name
    shown = (await machine.run("systemctl", "status", "--no-pager", "--full", UNIT)).output.decode()
    assert f"exclave: {message}" in shown, shown
    assert "  to do: " in shown, shown
    found = await machine.properties(UNIT, "ActiveState", "ExecMainStatus", "NRestarts", "StatusText")
    assert (found["ActiveState"], found["ExecMainStatus"], found["NRestarts"]) == ("failed", str(code), "0")
    assert message in found["StatusText"]
    assert await machine.shell(SNAPSHOT) == before
    for _ in range(6):  # more often than systemd's own limit for starts
        assert (await machine.run("systemctl", "start", UNIT)).status != 0
    await machine.shell(repair)
    await machine.must("systemctl", "start", UNIT)
    assert (await status_of(machine))["state"] == "unjoined"


async def test_a_machine_that_cannot_be_a_member_is_explained_and_starts_after_the_fix(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        for name in BROKEN:
            await show_broken(machine, name)
        token = (await issue_token(lab.stage, 1)).encode()
        for name in ("without nftables", "with rules of Linkerd's init container"):
            damage, repair, code, message = BROKEN[name]
            await machine.shell(damage)
            done = await machine.run("exclave", "join", "--token-file", "-", stdin=token)
            assert (done.status, done.errors.splitlines()[0]) == (code, f"exclave: {message}")
            await machine.shell(repair)
        for port in (INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT):
            await join_beside_listener(machine, port, token)
        # The token has one use, and still has it. An agent of SPIRE is in nobody's way.
        await machine.shell(NEIGHBOUR)
        done = await machine.run("exclave", "join", "--token-file", "-", stdin=token)
        assert done.status == 0, done.errors
        assert "a SPIRE agent runs here; exclave does not use it (process " in done.errors
        assert (await status_of(machine))["state"] == "ready"


async def join_beside_listener(machine: BootedMachine, port: int, token: bytes) -> None:
    """Try to join while another program has a port that the proxy needs, and end that program."""
    listener = LISTENER.format(port=port)
    await machine.must("systemd-run", "--quiet", "--unit=listener", "/usr/bin/python3", "-Ic", listener)
    await machine.shell(f"until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.1; done")
    before = await machine.shell(SNAPSHOT)
    done = await machine.run("exclave", "join", "--token-file", "-", stdin=token)
    assert done.status == 34
    assert done.errors.startswith(f"exclave: TCP port {port} is taken by python3 (process "), done.errors
    assert await machine.shell(SNAPSHOT) == before
    assert (await status_of(machine))["state"] == "unjoined"
    await machine.must("systemctl", "stop", "listener")


async def test_a_join_without_an_application_ends_with_0_and_the_reason(installed: Installed) -> None:
    async with open_lab(installed) as lab, lab.open_machine() as machine:
        await machine.boot()
        await machine.must("systemctl", "stop", "application.service")
        words = ("exclave", "join", "--token-file", "-", "--timeout", "20s", "--json")
        done = await machine.run(*words, stdin=(await lab.token()).encode())
        assert done.status == 0, done.errors
        assert '"state": "pending", "reason": "tcp 8080: ' in done.output.decode()
