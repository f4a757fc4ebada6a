"""Containers bridged on the host: not captured by default, and published ports still work.

A namespace of its own behind a bridge docker0 is the container; Docker's rules are those that Docker 20.10 writes, put
into the kernel by the real iptables-nft. Source of the rules: moby/moby, libnetwork/drivers/bridge/setup_ip_tables.go.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from exclave_sandbox.stage.namespaces import Machine

from .lab import CLUSTER4, CLUSTER6, PEER4, VM4, CallResult, Lab, open_lab, open_rules
from .policies import PLAIN, PROXY

POLICY = replace(PLAIN, addresses=(VM4,), networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))
CAPTURING = replace(POLICY, capture_interfaces=("docker0",))

CONTAINER, NEIGHBOUR, CONTAINER6 = "172.17.0.2", "172.17.0.3", "fd00:17::2"

DOCKER = """\
*nat
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
-P FORWARD DROP
-N DOCKER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
"""
"""Ports 8080 and 8081 of the machine are published: both lead to port 80 of the container."""


@dataclass
class Town:
    """The lab, with containers on its `vm`."""

    lab: Lab
    container: Machine
    neighbour: Machine

    async def start_docker(self) -> None:
        """Put Docker's rules into the kernel."""
        done = await self.lab.vm.run("iptables-nft-restore", "--noflush", stdin=DOCKER.encode())
        assert done.errors == ""


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    async with open_lab() as lab:
        vm = lab.vm
        await vm.must("ip", "link", "add", "docker0", "type", "bridge")
        for address in ("172.17.0.1/16", "fd00:17::1/64"):
            await vm.add_address(address, "docker0")
        await vm.must("ip", "link", "set", "docker0", "up")
        await vm.must(
            "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        )
        machines = []
        for number, address in ((1, CONTAINER), (2, NEIGHBOUR)):
            machine = await lab.add(f"container{number}")
            await machine.must("ip", "link", "set", "eth0", "down")
            await lab.wire(vm, f"veth{number}", "", machine, "eth1", f"{address}/16")
            await vm.must("ip", "link", "set", f"veth{number}", "master", "docker0")
            await machine.must("ip", "route", "add", "default", "via", "172.17.0.1")
            machines.append(machine)
        await machines[0].must("ip", "address", "add", f"{CONTAINER6}/64", "dev", "eth1", "nodad")
        await machines[0].must("ip", "route", "add", "default", "via", "fd00:17::1")
        await lab.peer.must("ip", "route", "add", "fd00:17::/64", "via", "fd00:77::20")
        lab.listen(machines[0], "container", f"{CONTAINER}/80")
        lab.listen(machines[1], "neighbour", f"{NEIGHBOUR}/80")
        lab.listen(
            lab.peer, "peer", f"{PEER4}/80", *(f"{CLUSTER4}/{port}" for port in (22, 80, 6443)), f"{CLUSTER6}/80"
        )
        yield Town(lab, *machines)


@pytest.mark.parametrize("first", ["Docker's rules", "exclave's rules"])
async def test_published_ports_go_on_working_and_those_of_the_group_use_the_proxy(first: str) -> None:
    """Whoever's rules came first: among equals the kernel asks the last that came, and equals we are not."""
    async with open_town() as town, open_rules(town.lab, POLICY):
        if first == "Docker's rules":
            await town.lab.nft("delete", "table", "inet", "exclave")
        await town.start_docker()
        if first == "Docker's rules":
            await town.lab.load(POLICY)
        lab = town.lab
        assert (await lab.call(lab.peer, VM4, 8081)).who == "container"
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("proxy a", (VM4, 8080))
        # And what the proxy then calls, from this machine, is what Docker has published.
        assert (await lab.call(lab.vm, VM4, 8080, uid=PROXY)).who == "container"
        assert (await lab.call(lab.vm, VM4, 8080)).who == "container"


async def test_containers_are_not_captured_by_default() -> None:
    async with open_town() as town, open_rules(town.lab, POLICY):
        await town.start_docker()
        lab = town.lab
        for address in (CLUSTER4, PEER4):
            assert await lab.call(town.container, address, 80) == CallResult("peer")
        assert await lab.call(town.container, CLUSTER6, 80) == CallResult("peer")
        assert await lab.call(lab.vm, CLUSTER4, 80) == CallResult("proxy a", (CLUSTER4, 80))


async def test_containers_of_a_captured_bridge_are_captured_like_local_programs() -> None:
    """With what Docker, strict reverse path filters and bridged packets that pass the rules may add to that."""
    async with open_town() as town, open_rules(town.lab, CAPTURING):
        await town.start_docker()
        lab = town.lab
        lab.listen(lab.vm, "application", f"{VM4}/9100", "172.17.0.1/9100")
        for setting in ("ipv4/conf/all/rp_filter", "bridge/bridge-nf-call-iptables"):
            await lab.vm.must("sh", "-c", f"echo 1 > /proc/sys/net/{setting}")
        links = await lab.vm.must("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/route_localnet")
        assert set(links.split()) == {b"0"}  # the proxy's addresses are link-local, not loopback, so none is needed
        for address in (CLUSTER4, CLUSTER6):
            assert await lab.call(town.container, address, 80) == CallResult("proxy a", (address, 80)), address
        for why, (address, port), who in (
            ("SSH", (CLUSTER4, 22), "peer"),
            ("no network of the cluster", (PEER4, 80), "peer"),
            ("another container", (NEIGHBOUR, 80), "neighbour"),
            ("this machine", (VM4, 9100), "application"),
            ("this machine's end of the bridge", ("172.17.0.1", 9100), "application"),
            ("the private link, bare", ("169.254.77.1", 4140), "TimeoutError"),
        ):
            assert (await lab.call(town.container, address, port, timeout=0.5)).who == who, why
        assert await lab.call(town.container, VM4, 8080, timeout=0.5) == CallResult(
            "proxy a", (VM4, 8080)
        )  # a port of the group


async def test_connections_between_containers_are_never_captured() -> None:
    everything = replace(CAPTURING, networks=None)
    async with open_town() as town, open_rules(town.lab, everything):
        await town.start_docker()
        lab = town.lab
        await lab.vm.must("sh", "-c", "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables")
        assert await lab.call(town.container, PEER4, 80) == CallResult("proxy a", (PEER4, 80))
        assert await lab.call(town.container, NEIGHBOUR, 80) == CallResult("neighbour")
        without = [
            line
            for line in (await lab.nft("-a", "list", "table", "inet", "exclave")).splitlines()
            if "oifname" in line and "fib" in line
        ]
        (rule,) = without
        await lab.nft("delete", "rule", "inet", "exclave", "forwarded", "handle", rule.split()[-1])
        assert (await lab.call(town.container, NEIGHBOUR, 80)).who == "proxy a"  # so that rule excludes it


async def test_connections_to_containers_of_an_excluded_interface_are_not_captured() -> None:
    """Linkerd's default for the cluster's networks holds every private one, and so Docker's."""
    networks = ("10.0.0.0/8", "172.16.0.0/12")
    async with open_town() as town, open_rules(town.lab, replace(POLICY, networks=networks)):
        lab = town.lab
        assert (await lab.call(lab.vm, CONTAINER, 80)).who == "proxy a"
        await lab.load(replace(POLICY, networks=networks, exempt_outbound_interfaces=("docker0",)))
        assert (await lab.call(lab.vm, CONTAINER, 80)).who == "container"
