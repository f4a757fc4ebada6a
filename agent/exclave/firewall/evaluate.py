"""Evaluates the host's own rules for a new connection from outside to a captured port, as the kernel does. Pure.

The way of a first packet: ingress, prerouting, our translation to the proxy, input; then that of the proxy's answer:
output, postrouting. Chains of one hook run in the order of their priorities; accept ends a chain, drop ends the packet.
Three facts that are easily forgotten:

* Connection tracking begins at priority -200. Before it, `ct` expressions have no value, and notrack ends all of it.
* All chains of NAT run together, at priority -100, whatever their own ones are; those only order them.
* After the translation the packet is one to our private address and to port 4143. Its answer has these as source.

Our own tables are not read: the translation is what we would load. So the result holds before a join, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from exclave.firewall.conditions import NO_VALUE, Facts, Unknown, compare, elements_of, holds, value_of
from exclave.firewall.ruleset import Chain, Rule, Table
from exclave.link.layout import INBOUND_PORT, Instance, instance_address
from exclave.redirect.rules.ruleset import PRIORITY

Address = IPv4Address | IPv6Address

TRACKING, NAT = -200, {"prerouting": -100, "input": 100, "output": -100, "postrouting": 100}
"""Priorities of connection tracking and of NAT at each hook. Source: linux/netfilter_ipv4.h, NF_IP_PRI_…"""

MOST_JUMPS = 16  # jumps in a row that the kernel permits. Source: linux/netfilter/nf_tables.h, NFT_JUMP_STACK_SIZE

THE_CALLER, THE_INTERFACE = "the caller's address", "the interface"


class Outcome(Enum):
    """What becomes of a connection."""

    PROXY = "proxy"
    DROPPED = "dropped"
    BYPASSES = "bypasses"  # it is not translated to the proxy
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Arrival:
    """A new connection from outside. `source`, `interface`: None if unknown."""

    destination: Address
    port: int
    source: Address | None = None
    interface: str | None = None


@dataclass(frozen=True)
class Decision:
    """What decides: a rule, or without one the policy of a chain. `base`: the chain at the hook that leads to it.

    `kind` is drop, notrack, translate or unknown.
    """

    table: Table
    base: Chain
    chain: Chain
    rule: Rule | None
    kind: str


@dataclass(frozen=True)
class Verdict:
    """The result. `decision`: what drops it or leads it elsewhere; for UNKNOWN, what does so perhaps.

    `depends_on`: the facts that an UNKNOWN depends on, "" for an expression that is not understood.
    """

    outcome: Outcome
    decision: Decision | None = None
    depends_on: tuple[str, ...] = ()


Reasons = tuple[str, ...]
"""The facts that something depends on; "" for an expression that is not understood."""


@dataclass(frozen=True)
class Maybe:
    """What may become of a connection, and on which facts that depends."""

    decision: Decision
    depends_on: Reasons


class _Ended(Exception):
    """The packet ends here, or leaves the way to the proxy."""

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.decision = decision


def evaluate(tables: Sequence[Table], arrival: Arrival, instance: Instance = "a") -> Verdict:
    """What becomes of a new connection, by the tables of others."""
    way = _Way(tables, arrival, ip_address(instance_address(instance, 4 if arrival.destination.version == 4 else 6)))
    try:
        way.pass_all()
    except _Ended as ended:
        is_drop = ended.decision.kind == "drop"
        if not is_drop or not any(maybe.decision.kind in ("notrack", "translate") for maybe in way.maybe):
            return Verdict(Outcome.DROPPED if is_drop else Outcome.BYPASSES, ended.decision)
        way.maybe.append(Maybe(ended.decision, ()))
    if not way.maybe:
        is_unread = any(table.is_unread for table in tables)
        return Verdict(Outcome.UNKNOWN, None, ("",)) if is_unread else Verdict(Outcome.PROXY)
    facts = tuple(dict.fromkeys(fact for maybe in way.maybe for fact in maybe.depends_on))
    return Verdict(Outcome.UNKNOWN, way.maybe[0].decision, facts)


# Facts of a packet at each step.

_NOT_TRACKED: Facts = {
    "ct state": frozenset({"invalid"}),
    **{f"ct {key}": NO_VALUE for key in ("direction", "status", "mark", "zone", "*")},
    **{f"ct original {key}": NO_VALUE for key in ("saddr", "daddr", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr")},
    "ct original proto-dst": NO_VALUE,
}


def _arriving(arrival: Arrival) -> dict[str, Any]:
    is_4 = arrival.destination.version == 4
    own, other = ("ip", "ip6") if is_4 else ("ip6", "ip")
    most: Address = IPv4Address(2**32 - 1) if is_4 else IPv6Address(2**128 - 1)
    source = arrival.source or Unknown(THE_CALLER, ip_address("1.0.0.0" if is_4 else "::2"), most)
    interface = arrival.interface or Unknown(THE_INTERFACE, never=("lo", "0", False))
    return {
        "meta l4proto": "tcp",
        "meta protocol": own,
        "ether type": own,
        "meta nfproto": "ipv4" if is_4 else "ipv6",
        "meta iif": interface,
        "meta iifname": interface,
        "meta oif": NO_VALUE,
        "meta oifname": NO_VALUE,
        "meta mark": 0,
        "meta pkttype": "host",
        "meta skuid": NO_VALUE,
        "meta skgid": NO_VALUE,
        f"{own} saddr": source,
        f"{own} daddr": arrival.destination,
        f"{own} protocol": "tcp",
        f"{own} nexthdr": "tcp",
        f"{own} version": 4 if is_4 else 6,
        **{f"{other} {place}": NO_VALUE for place in ("saddr", "daddr", "protocol", "nexthdr", "version")},
        **{f"{each} {place}": NO_VALUE for each in ("udp", "icmp", "icmpv6") for place in ("sport", "dport", "type")},
        "tcp dport": arrival.port,
        "tcp sport": Unknown("the caller's port", 1024, 65535),
        "tcp flags": frozenset({"syn"}),
        "fib daddr type": "local",
        "fib iif saddr oif": interface,  # replies leave by the interface that callers come by
        "fib iif mark saddr oif": interface,
        "fib saddr type": "unicast",
        **_NOT_TRACKED,
    }


def _tracked(arrival: Arrival) -> dict[str, Any]:
    """What connection tracking adds to a first packet."""
    own = _word(arrival.destination)
    caller = arrival.source or Unknown(THE_CALLER)
    return {
        "ct state": frozenset({"new"}),
        "ct direction": "original",
        "ct status": frozenset[str](),
        "ct mark": 0,
        "ct zone": 0,
        "ct original daddr": arrival.destination,
        f"ct original {own} daddr": arrival.destination,
        "ct original saddr": caller,
        f"ct original {own} saddr": caller,
        "ct original proto-dst": arrival.port,
        "ct *": Unknown(),
    }


def _translated(arrival: Arrival, private: Address) -> dict[str, Any]:
    return {f"{_word(private)} daddr": private, "tcp dport": INBOUND_PORT, "ct status": frozenset({"dnat"})}


def _answering(private: Address, before: Facts) -> dict[str, Any]:
    """The proxy's answer. Its source becomes the original destination after all hooks."""
    own, interface = _word(private), before["meta iifname"]
    return {
        **before,
        "meta iif": NO_VALUE,
        "meta iifname": NO_VALUE,
        "meta oif": interface,
        "meta oifname": interface,
        "meta mark": 0,
        "meta skuid": Unknown(),
        "meta skgid": Unknown(),
        f"{own} saddr": private,
        f"{own} daddr": before[f"{own} saddr"],
        "tcp sport": INBOUND_PORT,
        "tcp dport": before["tcp sport"],
        "tcp flags": frozenset({"syn", "ack"}),
        "fib daddr type": "unicast",
        "fib saddr type": "local",
        "fib iif saddr oif": Unknown(),
        "fib iif mark saddr oif": Unknown(),
        "ct state": frozenset({"established"}),
        "ct direction": "reply",
        "ct status": frozenset({"dnat", "seen-reply"}),
    }


