"""Conditions of rules for a packet of which not all is known: True, False, or None for what depends."""

from ipaddress import ip_address
from typing import Any

import pytest

from exclave.firewall.conditions import NO_VALUE, Unknown, holds

FACTS: dict[str, Any] = {
    "ip saddr": Unknown("the caller's address", ip_address("1.0.0.0"), ip_address("255.255.255.255")),
    "ip daddr": ip_address("10.0.0.1"),
    "ip6 saddr": NO_VALUE,
    "tcp dport": 4143,
    "tcp sport": Unknown("the caller's port", 1024, 65535),
    "tcp flags": frozenset({"syn"}),
    "meta iifname": Unknown("the interface", never=("lo", "0", False)),
    "meta l4proto": "tcp",
    "meta mark": 0x10,
    "ct state": frozenset({"new"}),
    "fib daddr type": "local",
    "fib iif saddr oif": "eth0",
}
SETS = {"ports": (22, {"range": [4000, 5000]}), "pairs": ({"concat": ["10.0.0.1", 4143]},), "none": ()}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, place: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": place}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


STATE = {"ct": {"key": "state"}}
EVERYBODY, NET = {"prefix": {"addr": "0.0.0.0", "len": 0}}, {"prefix": {"addr": "10.0.0.0", "len": 8}}

CONDITIONS: dict[str, tuple[dict[str, Any], bool | None]] = {
    "a port in a named set": (match(payload("th", "dport"), "@ports"), True),
    "no port in an empty set": (match(payload("tcp", "dport"), "@none"), False),
    "a set that is not listed": (match(payload("tcp", "dport"), "@elsewhere"), None),
    "a concatenation": (match({"concat": [payload("ip", "daddr"), payload("tcp", "dport")]}, "@pairs"), True),
    "a concatenation with what is not known": (
        match({"concat": [payload("ip", "saddr"), payload("tcp", "dport")]}, "@pairs"),
        None,
    ),
    "a concatenation that differs in what is known": (
        match({"concat": [payload("ip", "saddr"), payload("tcp", "dport")]}, {"concat": ["10.0.0.9", 22]}),
        False,
    ),
    "callers of a network": (match(payload("ip", "saddr"), NET), None),
    "callers outside of a network": (match(payload("ip", "saddr"), NET, "!="), None),
    "all callers": (match(payload("ip", "saddr"), EVERYBODY), True),
    "callers of the other family": (match(payload("ip6", "saddr"), "fd00::1", "!="), False),
    "ports that callers have": (match(payload("tcp", "sport"), {"range": [1024, 65535]}), True),
    "a port that no caller has": (match(payload("tcp", "sport"), 22), False),
    "a port that a caller may have": (match(payload("tcp", "sport"), 2000), None),
    "a greater port": (match(payload("tcp", "dport"), 1024, ">="), True),
    "an interface": (match(meta("iifname"), "eth0"), None),
    "the loopback interface": (match(meta("iifname"), "lo"), False),
    "flags of a first packet": (match({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn"), True),
    "flags as newer nft writes them": (
        match({"&": [payload("tcp", "flags"), {"|": ["syn", "ack"]}]}, {"|": ["syn", "ack"]}),
        False,
    ),
    "none of some flags": (match(payload("tcp", "flags"), ["fin", "rst"], "!"), True),
    "one of two states": (match(STATE, ["established", "new"], "in"), True),
    "exactly two states, as the kernel compares": (match(STATE, ["established", "new"], "!="), True),
    "a state in a set": (match(STATE, {"set": ["new", "untracked"]}), True),
    "a mark with a mask": (match({"&": [meta("mark"), 0xF0]}, 0x10), True),
    "a protocol by its number": (match(meta("l4proto"), {"set": [6, 17]}), True),
    "a route back that exists": (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), False),
    "a local destination": (match({"fib": {"result": "type", "flags": "daddr"}}, {"set": ["local", "anycast"]}), True),
    "an expression that nobody knows": (match({"numgen": {"mode": "random", "mod": 2}}, 0), None),
    "its contrary": (match({"numgen": {"mode": "random", "mod": 2}}, 0, "!="), None),
    "an element that is no address": (match(payload("ip", "daddr"), "here"), None),
    "one of several, one of them unknown": ({"any": [match(meta("cpu"), 0), match(STATE, "new", "in")]}, True),
    "none of several, one of them unknown": ({"none": [match(meta("cpu"), 0), match(STATE, "related", "in")]}, None),
}  # fmt: skip


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS.values(), ids=CONDITIONS)
def test_a_condition_holds_or_not_or_depends(condition: dict[str, Any], expected: bool | None) -> None:
    assert holds(condition, FACTS, SETS).holds is expected


def test_what_a_condition_depends_on_is_named() -> None:
    assert holds(match(payload("ip", "saddr"), NET), FACTS, SETS).depends_on == ("the caller's address",)
    assert holds(match({"numgen": {}}, 0), FACTS, SETS).depends_on == ("",)
