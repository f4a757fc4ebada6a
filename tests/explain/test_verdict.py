"""What the rules do to a connection, by our evaluation and by the kernel's trace."""

import os
import random
import select
import subprocess
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from exclave.explain.sentences import compare_with_trace
from exclave.explain.table import Chain, Rule, Table, parse_table
from exclave.explain.trace import listen_for_events, open_attempt, read_events, send_first_packet
from exclave.explain.verdict import Connection, Outcome, RuleHit, TableVerdict, element_text, evaluate
from exclave.kit.host.routes import Route, parse_route
from exclave.redirect.kernel.nft_events import TraceEvent
from exclave.redirect.rules.confirm_timer import render_arming
from exclave.redirect.rules.policy import RedirectPolicy, Server
from exclave.redirect.rules.ruleset import render_ruleset
from support.network_namespace import in_network_namespace

from ..redirect.packets import first_packet, open_link_by_name

PORT = 8080
CALL = Connection("output", ip_address("10.42.0.9"), PORT, ip_address("10.77.0.20"), 1000, 1000, "eth0")


def rule(handle: int, *statements: Any) -> Rule:
    return Rule("c", handle, statements)


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def payload(protocol: str, place: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": place}}


def chain(*rules: Rule, name: str = "c", kind: str = "nat", priority: int = 0, policy: str = "accept") -> Chain:
    return Chain(name, kind, "output", priority, policy, tuple(replace(each, chain=name) for each in rules))


ACCEPT, DROP = {"accept": None}, {"drop": None}
DNAT = {"dnat": {"family": "ip", "addr": "169.254.77.1", "port": 4140}}
TARGET = ("169.254.77.1", 4140)


def outcome(*rules: Rule, connection: Connection = CALL, **sets: tuple[Any, ...]) -> tuple[Outcome, int | None]:
    """The outcome, and the rule that ended the chain."""
    verdict = evaluate(Table(1, (chain(*rules),), sets), connection)
    last = verdict.steps[-1] if verdict.steps else None
    return verdict.outcome, last.rule.handle if last is not None and last.rule is not None else None


CONDITIONS: dict[str, tuple[Any, bool]] = {
    "an address": (match(payload("ip", "daddr"), "10.42.0.9"), True),
    "another address": (match(payload("ip", "daddr"), "10.42.0.8"), False),
    "all addresses but one": (match(payload("ip", "daddr"), "10.42.0.8", "!="), True),
    "a network": (match(payload("ip", "daddr"), {"prefix": {"addr": "10.42.0.0", "len": 16}}), True),
    "another network": (match(payload("ip", "daddr"), {"prefix": {"addr": "10.43.0.0", "len": 16}}), False),
    "a range of addresses": (match(payload("ip", "daddr"), {"range": ["10.42.0.1", "10.42.0.9"]}), True),
    "the source": (match(payload("ip", "saddr"), "10.77.0.20"), True),
    "an address of the other family": (match(payload("ip6", "daddr"), "fd00::1"), False),
    "all addresses but one of the other family": (match(payload("ip6", "daddr"), "fd00::1", "!="), False),
    "a port": (match(payload("tcp", "dport"), PORT), True),
    "several ports and ranges": (match(payload("tcp", "dport"), {"set": [22, {"range": [8000, 8100]}]}), True),
    "ports in a set": (match(payload("tcp", "dport"), "@ports"), True),
    "no port in a set": (match(payload("tcp", "dport"), "@ports", "!="), False),
    "a port in an empty set": (match(payload("tcp", "dport"), "@none"), False),
    "an element with a comment": (match(payload("tcp", "dport"), {"set": [{"elem": {"val": PORT}}]}), True),
    "a user": (match(meta("skuid"), 1000), True),
    "several users": (match(meta("skuid"), {"set": [0, 1000]}), True),
    "a group": (match(meta("skgid"), 7), False),
    "an interface": (match(meta("oifname"), "eth0"), True),
    "all interfaces but some": (match(meta("oifname"), {"set": ["eth1", "wg0"]}, "!="), True),
    "TCP": (match(meta("l4proto"), "tcp"), True),
    "whatever is not TCP": (match(meta("l4proto"), "tcp", "!="), False),
    "IPv6": (match(meta("nfproto"), "ipv6"), False),
    "a first packet": (match({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn"), True),
    "a connection that cannot be followed": (match({"ct": {"key": "state"}}, "invalid", "in"), False),
    "a new connection": (match({"ct": {"key": "state"}}, "new", "in"), True),
    "a later packet": (match({"&": [payload("tcp", "flags"), ["syn", "fin", "rst", "ack"]]}, "syn", "!="), False),
    "a later packet, as a newer nft writes it": (
        match({"&": [payload("tcp", "flags"), {"|": ["fin", "syn", "rst", "ack"]}]}, "syn", "!="),
        False,
    ),
}


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS.values(), ids=CONDITIONS)
def test_a_condition_holds_or_does_not(condition: Any, holds: bool) -> None:
    sets: dict[str, tuple[Any, ...]] = {"ports": (22, {"range": [8000, 8100]}), "none": ()}
    expected = (Outcome.DROPPED, 7) if holds else (Outcome.PASSES, None)
    assert outcome(rule(7, condition, DROP), **sets) == expected


NOT_UNDERSTOOD: dict[str, Any] = {
    "a jump": {"jump": {"target": "elsewhere"}},
    "another kind of NAT": {"masquerade": None},
    "a destination without a port": {"dnat": {"addr": "10.0.0.1"}},
    "what iptables adds": {"xt": None},
    "a limit": {"limit": {"rate": 1, "per": "second"}},
    "an unknown key": match(meta("cgroup"), 1),
    "a mark": match(meta("mark"), 1),
    "a mark of a connection": match({"ct": {"key": "mark"}}, 1),
    "an interface at the wrong hook": match(meta("iifname"), "eth0"),
    "an unknown field": match(payload("tcp", "sport"), 1),
    "other flags": match({"&": [payload("tcp", "flags"), ["syn"]]}, "syn"),
    "a set that is not listed": match(payload("tcp", "dport"), "@elsewhere"),
    "an unknown kind of wildcard": match(meta("oifname"), 7),
    "an address that is none": match(payload("ip", "daddr"), "here"),
    "another condition on the routes": match({"fib": {"result": "type", "flags": ["saddr"]}}, "local"),
    "something else": match({"rt": {"key": "mtu"}}, 1),
}


@pytest.mark.parametrize("statement", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_an_unknown_rule_is_reported_and_not_guessed(statement: Any) -> None:
    unknown_rule = rule(7, statement, ACCEPT)
    verdict = evaluate(Table(1, (chain(rule(6, match(meta("skuid"), 0), DROP), unknown_rule),)), CALL)
    assert (verdict.outcome, verdict.unknown_rule) == (Outcome.UNKNOWN, replace(unknown_rule, chain="c"))


def test_a_rule_before_an_unknown_one_counts() -> None:
    assert outcome(rule(6, DROP), rule(7, {"xt": None})) == (Outcome.DROPPED, 6)


def test_accepting_ends_a_chain_and_not_the_hook_while_dropping_ends_all() -> None:
    first, second = chain(rule(1, ACCEPT), rule(2, DROP)), chain(rule(3, DROP), name="d", priority=1)
    verdict = evaluate(Table(1, (second, first)), CALL)
    assert verdict.outcome is Outcome.DROPPED
    assert [(step.chain, step.rule.handle if step.rule else None) for step in verdict.steps] == [("c", 1), ("d", 3)]


def test_without_a_matching_rule_the_chain_s_policy_decides() -> None:
    assert evaluate(Table(1, (chain(policy="drop"),)), CALL) == TableVerdict(
        Outcome.DROPPED, (RuleHit("c", None, "drop"),)
    )


def test_the_first_translation_decides_and_only_filter_chains_come_after_it() -> None:
    chains = (
        chain(rule(1, {"counter": {"packets": 0, "bytes": 0}}, DNAT), rule(2, DROP)),
        chain(rule(3, DROP), name="d", priority=1),
        chain(
            rule(4, match(payload("ip", "daddr"), TARGET[0]), {"log": {}}, ACCEPT), name="e", kind="filter", priority=2
        ),
    )
    verdict = evaluate(Table(1, chains), CALL)
    assert (verdict.outcome, verdict.target) == (Outcome.PROXY, TARGET)
    assert [step.chain for step in verdict.steps] == ["c", "e"]
    blocked = evaluate(Table(1, (chains[0], chain(rule(5, DROP), name="f", kind="filter", priority=3))), CALL)
    assert blocked.outcome is Outcome.DROPPED


def test_the_matching_element_of_a_set_is_the_reason() -> None:
    condition = match(payload("tcp", "dport"), "@ports")
    verdict = evaluate(Table(1, (chain(rule(1, condition, ACCEPT)),), {"ports": (22, {"range": [8000, 8100]})}), CALL)
    assert verdict.steps[-1].because == ("@ports", "8000-8100")
    assert element_text({"prefix": {"addr": "10.0.0.0", "len": 8}}) == "10.0.0.0/8"


def test_a_dormant_table_does_nothing() -> None:
    assert evaluate(Table(1, (chain(rule(1, DROP)),), is_dormant=True), CALL) == TableVerdict(Outcome.PASSES)


ANYBODY = replace(CALL, uid=None, interface=None)


def test_a_missing_fact_that_does_not_matter_is_ignored() -> None:
    assert outcome(rule(1, match(meta("skuid"), 0), ACCEPT), connection=ANYBODY) == (Outcome.PASSES, None)
    assert outcome(rule(1, match(meta("skuid"), 0), DNAT), rule(2, DNAT), connection=ANYBODY) == (Outcome.PROXY, 2)


def test_a_missing_fact_that_matters_is_named() -> None:
    rules = (rule(1, match(meta("skuid"), 0), ACCEPT), rule(2, match(meta("oifname"), "lo"), ACCEPT), rule(3, DNAT))
    verdict = evaluate(Table(1, (chain(*rules),)), ANYBODY)
    assert (verdict.outcome, verdict.missing_facts) == (Outcome.UNKNOWN, ("the user", "the interface"))


# The kernel's word.

FOUR = ("10.42.0.9", "10.42.200.7", "10.43.1.1", "10.77.0.20", "10.77.0.100", "10.77.0.30", "172.17.0.1", "172.17.0.2")
FOUR += ("169.254.77.1", "169.254.77.4", "169.254.169.254", "100.100.100.200", "192.0.2.8")
SIX = (
    "fd00:42::9",
    "fd00:42:9::7",
    "fd00:77::20",
    "fd00:77::30",
    "fd00:17::2",
    "fd00:ec2::254",
    "fd77:ec1a:7e::1",
    "fd77:ec1a:7e::4",
)
PORTS = (22, 80, 2222, 3306, 4143, 6443, 8050, 8080, 9100)
SOURCES = ("10.9.0.5", "10.77.0.30", "172.17.0.2", "fd00:9::5", "fd00:77::30")
UIDS = (0, 990, 1000, 4242)
LINKS = ("eth0", "docker0")

POLICIES, CONNECTIONS = 40, 20

TRACING = """
table inet tracing
delete table inet tracing
table inet tracing {
    chain output { type filter hook output priority -400; tcp flags & (syn|ack|rst) == syn meta nftrace set 1
    }
    chain prerouting { type filter hook prerouting priority -400; tcp flags & (syn|ack|rst) == syn meta nftrace set 1
    }
    chain end { type filter hook prerouting priority 400;
    }
}
"""
"""Only what opens a connection: the kernel's own answer to a packet may go out during the next reading."""


def draw_policy(draw: random.Random) -> RedirectPolicy:
    def some(*values: Any) -> tuple[Any, ...]:
        return tuple(value for value in values if draw.random() < 0.4)

    own = draw.choice([("10.77.0.20",), ("10.77.0.20", "10.77.0.100"), ("fd00:77::20",)])
    networks = draw.choice([None, (), ("10.42.0.0/16", "fd00:42::/32"), ("10.0.0.0/8", "172.16.0.0/12", "fd00::/8")])
    return RedirectPolicy(
        instance=draw.choice(["a", "b"]),
        addresses=own,
        inbound_ports=some(80, 8050, 8080, 9100, 22, 2222),
        networks=networks,
        proxy_uid=990,
        exempt_inbound_ports=some(9100, (8000, 8060), (4000, 5000)),
        exempt_outbound_ports=some(3306, (8000, 8060), 22),
        exempt_networks=some("10.42.200.0/24", "fd00:42:9::/48", "10.77.0.0/24"),
        exempt_uids=some(0, 1000),
        servers=some(Server("10.42.0.9", 6443), Server("fd00:42::9", 6443)),
        families=draw.choice([(4,), (4, 6)]),
        outbound=draw.random() < 0.9,
        inbound=draw.random() < 0.9,
        exempt_gids=some(4242),
        exempt_sources=some("10.9.0.0/16", "fd00:9::/48"),
        exempt_inbound_interfaces=some("docker0"),
        exempt_outbound_interfaces=some("docker0"),
        capture_interfaces=some("docker0"),
        ssh_ports=some(2222),
        ssh_peers=some("10.43.1.1"),
        trial=draw.choice([None, "a", "b"]),
        armed_until=draw.choice([None, None, None, 600.0, 600.0, 0.0]),
    )


def put_in_place(policy: RedirectPolicy) -> Table:
    """Two processes: one that loads the rules, one that lists them."""
    left = policy.armed_until
    rules = TRACING + render_ruleset(policy) + (render_arming(left) if left is not None else "")
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
    listed = subprocess.run(["nft", "-j", "list", "table", "inet", "exclave"], capture_output=True, check=True)
    table = parse_table(listed.stdout.decode())
    assert table is not None
    return table


class World:
    """A network namespace with two links to write into, and what its routes are."""

    def __init__(self) -> None:
        self.channel = listen_for_events()
        self.links = {name: open_link_by_name(name) for name in LINKS}
        self.routes: dict[str, Route] = {}
        commands = [
            "link set eth0 up",
            "link set docker0 up",
            *(f"address add {a} dev eth0" for a in ("10.77.0.20/24", "10.77.0.100/32", "fd00:77::20/64 nodad")),
            *(f"address add {a} dev docker0" for a in ("172.17.0.1/16", "fd00:17::1/64 nodad")),
            *(
                f"address add {a} dev lo"
                for a in (
                    "169.254.77.1/32",
                    "169.254.77.4/32",
                    "fd77:ec1a:7e::1/128 nodad",
                    "fd77:ec1a:7e::4/128 nodad",
                )
            ),
            "route add default dev eth0",
            "route add ::/0 dev eth0",
        ]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)

        for address in (*FOUR, *SIX):
            listed = subprocess.run(["ip", "-json", "route", "get", address], capture_output=True, check=True)
            self.routes[address] = parse_route(listed.stdout)

    def close(self) -> None:
        self.channel.close()
        for descriptor in self.links.values():
            os.close(descriptor)

    def draw_outbound(self, draw: random.Random) -> Connection | None:
        to, port, uid, gid = draw.choice(FOUR + SIX), draw.choice(PORTS), draw.choice(UIDS), draw.choice((0, 4242))
        route = self.routes[to]
        source = ip_address(route.source) if route.source else None
        connection = Connection("output", ip_address(to), port, source, uid, gid, route.interface)
        with open_attempt(connection.destination.version, uid, gid) as attempt:
            return None if send_first_packet(attempt, to, port) else connection

    def draw_inbound(self, draw: random.Random, number: int) -> Connection:
        source, link = ip_address(draw.choice(SOURCES)), draw.choice(LINKS)
        to = ip_address(draw.choice(FOUR if source.version == 4 else SIX))
        route = self.routes[str(to)]
        port = draw.choice(PORTS)
        os.write(self.links[link], first_packet(source, to, port, 20000 + number))
        return Connection("prerouting", to, port, source, None, None, link, route.interface, route.kind)

    def events(self, hook: str) -> list[TraceEvent]:
        """What the kernel did to the first packet since the last reading.

        What comes by a link may be handled by another core, until the hook's end or until it is dropped.
        """
        events = read_events(self.channel)
        while hook == "prerouting" and not any(event.chain == "end" or event.verdict == "drop" for event in events):
            assert select.select([self.channel], [], [], 10.0)[0], "no packet came through"
            events += read_events(self.channel)
        return [event for event in events if event.packet == events[0].packet]


@in_network_namespace()
async def test_the_kernel_agrees_for_random_rules_and_connections() -> None:
    """Every step: each chain, the rule that decided there, and its verdict; and less knowledge never means another."""
    seed = random.randrange(10**6)
    draw, world, outcomes = random.Random(seed), World(), Counter[tuple[str, Outcome]]()
    try:
        for number in range(POLICIES):
            policy = draw_policy(draw)
            table = put_in_place(policy)
            read_events(world.channel)
            for each in range(CONNECTIONS):
                is_outbound = draw.random() < 0.5
                packet = number * CONNECTIONS + each
                connection = world.draw_outbound(draw) if is_outbound else world.draw_inbound(draw, packet)
                if connection is None:
                    continue  # the kernel sent nothing
                verdict = evaluate(table, connection)
                agrees, did = compare_with_trace(verdict, connection, table, world.events(connection.hook))
                assert agrees, f"seed {seed}: {connection} by {policy}: {verdict.steps}, but the kernel: {did}"
                outcomes[connection.hook, verdict.outcome] += 1
                partial = replace(connection, **dict.fromkeys(draw.sample(FACTS, 2)))
                verdict_of_partial = evaluate(table, partial)
                assert verdict_of_partial.outcome is Outcome.UNKNOWN or (
                    verdict_of_partial.outcome,
                    verdict_of_partial.target,
                ) == (
                    verdict.outcome,
                    verdict.target,
                ), f"seed {seed}: {partial} by {policy}"
    finally:
        world.close()
    assert sum(outcomes.values()) > POLICIES * CONNECTIONS * 0.7, f"seed {seed}: {outcomes}"
    common = {("output", Outcome.PROXY), ("output", Outcome.PASSES), ("prerouting", Outcome.PROXY)}
    assert common | {("prerouting", Outcome.DROPPED), ("prerouting", Outcome.PASSES)} <= set(outcomes)


FACTS = ("source", "uid", "gid", "interface", "leaves_by", "kind")
