"""Real programs that change the host's rules, while traffic flows: what becomes of ours, of connections, and of theirs.

Each may flush any rules. In the end our rules are in place, new connections reach the proxy, no connection that lived
was reset, and what the program made is as it made it.
"""

import platform
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from exclave.kit.tasks.nursery import shielded
from exclave.redirect.keepalive import remove_keepalive
from redirect.debian_packages import unpacked
from support.needs import need

from .agent_process import AgentProcess, start_agent
from .lab import CLUSTER4, CLUSTER6, VM4, CallResult, Flows, Lab, as_proxies, open_lab
from .policies import PLAIN

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

EACH = 5

NFTABLES_CONF = """\
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy accept;
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
    }
    chain output {
        type filter hook output priority filter; policy accept;
    }
}
"""
"""Debian's /etc/nftables.conf, which `systemctl restart nftables` loads."""

DOCKER = """\
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8088 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""
"""What dockerd 20.10 makes for one published port, without the address type that not every kernel has."""

Act = Callable[[Lab], Awaitable[None]]


async def load_nftables_conf(lab: Lab) -> None:
    assert (await lab.vm.run("nft", "-f", "-", stdin=NFTABLES_CONF.encode())).errors == ""


def docker(kind: str) -> Act:
    """dockerd comes, and goes as it does: chains emptied one by one, and at the worst whole tables."""

    async def come_and_go(lab: Lab) -> None:
        need(shutil.which(f"iptables-{kind}") is not None, f"iptables-{kind} is not installed")
        done = await lab.vm.run(f"iptables-{kind}-restore", "--noflush", stdin=DOCKER.encode())
        assert done.status == 0, done.errors
        for table in ("filter", "nat"):
            await lab.vm.must(f"iptables-{kind}", "-t", table, "-F")
            await lab.vm.must(f"iptables-{kind}", "-t", table, "-X")

    return come_and_go


BUS = """\
<busconfig>
  <type>system</type><listen>unix:path={folder}/bus</listen><auth>EXTERNAL</auth>
  <policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"""

FIREWALLD = (
    "firewalld", "python3-firewall", "python3-nftables", "python3-gi", "python3-dbus", "python3-cap-ng", "libcap-ng0",
    "libgirepository-1.0-1", "gir1.2-glib-2.0",
)  # fmt: skip


async def firewalld(lab: Lab) -> None:
    """firewalld itself, on a bus of its own: it starts, is reloaded, and ends."""
    files = unpacked(*FIREWALLD)
    need(shutil.which("dbus-daemon") is not None, "dbus-daemon is not installed")
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "bus.conf").write_text(BUS.format(folder=made))
        shutil.copytree(files / "etc/firewalld", Path(made, "etc"))
        libraries = f"{files}/usr/lib/{machine_triplet()}"
        inside = [
            "env",
            f"PYTHONPATH={files}/usr/lib/python3/dist-packages",
            f"LD_LIBRARY_PATH={libraries}",
            f"GI_TYPELIB_PATH={libraries}/girepository-1.0",
            f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={made}/bus",
        ]
        places = [
            f"--default-config={files}/usr/lib/firewalld",
            f"--system-config={made}/etc",
            f"--log-file={made}/log",
        ]
        async with running(lab, "dbus-daemon", f"--config-file={made}/bus.conf", "--nofork"):
            await wait_until(trio.Path(made, "bus").exists)
            daemon = [*inside, "/usr/bin/python3", f"{files}/usr/sbin/firewalld", "--nofork", "--nopid", *places]
            ask = [*inside, "/usr/bin/python3", f"{files}/usr/bin/firewall-cmd"]
            async with running(lab, *daemon):

                async def runs() -> bool:
                    return (await lab.vm.run(*ask, "--state")).status == 0

                await wait_until(runs)
                assert (await lab.vm.must(*ask, "--reload")).strip() == b"success"
                assert "table inet firewalld" in await lab.nft("list", "tables")


async def dockerd(lab: Lab) -> None:
    """dockerd itself: it starts, makes a bridge and rules, and ends."""
    files = unpacked("docker.io", "containerd", "runc")
    need(shutil.which("iptables") is not None, "iptables is not installed")
    with tempfile.TemporaryDirectory() as made:
        places = [f"--{name}={made}/{name}" for name in ("data-root", "exec-root", "pidfile")]
        places += [f"--host=unix://{made}/docker.sock", "--storage-driver=vfs", "--bip=172.17.0.1/16"]
        path = f"PATH={files}/usr/sbin:{files}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        async with running(lab, "env", path, "dockerd", *places):

            async def has_rules() -> bool:
                return b"chain DOCKER" in (await lab.vm.run("nft", "list", "table", "ip", "nat")).output

            await wait_until(has_rules)
        await lab.vm.run("ip", "link", "delete", "docker0")


def machine_triplet() -> str:
    return f"{platform.machine()}-linux-gnu"


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll: these programs report nothing."""
    while not await condition():  # noqa: ASYNC110
        await trio.sleep(0.05)


