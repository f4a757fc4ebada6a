"""Reads the output of iptables-nft-save, and writes each rule as nft's JSON would. Pure.

What it does not know becomes a statement `xt`, which nobody evaluates.
Sources: iptables-save(8), iptables-extensions(8).
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Statement = Mapping[str, Any]

TARGETS: Mapping[str, Statement] = {
    "ACCEPT": {"accept": None},
    "DROP": {"drop": None},
    "REJECT": {"reject": None},
    "RETURN": {"return": None},
    "NOTRACK": {"notrack": None},
    "REDIRECT": {"redirect": None},
    "DNAT": {"dnat": None},
    "LOG": {"log": None},
    "NFLOG": {"log": None},
}

_STATUS = {"DNAT": "dnat", "SNAT": "snat"}  # states of the match conntrack that are bits of `ct status`

_TYPES = {"LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "ANYCAST"}


@dataclass(frozen=True)
class SavedRule:
    """One rule: its line, and its statements."""

    text: str
    statements: tuple[Statement, ...]


def parse_saved(saved: str) -> dict[str, dict[str, list[SavedRule]]]:
    """The rules by table and chain. Lines that are no rules are skipped."""
    found: dict[str, dict[str, list[SavedRule]]] = {}
    table: dict[str, list[SavedRule]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            table = found.setdefault(line[1:].strip(), {})
        elif line.startswith("-A "):
            chain = (line.split(maxsplit=2)[1:] or [""])[0]
            table.setdefault(chain, []).append(parse_saved_rule(line))
    return found


def parse_saved_rule(line: str) -> SavedRule:
    """Parse one line `-A CHAIN …`."""
    try:
        words = shlex.split(line)[2:]
    except ValueError:  # a quotation mark that is not closed
        return SavedRule(line, (_unknown(line),))
    statements: list[Statement] = []
    match = ""
    while words:
        is_negated = words[0] == "!" and len(words) > 1
        option, *words = words[1:] if is_negated else words
        if option in ("-m", "--match"):
            match, *words = words or [""]
            continue
        if option in ("-j", "-g"):
            statements.append(_target(option, words))
            break
        count = next((at for at, word in enumerate(words) if word.startswith("-") or word == "!"), len(words))
        values, words = words[:count], words[count:]
        found = _condition(match, option, values)
        if found is not None:
            statements.append(_negated(found) if is_negated else found)
    return SavedRule(line, tuple(statements))


def _target(option: str, words: list[str]) -> Statement:
    name = words[0] if words else ""
    if option == "-g":
        return {"goto": {"target": name}}
    if name == "CT":
        return {"notrack": None} if "--notrack" in words else _unknown(name)
    if name in ("MARK", "CONNMARK"):
        return {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"xt": name}}}
    # What is no chain of the table either is a target that we do not know.
    return TARGETS.get(name, {"jump": {"target": name}})


def _condition(match: str, option: str, values: list[str]) -> Statement | None:
    """The statement for an option; None if it has no effect."""
    value = values[0] if values else ""
    if match == "comment":
        return None
    if option in ("-i", "-o"):
        key = "iifname" if option == "-i" else "oifname"
        return _match({"meta": {"key": key}}, f"{value[:-1]}*" if value.endswith("+") else value)
    if option in ("-s", "-d"):
        word = "ip6" if ":" in value else "ip"
        return _match(_payload(word, "saddr" if option == "-s" else "daddr"), _network(value))
    if option == "-p":
        return _match({"meta": {"key": "l4proto"}}, value) if value != "all" else None
    if option in ("--dport", "--sport", "--dports", "--sports", "--destination-ports", "--source-ports"):
        return _match(
            _payload("th", "dport" if option[2] == "d" else "sport"),
            {"set": [_ports(each) for each in value.split(",")]},
        )
    if option == "--tcp-flags" and len(values) == 2:
        return _match({"&": [_payload("tcp", "flags"), _flags(values[0])]}, _flags(values[1]))
    if option == "--syn":
        return _match({"&": [_payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, ["syn"])
    if option in ("--ctstate", "--state"):
        states = value.split(",")
        some = [_match({"ct": {"key": "state"}}, [each.lower()], "in") for each in states if each not in _STATUS]
        return {
            "any": [
                *some,
                *(_match({"ct": {"key": "status"}}, [_STATUS[each]], "in") for each in states if each in _STATUS),
            ]
        }
    if option == "--ctdir":
        return _match({"ct": {"key": "direction"}}, value.lower())
    if option in ("--dst-type", "--src-type") and set(value.split(",")) <= _TYPES:
        flag = "daddr" if option == "--dst-type" else "saddr"
        return _match({"fib": {"result": "type", "flags": [flag]}}, {"set": value.lower().split(",")})
    return _unknown(f"{match} {option}".strip())


def _negated(statement: Statement) -> Statement:
    return {"none": [statement]}


def _match(left: Any, right: Any, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def _payload(protocol: str, place: str) -> Statement:
    return {"payload": {"protocol": protocol, "field": place}}


def _network(text: str) -> Any:
    address, _, length = text.partition("/")
    return {"prefix": {"addr": address, "len": length}} if length else address


def _ports(text: str) -> Any:
    first, colon, last = text.partition(":")
    numbers = [int(each) if each.isdecimal() else each for each in (first or "0", last or "65535")]
    return {"range": numbers} if colon else numbers[0]


def _flags(text: str) -> list[str]:
    every = ["fin", "syn", "rst", "psh", "ack", "urg"]
    return [] if text == "NONE" else every if text == "ALL" else text.lower().split(",")


def _unknown(name: str) -> Statement:
    return {"xt": {"type": "match", "name": name}}
