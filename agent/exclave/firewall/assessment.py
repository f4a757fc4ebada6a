"""Decides whether the host's own firewall keeps pods from this machine, and what lets them in. Pure.

Callers are the pods that we know by their addresses, those of Linkerd's control plane. Only what is certain counts: a
rule that nobody here understands is no reason to withdraw a machine that works.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from exclave.firewall.evaluate import Arrival, Decision, Outcome, Verdict, evaluate
from exclave.firewall.ruleset import Table
from exclave.link.layout import INBOUND_PORT


@dataclass(frozen=True)
class Blocked:
    """Why pods cannot get in. `hint`: the command that lets them in. `decision`: the rule or policy that decides."""

    message: str
    hint: str
    decision: Decision = field(compare=False)  # it has the counters of its table


@dataclass(frozen=True)
class Entrance:
    """Where callers arrive: own addresses with their interfaces ("" if unknown), ports, and callers that we know."""

    addresses: Mapping[str, str]
    ports: tuple[int, ...]
    callers: tuple[str, ...] = ()


def assess(tables: Sequence[Table], entrance: Entrance) -> Blocked | None:
    """The first rule that keeps every caller that we know from a port; without such callers, everybody."""
    for address, interface in entrance.addresses.items():
        blocked: dict[int, Decision] = {}
        for port in entrance.ports:
            found = list(_verdicts(tables, entrance, address, interface, port))
            decisions = [each.decision for each in found if each.outcome in (Outcome.DROPPED, Outcome.BYPASSES)]
            if len(decisions) == len(found) and decisions[0] is not None:
                blocked[port] = decisions[0]
        if blocked:
            decision = next(iter(blocked.values()))
            ports = tuple(port for port, each in blocked.items() if each == decision)
            return Blocked(describe(decision, ports), remedy(decision, ports), decision)
    return None


def _verdicts(
    tables: Sequence[Table], entrance: Entrance, address: str, interface: str, port: int
) -> Iterable[Verdict]:
    own = ip_address(address)
    callers = [ip_address(caller) for caller in entrance.callers if (":" in caller) == (":" in address)]
    for caller in callers or (None,):
        yield evaluate(tables, Arrival(own, port, caller, interface or None))


def describe(decision: Decision, ports: Sequence[int], rule: str = "") -> str:
    """What becomes of connections to these ports, and why. `rule`: the deciding rule's text."""
    place = f"chain {decision.chain.name} of table {decision.table.family} {decision.table.name}"
    text = rule or (decision.rule.saved if decision.rule is not None else "")
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
