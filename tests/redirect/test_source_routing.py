"""Hosts with several ways out: clients get in, the machine gets out, and replies leave by the member's way.

Each row has two uplinks. The other end of the wrong one drops what does not come from its own network, as clouds do,
and this machine checks strictly by which interface a caller may come (rp_filter).
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from exclave.redirect.rules.policy import RedirectPolicy
from exclave_sandbox.stage.namespaces import Machine

from .agent_process import start_agent
from .lab import CLUSTER4, PEER4, PEER6, PROGRAMS, Lab, as_proxies, open_lab
from .policies import PLAIN, PROXY

OWN4, FAR4, CLIENT4 = "10.78.0.20", "10.78.0.1", "10.99.0.9"
OWN6, FAR6, CLIENT6 = "fd00:78::20", "fd00:78::1", "fd00:99::9"

PATIENCE = 1.0  # seconds for a call that nobody answers: it lasts so long


@dataclass(frozen=True)
class Row:
    """A kind of host. `device`: the uplink with the member's address; `commands`: set up that link and its routes."""

    device: str
    commands: tuple[str, ...] = ()
    is_tunnel: bool = False


BY_SOURCE = (
    f"ip rule add from {OWN4} lookup 100",
    f"ip route add default via {FAR4} table 100",
    f"ip -6 rule add from {OWN6} lookup 100",
    f"ip -6 route add default via {FAR6} table 100",
)
"""As cloud-init and netplan do for a second interface."""

ROWS: dict[str, Row] = {
    "two interfaces, as cloud-init and netplan set them up": Row("eth1", BY_SOURCE),
    "two interfaces, as NetworkManager sets them up": Row(
        "eth1",
        (
            f"ip rule add pref 5 from {OWN4} lookup 5000 proto static",
            f"ip route add default via {FAR4} table 5000",
            f"ip -6 rule add pref 5 from {OWN6} lookup 5000 proto static",
            f"ip -6 route add default via {FAR6} table 5000",
        ),
    ),
    "rules for the whole network, which name the destination, too": Row(
        "eth1",
        (
            "ip rule add from 10.78.0.0/24 to 10.96.0.0/12 lookup 100",
            f"ip route add default via {FAR4} table 100",
            "ip -6 rule add from fd00:78::/64 to fd00:99::/64 lookup 100",
            f"ip -6 route add default via {FAR6} table 100",
        ),
    ),
    "a bridge": Row(
        "br0", ("ip link add br0 type bridge", "ip link set eth1 master br0", "ip link set br0 up", *BY_SOURCE)
    ),
    "a macvlan": Row("mac0", ("ip link add link eth1 name mac0 type macvlan", "ip link set mac0 up", *BY_SOURCE)),
    "an MTU of 1280": Row("eth1", ("ip link set eth1 mtu 1280", *BY_SOURCE)),
    "an MTU of 9000": Row("eth1", ("ip link set eth1 mtu 9000", *BY_SOURCE)),
    "a tunnel as wg-quick sets it up": Row(
        "wg0",
        (
            "ip route add default dev wg0 table 51820",
            "ip rule add not fwmark 51820 lookup 51820",
            "ip rule add lookup main suppress_prefixlength 0",
            "ip -6 route add default dev wg0 table 51820",
            "ip -6 rule add not fwmark 51820 lookup 51820",
            "ip -6 rule add lookup main suppress_prefixlength 0",
        ),
        is_tunnel=True,
    ),
    "a tunnel as Tailscale sets it up": Row(
        "tailscale0",
        (
            "ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main",
            "ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable",
            "ip rule add pref 5270 lookup 52",
            f"ip route add {CLIENT4} dev tailscale0 table 52",
            "ip -6 rule add pref 5210 fwmark 0x80000/0xff0000 lookup main",
            "ip -6 rule add pref 5250 fwmark 0x80000/0xff0000 unreachable",
            "ip -6 rule add pref 5270 lookup 52",
            f"ip -6 route add {CLIENT6} dev tailscale0 table 52",
        ),
        is_tunnel=True,
    ),
}

SOURCE_CHECK = """\
table inet check {
    chain inbound {
        type filter hook prerouting priority 0; policy accept;
        iifname "eth0" ip saddr != 10.77.0.0/24 drop
        iifname "eth0" ip6 saddr != { fd00:77::/64, fe80::/10 } drop
    }
}
"""
"""What the other end of the wrong uplink drops."""


async def run_all(machine: Machine, *commands: str) -> None:
    for command in commands:
        await machine.must(*command.split())


