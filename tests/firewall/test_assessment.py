"""Whether a firewall keeps pods out, and whether the command that is named lets them in."""

import shutil
from dataclasses import replace

from exclave.firewall.assessment import Entrance, assess
from exclave.firewall.evaluate import Outcome
from exclave.firewall.observer import find_blocked
from exclave.firewall.read import read_tables
from exclave.firewall.ruleset import Chain, Rule, Table
from redirect.lab import PEER4, VM4, CallResult, open_lab, open_rules
from redirect.policies import PLAIN
from support.needs import need

from .rows import rows

HERE = Entrance({VM4: ("eth0",)}, (8080,), (PEER4,))

UFW_ALLOWS = "iptables -A ufw-user-input -p tcp --dport 4143 -j ACCEPT"  # what `ufw allow 4143/tcp` runs


async def test_each_blocked_pod_gets_in_by_the_commands_that_are_named() -> None:
    need(shutil.which("iptables-nft") is not None, "iptables-nft is not installed")
    wrong: dict[str, object] = {}
    async with open_lab() as lab, open_rules(lab, PLAIN):
        for row in rows(4):
            command = ["iptables-nft-restore"] if row.is_iptables else ["nft", "-f", "-"]
            assert (await lab.vm.run(*command, stdin=row.rules.encode())).status == 0
            typed = []
            while len(typed) < 3 and (blocked := await find_blocked(await read_tables(), HERE)) is not None:
                typed.append(blocked.hint)
                line = UFW_ALLOWS if blocked.hint == "ufw allow 4143/tcp" else blocked.hint
                await lab.vm.must("sh", "-c", line)
            is_blocked = row.outcome in (Outcome.DROPPED, Outcome.BYPASSES)
            answer = await lab.call(lab.peer, VM4, 8080)
            if bool(typed) != is_blocked or answer != CallResult("proxy a", (VM4, 8080)):
                wrong[row.name] = (typed, answer.who)
            for line in (await lab.nft("list", "tables")).splitlines():
                if not line.startswith("table inet exclave"):
                    await lab.nft("delete", *line.split())
    assert wrong == {}


def closed(name: str, base: str, family: str = "inet") -> Table:
    return Table(family, name, {base: Chain(base, (), "filter", "input", 0, "drop")})


def test_the_message_names_chain_and_table_and_the_command_is_of_the_tool_that_made_them() -> None:
    blocked = assess([closed("filter", "input")], replace(HERE, ports=(8080, 9090)))
    assert blocked is not None
    assert blocked.message == (
        "what pods send to port 8080, 9090 is dropped, by the policy of chain input of table inet filter: there it is "
        "already redirected to the proxy's port 4143"
    )
    hints = (
        (closed("filter", "input"), "nft 'insert rule inet filter input ct status dnat accept'"),
        (closed("filter", "INPUT", "ip"), "iptables -t filter -I INPUT -m conntrack --ctstate DNAT -j ACCEPT"),
        (closed("firewalld", "filter_INPUT"), "firewall-cmd --permanent --add-port=4143/tcp && firewall-cmd --reload"),
    )
    for table, hint in hints:
        found = assess([table], HERE)
        assert found is not None
        assert found.hint == hint


def test_a_firewall_of_the_other_family_is_none() -> None:
    assert assess([closed("filter", "INPUT", "ip6")], HERE) is None
    assert assess([closed("filter", "INPUT", "ip6")], replace(HERE, addresses={"fd00:77::20": ("eth0",)})) is not None


def test_one_caller_that_gets_in_is_enough() -> None:
    only = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.42.0.7"}}
    chain = closed("filter", "in").chains["in"]
    table = Table("inet", "filter", {"in": replace(chain, rules=(Rule("in", 1, (only, {"accept": None})),))})
    assert assess([table], replace(HERE, callers=("10.42.0.7", "10.42.0.8"))) is None
    assert assess([table], replace(HERE, callers=("10.42.0.8",))) is not None
    assert assess([table], replace(HERE, callers=())) is None  # somebody gets in, and who the pods are is not known


def test_where_neighbours_get_in_and_pods_do_not_nothing_is_certain() -> None:
    """Their nodes may be neighbours, and translate their addresses."""
    network = {"prefix": {"addr": "10.77.0.0", "len": 24}}
    only = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": network}}
    chain = closed("filter", "in").chains["in"]
    table = Table("inet", "filter", {"in": replace(chain, rules=(Rule("in", 1, (only, {"accept": None})),))})
    found = assess([table], replace(HERE, callers=("10.42.0.7",)))
    assert found is not None
    assert (found.is_certain, found.message.partition(",")[0]) == (
        False,
        "unless the cluster's nodes translate their pods' addresses",
    )
    assert assess([table], replace(HERE, callers=("10.77.0.7",))) is None
    certain = assess([closed("filter", "in")], replace(HERE, callers=("10.42.0.7",)))
    assert certain is not None
    assert certain.is_certain


def test_pods_may_come_by_each_of_two_interfaces() -> None:
    only = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth1"}}
    chain = closed("filter", "in").chains["in"]
    table = Table("inet", "filter", {"in": replace(chain, rules=(Rule("in", 1, (only, {"accept": None})),))})
    assert assess([table], HERE) is not None
    assert assess([table], replace(HERE, addresses={VM4: ("eth0", "eth1")})) is None


def test_a_group_without_ports_is_never_blocked() -> None:
    assert assess([closed("filter", "in")], replace(HERE, ports=())) is None