def _word(address: Address) -> str:
    return "ip" if address.version == 4 else "ip6"


# The way through the hooks.


class _End(Enum):
    """How a chain ends."""

    FALLS_THROUGH = "falls through"  # or returns
    ACCEPTED = "accepted"
    DROPPED = "dropped"


_Hooked = tuple[int, Table, Chain]
"""A chain at a hook, with its place there."""


class _Way:
    """A packet on its way: `facts` that are known of it, and what `maybe` has become of it before."""

    def __init__(self, tables: Sequence[Table], arrival: Arrival, private: Address) -> None:
        self.facts = _arriving(arrival)
        self.maybe: list[Maybe] = []
        self._tables = tables
        self._arrival = arrival
        self._private = private
        self._untracked: Maybe | None = None

    def pass_all(self) -> None:
        """Pass all hooks. Raises _Ended."""
        self._run(self._chains("ingress"))
        chains, ours = self._chains("prerouting"), (NAT["prerouting"], PRIORITY)
        self._run(each for each in chains if each[0] <= TRACKING)
        self._track(_tracked(self._arrival))
        self._run(each for each in chains if each[0] > TRACKING and (each[0], each[2].priority) <= ours)
        self._require_tracking()
        self.facts |= _translated(self._arrival, self._private)
        self._run(each for each in chains if (each[0], each[2].priority) > ours and each[2].kind != "nat")
        self._run(self._chains("input"))
        self._untracked, tracked = None, _answering(self._private, self.facts)
        self.facts = {**tracked, **_NOT_TRACKED}
        chains = [each for each in self._chains("output") if each[2].kind != "nat"]  # NAT is for first packets
        self._run(each for each in chains if each[0] <= TRACKING)
        self._track({key: value for key, value in tracked.items() if key.startswith("ct ")})
        self._require_tracking()
        self._run(each for each in chains if each[0] > TRACKING)
        self._run(each for each in self._chains("postrouting") if each[2].kind != "nat")

    def _chains(self, hook: str) -> list[_Hooked]:
        """The chains of a hook in their order."""
        families = ("netdev", "inet") if hook == "ingress" else ("inet", _word(self._private))
        found = [
            (NAT[hook] if chain.kind == "nat" else chain.priority, table, chain)
            for table in self._tables
            if table.family in families and not table.is_dormant
            for chain in table.chains.values()
            if chain.hook == hook and self._is_on_device(chain)
        ]
        return sorted(found, key=lambda each: (each[0], each[2].priority))

    def _is_on_device(self, chain: Chain) -> bool:
        return not chain.device or self._arrival.interface is None or self._arrival.interface in chain.device.split()

    def _run(self, chains: Iterable[_Hooked]) -> None:
        for _, table, chain in chains:
            is_certain = chain.hook != "ingress" or (chain.device and self._arrival.interface)
            _Walk(self, table, chain).run(() if is_certain else (THE_INTERFACE,))  # nft 1.0.6 does not print the device

    def _track(self, tracked: Facts) -> None:
        if self._untracked is None:
            self.facts |= tracked
        elif not self._untracked.depends_on:
            self.facts["ct state"] = frozenset({"untracked"})
        else:
            self.facts |= {key: Unknown() for key in tracked}

    def _require_tracking(self) -> None:
        """NAT translates no connection that is not tracked."""
        if self._untracked is not None:
            self.may_become(self._untracked.decision, self._untracked.depends_on)

    def set_untracked(self, decision: Decision, depends_on: Reasons) -> None:
        """A rule says that the connection is not tracked."""
        if self._untracked is None or not depends_on:
            self._untracked = Maybe(decision, depends_on)

    def may_become(self, decision: Decision, depends_on: Reasons) -> None:
        """Record what becomes of the packet. Raises _Ended if that depends on nothing."""
        if not depends_on:
            raise _Ended(decision)
        self.maybe.append(Maybe(decision, depends_on))


