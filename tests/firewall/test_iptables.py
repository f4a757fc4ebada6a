"""Rules of iptables-nft-save as statements of nft."""

from typing import Any

import pytest

from exclave.firewall.iptables import parse_saved, parse_saved_rule

TCP = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
STATE = {"ct": {"key": "state"}}

LINES: dict[str, tuple[str, list[Any]]] = {
    "an interface by its beginning": (
        "-A INPUT -i eth+ -j DROP",
        [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth*"}}, {"drop": None}],
    ),
    "a range of ports, and a comment with spaces": (
        '-A INPUT -p tcp -m tcp --dport 80:90 -m comment --comment "a b -j DROP" -j ACCEPT',
        [
            TCP,
            {
                "match": {
                    "op": "==",
                    "left": {"payload": {"protocol": "th", "field": "dport"}},
                    "right": {"set": [{"range": [80, 90]}]},
                }
            },
            {"accept": None},
        ],
    ),
    "states, of which one is a bit of the status": (
        "-A INPUT -m conntrack ! --ctstate NEW,DNAT -j RETURN",
        [
            {
                "none": [
                    {
                        "any": [
                            {"match": {"op": "in", "left": STATE, "right": ["new"]}},
                            {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": ["dnat"]}},
                        ]
                    }
                ]
            },
            {"return": None},
        ],
    ),
    "a network, and a chain of the table": (
        "-A INPUT -s 10.0.0.0/8 -g MESH",
        [
            {
                "match": {
                    "op": "==",
                    "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "right": {"prefix": {"addr": "10.0.0.0", "len": "8"}},
                }
            },
            {"goto": {"target": "MESH"}},
        ],
    ),
    "notrack, as newer versions write it": ("-A PREROUTING -j CT --notrack", [{"notrack": None}]),
    "a target with options": (
        "-A INPUT -j REJECT --reject-with icmp-port-unreachable",
        [{"reject": None}],
    ),
    "a match that we do not know": (
        "-A INPUT -m recent --update --name a -j DROP",
        [
            {"xt": {"type": "match", "name": "recent --update"}},
            {"xt": {"type": "match", "name": "recent --name"}},
            {"drop": None},
        ],
    ),
    "a quotation mark that is not closed": (
        '-A INPUT -m comment --comment "a',
        [{"xt": {"type": "match", "name": '-A INPUT -m comment --comment "a'}}],
    ),
    "no target": ("-A INPUT -p tcp", [TCP]),
}


@pytest.mark.parametrize(("line", "statements"), LINES.values(), ids=LINES)
def test_a_line_is_read_as_nft_would_print_it(line: str, statements: list[Any]) -> None:
    found = parse_saved_rule(line)
    assert (found.text, list(found.statements)) == (line, statements)


def test_rules_are_found_by_table_and_chain() -> None:
    saved = "# by a program\n*filter\n:INPUT DROP [0:0]\n-A INPUT -j A\n-A A -j DROP\nCOMMIT\n*raw\n-A INPUT -j DROP\n"
    found = parse_saved(saved)
    assert {name: {chain: len(rules) for chain, rules in chains.items()} for name, chains in found.items()} == {
        "filter": {"INPUT": 1, "A": 1},
        "raw": {"INPUT": 1},
    }
