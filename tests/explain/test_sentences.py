"""Descriptions of connections under the golden rulesets, word for word."""

import functools
import re
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from exclave.explain.sentences import Answer, compare_with_trace, describe
from exclave.explain.table import Table, parse_rule_texts, parse_table
from exclave.explain.verdict import HOOKS, Connection, Outcome, TableVerdict, evaluate
from exclave.redirect.kernel.nft_events import TraceEvent
from exclave.redirect.rules.ruleset import KEEPALIVE_CHAIN

FILES = Path(__file__).parents[1] / "redirect" / "rules" / "golden"

ARM = "nft add element inet exclave armed '{ tcp timeout 41s }'"
ADD_KEEPALIVE_CHAIN = f"printf '%s' 'table inet exclave {{ {KEEPALIVE_CHAIN} }}' | nft -f -"
ADDED = "add rule inet exclave outbound meta mark 7 accept"


@functools.cache
def kernel(name: str, more: str = "") -> tuple[Table, dict[int, str]]:
    """A golden ruleset as a kernel has it, with what others have done to it."""
    script = f"nft -f {FILES}/{name}.nft; {more or ':'}; nft -j list table inet exclave; nft -a list table inet exclave"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    listing, _, texts = done.stdout.partition("\n")
    table = parse_table(listing)
    assert table is not None
    rule_texts = parse_rule_texts(texts)
    return replace(table, is_dormant=rule_texts.is_dormant), dict(rule_texts.rules)


def answer_for(name: str, direction: str, to: str, port: int, more: str = "", **facts: Any) -> Answer:
    table, texts = kernel(name, more)
    if direction == "outbound":
        facts = {"uid": 0, "gid": 0, "interface": "eth0", **facts}
    else:
        facts = {"kind": "local", "leaves_by": "lo", **facts}
    connection = Connection(HOOKS[direction], ip_address(to), port, **facts)
    return describe(direction, connection, table, texts, evaluate(table, connection))


OUT, IN = "outbound", "inbound"
AWAY: dict[str, Any] = {"kind": "unicast", "leaves_by": "eth0"}
PEER = ip_address("10.9.1.1")

CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "the cluster's networks": (
        ("plain", OUT, "10.42.0.9", 80), {},
        "10.42.0.9:80 goes to the proxy, instance a: the cluster's networks.",
    ),
    "everything, over IPv6, by instance a": (
        ("capture-all", OUT, "2001:db8::1", 80), {},
        "[2001:db8::1]:80 goes to the proxy, instance a: the group captures everything.",
    ),
    "SSH": (("plain", OUT, "10.42.0.9", 22), {}, "10.42.0.9:22 bypasses the proxy: SSH is never captured."),
    "the API server": (("plain", OUT, "10.77.0.1", 6443), {}, "10.77.0.1:6443 bypasses the proxy: the API server."),
    "metadata": (
        ("capture-all", OUT, "169.254.169.254", 80), {},
        "169.254.169.254:80 bypasses the proxy: loopback, link-local, metadata and multicast are never captured.",
    ),
    "oneself": (
        ("plain", OUT, "10.77.0.20", 8080), {"interface": "lo"},
        "10.77.0.20:8080 bypasses the proxy: loopback, and this machine's own addresses.",
    ),
    "the proxy's user": (
        ("plain", OUT, "10.42.0.9", 80), {"uid": 990},
        "10.42.0.9:80 bypasses the proxy: the proxy's own connections.",
    ),
    "an excluded range": (
        ("excluded-ports", OUT, "10.42.0.9", 8050), {},
        "10.42.0.9:8050 bypasses the proxy: exclude_outbound_ports in config.toml.",
    ),
    "an excluded group": (
        ("excluded-users", OUT, "10.42.0.9", 80), {"uid": 7, "gid": 4},
        "10.42.0.9:80 bypasses the proxy: exclude_groups in config.toml.",
    ),
    "the other end of the SSH session": (
        ("ssh-session", OUT, "10.42.0.77", 50000), {},
        "10.42.0.77:50000 bypasses the proxy: the other end of the SSH session that the agent was started in.",
    ),
    "no network of the cluster": (
        ("plain", OUT, "8.8.8.8", 443), {},
        "8.8.8.8:443 bypasses the proxy: no rule captures it; captured are the networks 10.42.0.0/16.",
    ),
    "a direction that is open": (
        ("outbound-open", OUT, "10.42.0.9", 80), {},
        "10.42.0.9:80 bypasses the proxy: the rules capture nothing outbound now: the group is configured so, or the "
        "proxy has failed for longer than the group allows.",
    ),
    "a rule of others that is not understood": (
        ("plain", OUT, "10.9.0.1", 80, f"nft {ADDED}"), {},
        "10.9.0.1:80 is not certain: exclave does not understand the rule below, which others have added.",
    ),
    "a rule of others that is understood": (
        ("plain", OUT, "10.42.0.9", 80, "nft insert rule inet exclave outbound tcp dport 80 accept"), {},
        "10.42.0.9:80 bypasses the proxy: by the rule below.",
    ),
    "rules that sleep": (
        ("plain", OUT, "10.42.0.9", 80, "nft 'add table inet exclave { flags dormant; }'"), {},
        "10.42.0.9:80 bypasses the proxy: others have disabled exclave's rules (flag dormant).",
    ),
    "a port of the group": (
        ("several-ports", IN, "10.77.0.20", 8082), {},
        "10.77.0.20:8082 from outside goes to the proxy, instance a: the group's ports and the proxy's own.",
    ),
    "no port of the group": (
        ("several-ports", IN, "10.77.0.20", 9100), {},
        "10.77.0.20:9100 from outside bypasses the proxy: no rule captures it; captured are the ports 4143, 5432, "
        "8080-8082, 9443.",
    ),
    "the port of other proxies": (
        ("several-ports", IN, "10.77.0.20", 4143), {},
        "10.77.0.20:4143 from outside goes to the proxy, instance a: the group's ports and the proxy's own.",
    ),
    "SSH from outside": (
        ("ssh-elsewhere", IN, "10.77.0.20", 2222), {},
        "10.77.0.20:2222 from outside bypasses the proxy: SSH is never captured.",
    ),
    "a decisive caller that is not known": (
        ("excluded-networks", IN, "10.77.0.20", 8080), {},
        "10.77.0.20:8080 from outside is not certain: that depends on the caller's address.",
    ),
    "a caller that is excluded": (
        ("excluded-networks", IN, "10.77.0.20", 8080), {"source": PEER},
        "10.77.0.20:8080 from outside bypasses the proxy: exclude_inbound_networks in config.toml.",
    ),
    "an interface that is excluded": (
        ("excluded-interfaces", IN, "10.77.0.20", 8080), {"interface": "wg0"},
        "10.77.0.20:8080 from outside bypasses the proxy: exclude_inbound_interfaces in config.toml.",
    ),
    "the private link from outside": (
        ("plain", IN, "169.254.77.1", 4140), {"interface": "eth0"},
        "169.254.77.1:4140 from outside is dropped: the private link is for this machine only.",
    ),
    "a container that is captured": (
        ("containers", IN, "10.42.0.9", 80), {"interface": "docker0", **AWAY},
        "10.42.0.9:80 from outside goes to the proxy, instance a: the cluster's networks.",
    ),
    "what is only passed on": (
        ("containers", IN, "10.42.0.9", 80), {"interface": "eth1", **AWAY},
        "10.42.0.9:80 from outside bypasses the proxy: it comes by no interface of capture_interfaces in config.toml.",
    ),
    "rules that were not confirmed": (
        ("unconfirmed", OUT, "10.42.0.9", 80), {},
        "10.42.0.9:80 bypasses the proxy: rolled back: nobody confirmed the rules in time, so nothing is captured.",
    ),
    "rules that were not confirmed, from outside": (
        ("unconfirmed", IN, "10.77.0.20", 8080), {},
        "10.77.0.20:8080 from outside bypasses the proxy: rolled back: nobody confirmed the rules in time, so nothing "
        "is captured.",
    ),
    "rules that are to be confirmed": (
        ("unconfirmed", OUT, "10.42.0.9", 80, ARM), {},
        "10.42.0.9:80 goes to the proxy, instance a: the cluster's networks.",
    ),
    "a trial": (
        ("trial", OUT, "169.254.77.4", 5000), {"interface": "lo"},
        "169.254.77.4:5000 goes to the proxy, instance b: a swap tries this instance before it has traffic.",
    ),
    "another user's connection to the trial address": (
        ("trial", OUT, "169.254.77.4", 5000), {"uid": 1000, "interface": "lo"},
        "169.254.77.4:5000 bypasses the proxy: loopback, and this machine's own addresses.",
    ),
    "a port of the group, with the keepalive chain": (
        ("plain", IN, "10.77.0.20", 8080, ADD_KEEPALIVE_CHAIN), {},
        "10.77.0.20:8080 from outside goes to the proxy, instance a: the group's ports and the proxy's own.",
    ),
    "no port of the group, with the keepalive chain": (
        ("plain", IN, "10.77.0.20", 9100, ADD_KEEPALIVE_CHAIN), {},
        "10.77.0.20:9100 from outside bypasses the proxy: no rule captures it; captured are the ports 4143, 8080.",
    ),
    "this machine, called by a container": (
        ("containers", IN, "10.77.0.20", 9100), {"interface": "docker0"},
        "10.77.0.20:9100 from outside bypasses the proxy: no rule captures it; captured are the ports 4143, 8080.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("query", "facts", "sentence"), CASES.values(), ids=CASES)
def test_a_verdict_is_described_in_one_sentence(query: tuple[Any, ...], facts: dict[str, Any], sentence: str) -> None:
    assert answer_for(*query, **facts).sentence == sentence


def test_an_answer_has_the_rule_s_text_its_set_and_its_target() -> None:
    captured = answer_for("plain", OUT, "10.42.0.9", 80)
    assert captured.rule == (
        "ip daddr @captured_networks4 meta l4proto tcp counter packets 0 bytes 0 dnat ip to 169.254.77.1:4140 "
        'comment "the cluster\'s networks"'
    )
    assert captured.set_element == ("@captured_networks4", "10.42.0.0/16")
    assert (captured.instance, captured.target) == ("a", "169.254.77.1:4140")
    assert answer_for("instance-b", OUT, "10.42.0.9", 80).instance == "b"
    unknown_rule = answer_for("plain", OUT, "10.9.0.1", 80, f"nft {ADDED}")
    assert (unknown_rule.rule, unknown_rule.set_element) == ("meta mark 0x00000007 accept", None)


def test_missing_facts_and_published_ports_are_notes() -> None:
    assert answer_for("excluded-networks", IN, "10.77.0.20", 8080).notes == ("state it: --from",)
    assert answer_for("excluded-interfaces", IN, "10.77.0.20", 8080).notes == ("state it: --interface",)
    (note,) = answer_for("plain", IN, "10.77.0.20", 8080).notes
    assert note == (
        "the proxy then connects to 10.77.0.20:8080 like a local program; this also reaches ports that Docker publishes"
    )


def test_the_port_of_other_proxies_is_none_that_the_proxy_connects_to() -> None:
    (note,) = answer_for("plain", IN, "10.77.0.20", 4143).notes
    assert note == "other proxies call this port, and state which port they want; the proxy connects to that one"


def test_a_note_shows_how_long_unconfirmed_rules_capture() -> None:
    for direction, to, port in ((OUT, "10.42.0.9", 80), (IN, "10.77.0.20", 8080)):
        note = answer_for("unconfirmed", direction, to, port, ARM).notes[-1]
        assert re.fullmatch(r"the rules are not confirmed and end in (41|40) s; exclave confirm keeps them", note)
    assert answer_for("unconfirmed", OUT, "8.8.8.8", 80, ARM).notes == ()
    assert answer_for("unconfirmed", OUT, "10.42.0.9", 80, "nft add element inet exclave armed '{ tcp }'").notes == ()


def test_without_rules_nothing_is_captured() -> None:
    connection = Connection("output", ip_address("10.42.0.9"), 80)
    answer = describe(OUT, connection, None, {}, TableVerdict(Outcome.PASSES))
    assert answer.sentence == "10.42.0.9:80 bypasses the proxy: this kernel has no rules of exclave."


# Beside the kernel's word.

CALL = Connection("output", ip_address("10.42.0.9"), 80, uid=0, gid=0, interface="eth0")


def event(chain: str, handle: int | None, verdict: str = "accept", table: str = "exclave") -> TraceEvent:
    return TraceEvent(1, table, chain, handle, verdict)


def test_the_kernel_agrees_if_each_chain_has_the_same_verdict_by_the_same_rule() -> None:
    table, _ = kernel("plain")
    verdict = evaluate(table, CALL)
    (step,) = verdict.steps
    assert step.rule is not None
    handle = step.rule.handle
    right = [event("output", 1, table="exclave-trace"), event("outbound", 3, "continue"), event("outbound", handle)]
    others = [event("OUTPUT", 9, table="nat"), event("foreign", None)]
    assert compare_with_trace(verdict, CALL, table, [*right, *others]) == (
        True,
        [
            f"exclave outbound: accept by rule {handle}",
            "nat OUTPUT: accept by rule 9",
            "exclave foreign: accept by its policy",
        ],
    )
    for wrong in ([], [event("outbound", None)], [event("outbound", handle - 1)], [event("outbound", handle, "drop")]):
        assert not compare_with_trace(verdict, CALL, table, wrong)[0]


def test_nat_chains_that_the_kernel_skips_for_an_untracked_family_still_agree() -> None:
    table, _ = kernel("plain")  # IPv4 alone is translated there
    call = replace(CALL, destination=ip_address("fd00::9"))
    assert compare_with_trace(evaluate(table, call), call, table, [])[0]
    assert not compare_with_trace(evaluate(table, CALL), CALL, table, [])[0]