@asynccontextmanager
async def running(lab: Lab, *command: str) -> AsyncIterator[None]:
    """Run a daemon inside the machine while the block runs."""
    pidfile = ["sh", "-c", 'echo $$ && exec "$@" >/dev/null 2>&1', "sh"]
    started = subprocess.Popen(lab.vm.command(*pidfile, *command), stdout=subprocess.PIPE)
    assert started.stdout is not None
    pid = started.stdout.readline().decode().strip()
    started.stdout.close()
    try:
        with trio.fail_after(60):
            yield
    finally:
        with shielded(60.0):
            await lab.vm.run("kill", pid)
            await trio.to_thread.run_sync(started.wait)


OTHERS: dict[str, tuple[Act, bool]] = {
    "systemctl restart nftables": (load_nftables_conf, True),
    "firewalld, from its start to its end": (firewalld, False),
    "dockerd, from its start to its end": (dockerd, False),
    "Docker by iptables-nft": (docker("nft"), False),
    "Docker by iptables-legacy": (docker("legacy"), False),
}
"""What they do, and whether that removes our rules."""


@asynccontextmanager
async def open_machine(runtime: Path) -> AsyncIterator[tuple[Lab, AgentProcess]]:
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, runtime, POLICY)
        try:
            as_proxies(lab, "a")
            yield lab, agent
        finally:
            agent.kill()
            await remove_keepalive(runtime)


async def alive(flows: tuple[Flows, ...]) -> int:
    return sum([len(await each.alive()) for each in flows])


@pytest.mark.parametrize(("act", "flushes"), OTHERS.values(), ids=OTHERS)
async def test_no_other_program_resets_a_connection_or_removes_our_rules_for_good(
    act: Act, flushes: bool, tmp_path: Path
) -> None:
    async with open_machine(tmp_path) as (lab, agent):
        flows = (
            lab.flows(lab.peer, EACH, f"{VM4}/8080"),
            lab.flows(lab.vm, EACH, f"{CLUSTER4}/80", f"{CLUSTER6}/80"),
        )
        for _ in range(2):
            await act(lab)
            if flushes:
                await agent.wait_log("redirect: [action=repair")
            assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080))
            assert await lab.call(lab.vm, CLUSTER6, 80) == CallResult("proxy a", (CLUSTER6, 80))
            assert await alive(flows) == 3 * EACH
        if flushes:
            assert "policy accept" in await lab.nft("list", "table", "inet", "filter")  # theirs is as they made it
        else:
            assert not [line for line in agent.logs if "another program changed" in line]


async def test_a_published_port_still_leads_to_its_container(tmp_path: Path) -> None:
    need(shutil.which("iptables-nft") is not None, "iptables-nft is not installed")
    async with open_machine(tmp_path) as (lab, _):
        for words in ("link add docker0 type bridge", "address add 172.17.0.2/16 dev docker0", "link set docker0 up"):
            await lab.vm.must("ip", *words.split())
        lab.listen(lab.vm, "container", "172.17.0.2/80")
        assert (await lab.vm.run("iptables-nft-restore", "--noflush", stdin=DOCKER.encode())).status == 0
        assert (await lab.call(lab.peer, VM4, 8088)).who == "container"
        assert (await lab.call(lab.peer, VM4, 8080)).who == "proxy a"
