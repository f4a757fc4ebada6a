"""Never captured, whatever is configured: every row with real connections, under rules that capture all that they can.

The rules are made from settings, configuration and host exclusions, as in an agent. Control rows show that these rules
do capture, so that no row passes because rules are missing.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from exclave.api.group import Port
from exclave.config import RedirectConfig
from exclave.redirect.rules.policy import HostExclusions, Server, make_policy
from support.mesh import make_settings

from .lab import CLUSTER4, CLUSTER6, PEER4, VM4, CallResult, Lab, open_lab, open_rules, read_program
from .policies import PROXY

SSHD, SESSION = 2222, 2022
OPERATOR = "10.42.0.77"

GREEDY = make_policy(
    make_settings(ports=tuple(Port(str(port), port) for port in (22, SSHD, SESSION, 8080)), capture="all"),
    RedirectConfig(capture_interfaces=("eth0",)),
    instance="a",
    addresses=(VM4,),
    proxy_uid=PROXY,
    servers=(Server(CLUSTER4, 6443), Server(CLUSTER6, 6443)),
    exclusions=HostExclusions(ssh_ports=(SSHD, SESSION), ssh_peers=(OPERATOR,)),
)

METADATA = (
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
)

Call = Callable[[Lab], Coroutine[Any, Any, CallResult]]

HERE: dict[str, tuple[Call, str]] = {
    "SSH from outside": (lambda lab: lab.call(lab.peer, VM4, 22), "application"),
    "an sshd elsewhere, from outside": (lambda lab: lab.call(lab.peer, VM4, SSHD), "application"),
    "the port of the session that started the agent": (lambda lab: lab.call(lab.peer, VM4, SESSION), "application"),
    "[control] another port from outside": (lambda lab: lab.call(lab.peer, VM4, 8080), "proxy a"),
    "SSH to others": (lambda lab: lab.call(lab.vm, PEER4, 22), "peer"),
    "SSH to others in the cluster": (lambda lab: lab.call(lab.vm, CLUSTER6, 22), "peer"),
    "SSH to others where they listen as we do": (lambda lab: lab.call(lab.vm, CLUSTER4, SSHD), "peer"),
    "the peer of the agent's SSH session": (lambda lab: lab.call(lab.vm, OPERATOR, 50000), "peer"),
    "the API server": (lambda lab: lab.call(lab.vm, CLUSTER4, 6443), "peer"),
    "the API server over IPv6": (lambda lab: lab.call(lab.vm, CLUSTER6, 6443), "peer"),
    **{
        f"metadata at {address}": (lambda lab, address=address: lab.call(lab.vm, address, 80), "peer")  # type: ignore[misc]
        for address in METADATA
    },
    "link-local": (lambda lab: lab.call(lab.vm, "169.254.9.9", 80), "peer"),
    "loopback": (lambda lab: lab.call(lab.vm, "127.0.0.1", 8080), "application"),
    "loopback over IPv6": (lambda lab: lab.call(lab.vm, "::1", 8080), "application"),
    "oneself": (lambda lab: lab.call(lab.vm, VM4, 8080), "application"),
    "the private link": (lambda lab: lab.call(lab.vm, "169.254.77.3", 53), "stub"),
    "the private link over IPv6": (lambda lab: lab.call(lab.vm, "fd77:ec1a:7e::3", 53), "stub"),
    "the proxy itself": (lambda lab: lab.call(lab.vm, CLUSTER4, 80, uid=PROXY), "peer"),
    "the proxy itself over IPv6": (lambda lab: lab.call(lab.vm, CLUSTER6, 80, uid=PROXY), "peer"),
    "[control] another port": (lambda lab: lab.call(lab.vm, CLUSTER4, 80), "proxy a"),
    "[control] another port over IPv6": (lambda lab: lab.call(lab.vm, CLUSTER6, 80), "proxy a"),
    "[control] outside of the cluster": (lambda lab: lab.call(lab.vm, PEER4, 80), "proxy a"),
}


async def test_exceptions_are_never_captured() -> None:
    async with open_lab() as lab:
        for address in (OPERATOR, "169.254.9.9", *METADATA):
            length = "128" if ":" in address else "32"
            await lab.peer.must(
                "ip", "address", "add", f"{address}/{length}", "dev", "eth0", *["nodad"][: length == "128"]
            )
            await lab.vm.must("ip", "route", "replace", f"{address}/{length}", "dev", "eth0")
        async with open_rules(lab, GREEDY):
            ours = [f"{address}/{port}" for address in (VM4, "127.0.0.1", "::1") for port in (22, SSHD, SESSION, 8080)]
            lab.listen(lab.vm, "application", *ours)
            lab.listen(lab.vm, "stub", "169.254.77.3/53", "fd77:ec1a:7e::3/53")
            theirs = [f"{address}/{port}" for address in (PEER4, CLUSTER4, CLUSTER6) for port in (22, SSHD, 80, 6443)]
            others = [f"{address}/80" for address in ("169.254.9.9", *METADATA)]
            lab.listen(lab.peer, "peer", *theirs, *others, f"{OPERATOR}/50000")
            found = {what: (await call(lab)).who for what, (call, _) in HERE.items()}
            assert found == {what: who for what, (_, who) in HERE.items()}


async def test_no_datagram_is_captured_and_so_neither_dhcp_nor_dns() -> None:
    """DHCP (renewal, answer, broadcast), DNS, and a port that the group has for TCP."""
    everybody = "10.77.0.255"
    async with open_lab() as lab, open_rules(lab, GREEDY):
        lab.start(
            lab.peer,
            read_program("answer_datagrams"),
            "peer",
            "0.0.0.0/67",
            f"{CLUSTER4}/53",
            f"{CLUSTER6}/53",
            f"{CLUSTER4}/80",
            expecting="up",
        )
        lab.start(
            lab.vm,
            read_program("answer_datagrams"),
            "application",
            f"{VM4}/68",
            f"{VM4}/8080",
            f"{VM4}/4143",
            expecting="up",
        )
        await lab.vm.must("ip", "address", "replace", f"{VM4}/24", "broadcast", everybody, "dev", "eth0")
        for address, port in ((PEER4, 67), (everybody, 67), (CLUSTER4, 53), (CLUSTER6, 53), (CLUSTER4, 80)):
            assert await lab.ask(lab.vm, address, port) == "peer", f"{address}:{port}"
        for port in (68, 8080, 4143):
            assert await lab.ask(lab.peer, VM4, port) == "application", port


async def test_connections_that_are_older_than_the_rules_go_on_in_both_directions() -> None:
    """The kernel has not tracked them before there was a rule with NAT: to it, their next packet is a first one."""
    async with open_lab() as lab:
        lab.listen(lab.vm, "application", f"{VM4}/8080", f"{VM4}/2022")
        lab.listen(lab.peer, "peer", f"{CLUSTER4}/80", f"{CLUSTER6}/80")
        older = [
            lab.talk(lab.peer, VM4, 8080),
            lab.talk(lab.vm, CLUSTER4, 80),
            lab.talk(lab.vm, CLUSTER6, 80),
            lab.talk(lab.peer, VM4, 2022),
        ]
        async with open_rules(lab, GREEDY):
            assert all(connection.is_alive() for connection in older)
            assert (await lab.call(lab.peer, VM4, 8080)).who == (await lab.call(lab.vm, CLUSTER4, 80)).who == "proxy a"