class _Walk:
    """The way through one chain at a hook, and through the chains that it leads to."""

    def __init__(self, way: _Way, table: Table, base: Chain) -> None:
        self._way = way
        self._table = table
        self._base = base
        self._may_accept: Reasons = ()
        self._dropped: Decision | None = None

    def run(self, branch: Reasons) -> None:
        """Raises _Ended if the packet ends here for certain. `branch`: what it depends on that the chain is met."""
        end = self._chain(self._base, branch, 0)
        if end is _End.FALLS_THROUGH and self._base.policy == "drop":
            end, self._dropped = _End.DROPPED, Decision(self._table, self._base, self._base, None, "drop")
        if end is _End.DROPPED and self._dropped is not None:
            self._way.may_become(self._dropped, branch + self._may_accept)

    def _chain(self, chain: Chain, branch: Reasons, depth: int) -> _End:
        """Evaluate a chain. `branch`: what it depends on that the packet is in it."""
        may_return: Reasons = ()
        for rule in chain.rules:
            end, depends_on = self._rule(chain, rule, branch + may_return, depth)
            if end is None:
                continue
            depends_on += may_return
            if not depends_on:
                return end
            if end is _End.ACCEPTED:
                self._may_accept += branch + depends_on
            elif end is _End.DROPPED and self._dropped is not None:
                self._way.may_become(self._dropped, branch + depends_on)
            else:
                may_return = depends_on
        return _End.FALLS_THROUGH

    def _rule(self, chain: Chain, rule: Rule, branch: Reasons, depth: int) -> tuple[_End | None, Reasons]:
        """How a rule ends the chain (None: not at all), and what it depends on that it matches."""
        depends_on: Reasons = ()
        for statement in rule.statements:
            (word, content), *_ = statement.items()
            if word in ("match", "any", "none"):
                match = holds(statement, self._way.facts, self._table.sets)
                if match.holds is False:
                    return None, ()
                depends_on += match.depends_on
            elif word in _SOMETIMES or (
                word in ("set", "xt") and content and (content.get("stmt") or _is_match(content))
            ):
                depends_on += ("",)
            elif word in ("jump", "goto", "vmap"):
                end, depends = self._lead(chain, rule, statement, branch + depends_on, depth)
                return end, depends_on + depends
            elif word in _ENDS:
                if _ENDS[word] is _End.DROPPED:
                    self._dropped = Decision(self._table, self._base, chain, rule, "drop")
                return _ENDS[word], depends_on
            else:
                self._effect(chain, rule, word, content, branch + depends_on)
                if word in _TRANSLATES:
                    return _End.ACCEPTED, depends_on
                if word not in _HARMLESS and word not in ("mangle", "notrack"):
                    depends_on += ("",)
        return None, ()

    def _effect(self, chain: Chain, rule: Rule, word: str, content: Any, depends_on: Reasons) -> None:
        """What a statement does to the packet, that is no verdict."""
        if word in _HARMLESS:
            return
        if word == "mangle":
            self._mangle(content, depends_on)
        elif word == "notrack":
            self._way.set_untracked(Decision(self._table, self._base, chain, rule, word), depends_on)
        elif word in _TRANSLATES and self._base.hook == "prerouting":
            self._way.may_become(Decision(self._table, self._base, chain, rule, "translate"), depends_on)
        elif word not in _TRANSLATES:
            self._way.may_become(Decision(self._table, self._base, chain, rule, "unknown"), (*depends_on, ""))
            self._may_accept += ("",)
            self._way.facts["meta mark"] = Unknown()

    def _mangle(self, content: Any, depends_on: Reasons) -> None:
        key, value = content.get("key", {}), content.get("value")
        if key == {"meta": {"key": "mark"}}:
            is_known = isinstance(value, int) and not depends_on
            self._way.facts["meta mark"] = value if is_known else Unknown()
        elif key == {"ct": {"key": "mark"}}:
            self._way.facts["ct mark"] = Unknown()
        elif "payload" in key:
            self._way.facts[f"{key['payload'].get('protocol')} {key['payload'].get('field')}"] = Unknown()

    def _lead(
        self, chain: Chain, rule: Rule, statement: Mapping[str, Any], branch: Reasons, depth: int
    ) -> tuple[_End | None, Reasons]:
        """Follow a jump, a goto, or the verdict of a map."""
        if "vmap" not in statement:
            return self._jump(chain, rule, statement, branch, depth)
        vmap = statement["vmap"]
        value, possible = value_of(vmap["key"], self._way.facts), Reasons()
        for element in elements_of(vmap["data"], self._table.sets):
            if not isinstance(element, list) or len(element) != 2:
                self._effect(chain, rule, "unknown", None, branch)
                return None, ()
            match = compare("==", value, element[0], self._table.sets)
            if match.holds is False:
                continue
            verdict = Rule(rule.chain, rule.handle, (element[1],), rule.saved)
            end, depends_on = self._rule(chain, verdict, branch + match.depends_on, depth)
            if match.holds:
                return end, depends_on + possible
            self._may_end(end, branch + match.depends_on + depends_on)
            possible = possible or match.depends_on
        return None, ()

    def _may_end(self, end: _End | None, depends_on: Reasons) -> None:
        if end is _End.DROPPED and self._dropped is not None:
            self._way.may_become(self._dropped, depends_on)
        elif end is not None:
            self._may_accept += depends_on  # a return may lead to an accept

    def _jump(
        self, chain: Chain, rule: Rule, statement: Mapping[str, Any], branch: Reasons, depth: int
    ) -> tuple[_End | None, Reasons]:
        (word, content), *_ = statement.items()
        target = self._table.chains.get(content.get("target", ""))
        if target is None or depth >= MOST_JUMPS:
            self._effect(chain, rule, "unknown", None, branch)
            return None, ()
        end = self._chain(target, branch, depth + 1)
        if end is _End.FALLS_THROUGH:
            return (None if word == "jump" else end), ()
        return end, ()


_ENDS: Mapping[str, _End] = {
    "accept": _End.ACCEPTED,
    "drop": _End.DROPPED,
    "reject": _End.DROPPED,
    "return": _End.FALLS_THROUGH,
}

_SOMETIMES = ("limit", "quota", "ct count", "meter")
"""Statements that end a rule sometimes."""


def _is_match(content: Mapping[str, Any]) -> bool:
    """True for a condition of iptables that we do not know, unlike a target."""
    return content.get("type") == "match"


_HARMLESS = ("counter", "log", "continue", "comment", "set", "ct helper", "ct timeout", "dup", "secmark", "flow")

_TRANSLATES = ("dnat", "redirect", "snat", "masquerade")