@asynccontextmanager
async def open_host(row: Row) -> AsyncIterator[tuple[Lab, Machine]]:
    """The lab, whose machine has a second uplink, and a client at its other end."""
    async with open_lab() as lab:
        far = await lab.add("far")
        await lab.peer.run("nft", "-f", "-", stdin=SOURCE_CHECK.encode())
        await run_all(lab.vm, f"ip route add default via {PEER4}", f"ip -6 route add default via {PEER6}")
        await run_all(lab.vm, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
        if row.is_tunnel:
            lab.join(lab.vm, far, row.device)
            far_device = row.device
        else:
            await lab.wire(lab.vm, "eth1", "", far, "eth1", "")
            far_device = "eth1"
        await run_all(
            far,
            f"ip link set {far_device} up",
            f"ip address add {FAR4}/24 dev {far_device}",
            f"ip -6 address add {FAR6}/64 dev {far_device} nodad",
            f"ip address add {CLIENT4}/32 dev {far_device}",
            f"ip -6 address add {CLIENT6}/128 dev {far_device} nodad",
            f"ip route add {OWN4} dev {far_device} src {CLIENT4}",
            f"ip -6 route add {OWN6} dev {far_device} src {CLIENT6}",
        )
        links = [command for command in row.commands if " link " in command]
        await run_all(lab.vm, *links)
        await run_all(
            lab.vm,
            f"ip link set {row.device} up",
            f"ip address add {OWN4}/24 dev {row.device}",
            f"ip -6 address add {OWN6}/64 dev {row.device} nodad",
        )
        await run_all(lab.vm, *(command for command in row.commands if command not in links))
        yield lab, far


def policy_for(family: int) -> RedirectPolicy:
    """The rules of a member whose address is on the second uplink."""
    return replace(PLAIN, addresses=(OWN4 if family == 4 else OWN6,), families=(4, 6))


async def is_reached(lab: Lab, far: Machine, family: int) -> bool:
    """Whether the client gets to the proxy."""
    found = await lab.call(far, OWN4 if family == 4 else OWN6, 8080, timeout=PATIENCE)
    return found.who == "proxy a"


async def list_rules(lab: Lab) -> str:
    return "".join([(await lab.vm.must("ip", word, "rule", "show")).decode() for word in ("-4", "-6")])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_a_client_gets_in_and_the_machine_gets_out(row: Row, family: int, tmp_path: Path) -> None:
    async with open_host(row) as (lab, far):
        before = await list_rules(lab)
        agent = await start_agent(lab.vm, tmp_path, policy_for(family))
        as_proxies(lab, "a")
        assert await is_reached(lab, far, family)
        assert (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"  # a program's call goes to the proxy
        place = CLIENT4 if row.is_tunnel else FAR4
        lab.listen(far, "service", f"{place}/9000")
        assert (await lab.call(lab.vm, place, 9000, uid=PROXY)).who == "service"  # and the proxy's own gets out
        await agent.end("stop")
        assert await list_rules(lab) == before


async def test_without_copies_of_the_rules_no_client_gets_in(tmp_path: Path) -> None:
    async with open_host(ROWS["two interfaces, as cloud-init and netplan set them up"]) as (lab, far):
        agent = await start_agent(lab.vm, tmp_path, policy_for(4))
        as_proxies(lab, "a")
        assert await is_reached(lab, far, 4)
        agent.kill()
        await lab.vm.must("ip", "rule", "delete", "from", "169.254.77.0/29")
        assert not await is_reached(lab, far, 4)


async def test_copies_follow_the_rules_and_are_restored(tmp_path: Path) -> None:
    async with open_host(Row("eth1", BY_SOURCE[1:2])) as (lab, far):
        agent = await start_agent(lab.vm, tmp_path, policy_for(4))
        as_proxies(lab, "a")
        assert "proto 77" not in await list_rules(lab)
        await lab.vm.must("ip", "rule", "add", "from", OWN4, "lookup", "100")
        await agent.wait_log("redirect: [routing rules for replies: added=1 deleted=0")
        assert await is_reached(lab, far, 4)
        await lab.vm.must("ip", "rule", "delete", "from", "169.254.77.0/29")  # as networkd does with rules of others
        await agent.wait_log("redirect: [routing rules for replies: added=1 deleted=0")
        assert await is_reached(lab, far, 4)
        await lab.vm.must("ip", "rule", "delete", "from", OWN4)
        await agent.wait_log("redirect: [routing rules for replies: added=0 deleted=1")
        assert "proto 77" not in await list_rules(lab)
        agent.kill()


async def test_copies_stay_when_the_agent_is_killed_and_go_without_one(tmp_path: Path) -> None:
    async with open_host(ROWS["two interfaces, as cloud-init and netplan set them up"]) as (lab, far):
        before = await list_rules(lab)
        agent = await start_agent(lab.vm, tmp_path, policy_for(4))
        as_proxies(lab, "a")
        agent.kill()
        assert await is_reached(lab, far, 4)
        remove = [sys.executable, str(PROGRAMS / "remove_source_rules.py")]
        for found in ("from 169.254.77.0/29, 1\n", "0\n"):
            assert await lab.vm.must(*remove) == found.encode()
        assert await list_rules(lab) == before
