"""Decides whether the host's own firewall keeps pods from this machine, and what lets them in. Pure.

Callers are the pods that we know by their addresses, those of Linkerd's control plane. Only what is certain counts: a
rule that nobody here understands is no reason to withdraw a machine that works. Nodes may translate the addresses of
their pods to their own, which we do not know: where neighbours of this machine get in and pods do not, nothing is
certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from exclave.firewall.evaluate import Arrival, Decision, Outcome, evaluate
from exclave.firewall.ruleset import Table
from exclave.link.layout import INBOUND_PORT


@dataclass(frozen=True)
class Blocked:
    """Why pods cannot get in. `hint`: the command that lets them in. `decision`: the rule or policy that decides.

    Unless `is_certain`, pods get in if their nodes translate their addresses.
    """

    message: str
    hint: str
    is_certain: bool
    decision: Decision = field(compare=False)  # it has the counters of its table

    @property
    def text(self) -> str:
        """Message and command on one line."""
        return f"{self.message}; to let it in: {self.hint}"


@dataclass(frozen=True)
class Entrance:
    """Where callers arrive: own addresses with the interfaces that they may come by ("" if unknown), ports, and callers
    that we know.
    """

    addresses: Mapping[str, tuple[str, ...]]
    ports: tuple[int, ...]
    callers: tuple[str, ...] = ()


def assess(tables: Sequence[Table], entrance: Entrance) -> Blocked | None:
    """The first rule that keeps every caller that we know from a port; without such callers, everybody."""
    for address in entrance.addresses:
        callers = [caller for caller in entrance.callers if (":" in caller) == (":" in address)]
        blocked: dict[int, Decision] = {}
        for port in entrance.ports:
            if (decision := _blocking(tables, entrance, address, port, callers)) is not None:
                blocked[port] = decision
        if blocked:
            decision = next(iter(blocked.values()))
            ports = tuple(port for port, each in blocked.items() if each == decision)
            neighbours = [_blocking(tables, entrance, address, port, [address]) for port in ports]
            is_certain = not callers or None not in neighbours
            return Blocked(describe(decision, ports, is_certain), remedy(decision, ports), is_certain, decision)
    return None


def _blocking(
    tables: Sequence[Table], entrance: Entrance, address: str, port: int, callers: Sequence[str]
) -> Decision | None:
    """What keeps all callers from a port, by whichever interface they come; None if one of them gets in, or may."""
    found = [
        evaluate(tables, Arrival(ip_address(address), port, ip_address(caller) if caller else None, interface or None))
        for caller in callers or ("",)
        for interface in entrance.addresses[address]
    ]
    decisions = [each.decision for each in found if each.outcome in (Outcome.DROPPED, Outcome.BYPASSES)]
    return decisions[0] if len(decisions) == len(found) else None


def describe(decision: Decision, ports: Sequence[int], is_certain: bool) -> str:
    """What becomes of connections to these ports, and why."""
    text = _describe(decision, ports)
    return text if is_certain else f"unless the cluster's nodes translate their pods' addresses, {text}"


def _describe(decision: Decision, ports: Sequence[int]) -> str:
    place = f"chain {decision.chain.name} of table {decision.table.family} {decision.table.name}"
    text = decision.rule.saved if decision.rule is not None else ""
    what = f"the policy of {place}" if decision.rule is None else f"a rule in {place}{f': {text}' if text else ''}"
    listed = ", ".join(map(str, ports))
    if decision.kind == "notrack":
        return f"what pods send to port {listed} bypasses the proxy: it is not tracked, by {what}"
    if decision.kind == "translate":
        return f"what pods send to port {listed} bypasses the proxy: it is redirected elsewhere, by {what}"
    if decision.base.hook in ("output", "postrouting"):
        return f"the proxy's answers to pods, from port {INBOUND_PORT}, are dropped by {what}"
    if decision.base.hook == "input":
        return (
            f"what pods send to port {listed} is dropped, by {what}: there it is already redirected to the proxy's "
            f"port {INBOUND_PORT}"
        )
    return f"what pods send to port {listed} is dropped, by {what}"


def remedy(decision: Decision, ports: Sequence[int]) -> str:
    """The command that lets pods in, as the tool that made the rules spells it."""
    table, base = decision.table, decision.base
    if any(chain.startswith("ufw-") for chain in table.chains) and base.hook == "input":
        return f"ufw allow {INBOUND_PORT}/tcp"
    if table.name == "firewalld" and base.hook == "input":
        return f"firewall-cmd --permanent --add-port={INBOUND_PORT}/tcp && firewall-cmd --reload"
    is_iptables = table.family in ("ip", "ip6") and table.name in ("filter", "raw", "mangle", "nat", "security")
    every = sorted({*ports, INBOUND_PORT})
    if is_iptables and base.name.isupper():
        program = "iptables" if table.family == "ip" else "ip6tables"
        listed = ",".join(map(str, every))
        match = {"input": "-m conntrack --ctstate DNAT", "output": f"-p tcp --sport {INBOUND_PORT}"}.get(
            base.hook, f"-p tcp -m multiport --dports {listed}"
        )
        return f"{program} -t {table.name} -I {base.name} {match} -j ACCEPT"
    listed = ", ".join(map(str, every))
    answers = base.hook in ("output", "postrouting")
    match = f"tcp sport {INBOUND_PORT}" if answers else f"tcp dport {{ {listed} }}"
    if base.hook == "input":
        match = "ct status dnat"
    return f"nft 'insert rule {table.family} {table.name} {base.name} {match} accept'"
