"""Rulesets as golden files, so that reviewers read rules; and what nft and the kernel do with them."""

import re
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.link import open_link
from exclave.redirect.kernel.observe import parse_listing
from exclave.redirect.reconciler import open_redirect, open_table
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import (
    render_drain,
    render_for_check,
    render_removal,
    render_ruleset,
    ruleset_digest,
)
from exclave_sandbox.stage.namespaces import open_network

from ..lab import CLUSTER4, CLUSTER6, VM4, VM6, CallResult, Flows, Lab, as_proxies, open_lab
from ..policies import GOLDEN, PLAIN, PROXY

FILES = Path(__file__).with_name("golden")


@pytest.mark.parametrize(("name", "why", "policy"), [(name, *row) for name, row in GOLDEN.items()], ids=GOLDEN)
def test_a_policy_renders_the_reviewed_ruleset(name: str, why: str, policy: RedirectPolicy) -> None:
    assert (FILES / f"{name}.nft").read_text() == f"# {why}\n{render_ruleset(policy)}"


def test_every_golden_file_is_of_a_policy() -> None:
    assert {path.stem for path in FILES.iterdir()} == {*GOLDEN, "holding"}


def test_the_table_for_a_check_has_every_kind_of_rule_and_no_hook() -> None:
    """It could also be loaded: dormant, so that the kernel hooks nothing."""
    text = render_for_check()
    actions = r"type \w+ hook|ct state|fib daddr \w+|dnat ip6?|tcp dport|tcp sport|tcp sequence|tcp flags|flags \w+"
    words = re.compile(rf"\b({actions}|meta \w+)")
    golden = {word for path in FILES.iterdir() for word in words.findall(path.read_text())}
    assert golden - {*words.findall(text)} <= {"meta skgid"}  # as meta skuid
    script = 'nft --check -f - <"$0" && nft list tables && nft -f - <"$0" && nft list tables'
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        done = subprocess.run(["unshare", "--net", "sh", "-c", script, file.name], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "table inet exclave-check\n", "")
    assert "flags dormant" in text


@pytest.mark.parametrize("name", GOLDEN)
def test_nft_loads_it_repeatedly(name: str) -> None:
    load = ["unshare", "--net", "sh", "-c", 'nft -f "$0" && nft -f "$0" && nft list tables', FILES / f"{name}.nft"]
    done = subprocess.run(load, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "table inet exclave\n", "")


def test_the_digest_differs_between_rules_and_is_in_them() -> None:
    digests = [ruleset_digest(policy) for name, (_, policy) in GOLDEN.items() if name != "outbound-open"]
    assert len(set(digests)) == len(digests)
    assert ruleset_digest(GOLDEN["outbound-open"][1]) == ruleset_digest(GOLDEN["inbound-only"][1])
    assert f'comment "a {ruleset_digest(PLAIN)}"' in render_ruleset(PLAIN)


def test_policies_with_the_same_rules_have_the_same_digest() -> None:
    again = replace(PLAIN, ssh_ports=(22,), exempt_inbound_ports=(4143,), networks=("10.42.0.0/17", "10.42.128.0/17"))
    assert ruleset_digest(again) == ruleset_digest(PLAIN)


async def test_removal_works_without_a_table_and_changes_no_other_table() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        await machine.must("nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }")
        before = await machine.must("nft", "list", "ruleset")
        for _ in range(2):
            assert (await machine.run("nft", "-f", "-", stdin=render_removal().encode())).errors == ""
        assert (await machine.run("nft", "-f", "-", stdin=render_ruleset(PLAIN).encode())).errors == ""
        assert (await machine.must("nft", "list", "ruleset")) != before
        assert (await machine.run("nft", "-f", "-", stdin=render_removal().encode())).errors == ""
        assert await machine.must("nft", "list", "ruleset") == before


SO_MANY = replace(
    PLAIN,
    exempt_inbound_ports=tuple(range(10000, 30000, 2)),
    exempt_outbound_ports=tuple(range(10001, 30000, 2)),
    exempt_networks=tuple(str(network) for network in IPv4Network("10.42.0.0/16").subnets(new_prefix=27))[::2][:1000],
)
"""Ten thousand ports of which no two follow each other, in each direction, and a thousand networks."""


def test_ten_thousand_exclusions_need_as_many_rules_as_one() -> None:
    one = replace(PLAIN, exempt_inbound_ports=(1,), exempt_outbound_ports=(2,), exempt_networks=("10.42.0.0/27",))
    assert len(SO_MANY.exempt_inbound_ports) == len(SO_MANY.exempt_outbound_ports) == 10000
    assert len(SO_MANY.exempt_networks) == 1000
    assert render_ruleset(SO_MANY).count("\n") == render_ruleset(one).count("\n")


async def test_ten_thousand_exclusions_are_loaded_and_read_back_whole() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        assert (await machine.run("nft", "-f", "-", stdin=render_ruleset(SO_MANY).encode())).errors == ""
        listed = (await machine.must("nft", "list", "set", "inet", "exclave", "passed_inbound_ports")).decode()
        assert len(re.findall(r"\d+", listed.partition("elements")[2])) == 10000


def test_the_digest_of_the_same_policy_is_computed_once() -> None:
    """Its digest is compared at every reading of the table, also where there are ten thousand exclusions."""
    ruleset_digest(SO_MANY)
    assert ruleset_digest.cache_info().currsize
    hits = ruleset_digest.cache_info().hits
    assert ruleset_digest(replace(SO_MANY)) == ruleset_digest(SO_MANY)
    assert ruleset_digest.cache_info().hits == hits + 2


def test_the_trial_chain_has_a_rule_for_each_family() -> None:
    why = 'comment "a swap tries this instance before it has traffic"'
    chain = [
        "    chain trial {",
        "        type nat hook output priority -111; policy accept;",
        f"        meta skuid 0 ip daddr 169.254.77.4 meta l4proto tcp dnat ip to 169.254.77.2:4140 {why}",
        f"        meta skuid 0 ip6 daddr fd77:ec1a:7e::4 meta l4proto tcp dnat ip6 to [fd77:ec1a:7e::2]:4140 {why}",
        "    }\n",
    ]
    assert "\n".join(chain) in render_ruleset(replace(PLAIN, trial="b", families=(4, 6)))


def test_a_trial_of_an_unknown_instance_is_refused() -> None:
    with pytest.raises(ValueError, match="instance: a or b was expected, found 'c'"):
        replace(PLAIN, trial="c")  # type: ignore[arg-type]


async def test_only_root_s_connections_to_the_trial_address_go_to_the_instance_on_trial() -> None:
    async with open_lab() as lab:
        for number in (1, 2, 4):
            await lab.vm.must("ip", "address", "add", f"169.254.77.{number}/32", "dev", "lo")
            await lab.vm.must("ip", "address", "add", f"fd77:ec1a:7e::{number}/128", "dev", "lo", "nodad")
        as_proxies(lab, "a", "b")
        lab.listen(lab.vm, "trial", "169.254.77.4/5000")
        lab.listen(lab.peer, "cluster", "10.42.0.9/5000")
        done = await lab.vm.run(
            "nft", "-f", "-", stdin=render_ruleset(replace(PLAIN, trial="b", families=(4, 6))).encode()
        )
        assert done.errors == ""
        for address in ("169.254.77.4", "fd77:ec1a:7e::4"):
            tried = await lab.call(lab.vm, address, 5000)
            assert (tried.who, tried.original) == ("proxy b", (address, 5000))
        assert (await lab.call(lab.vm, "169.254.77.4", 5000, uid=PROXY)).who == "trial"  # else it would go in circles
        assert (await lab.call(lab.vm, "169.254.77.4", 5000, uid=1234)).who == "trial"
        assert (await lab.call(lab.vm, "10.42.0.9", 5000)).who == "proxy a"


WHY = "Nothing new is captured, strangers stay out, and what was translated before lives on until the proxy has ended."

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

MEMBERS = {VM4: POLICY, VM6: replace(POLICY, addresses=(VM6,))}
"""A member has one family inbound, and both outbound."""

EACH = 5
"""Connections inbound, and as many outbound of each family."""


def test_the_drain_ruleset_is_the_reviewed_one() -> None:
    assert (FILES / "holding.nft").read_text() == f"# {WHY}\n{render_drain()}"


@pytest.mark.parametrize("name", GOLDEN)
def test_every_ruleset_has_the_keepalive_chain(name: str) -> None:
    policy = GOLDEN[name][1]
    assert render_ruleset(policy).endswith(render_drain()[render_drain().index("    chain kept") :])


async def test_the_listing_of_the_drain_ruleset_shows_that_it_drains() -> None:
    async with open_lab() as lab:
        await load(lab, render_drain())
        observed = parse_listing(await lab.nft("-j", "list", "table", "inet", "exclave"))
        assert (observed.installed, observed.is_draining, observed.instance, observed.digest) == (True, True, None, "")
        await load(lab, render_ruleset(POLICY))
        observed = parse_listing(await lab.nft("-j", "list", "table", "inet", "exclave"))
        assert (observed.is_draining, observed.instance) == (False, "a")


async def test_the_drain_ruleset_captures_nothing_new_and_protects_the_link() -> None:
    async with open_lab() as lab, open_link(stopping()):
        as_proxies(lab, "a")
        lab.listen(lab.vm, "application", f"{VM4}/8080")
        lab.listen(lab.peer, "peer", f"{CLUSTER6}/80")
        await lab.peer.must("ip", "route", "add", "169.254.77.0/29", "via", VM4)
        await load(lab, render_ruleset(POLICY))
        assert (await lab.call(lab.peer, VM4, 8080)).who == "proxy a"
        await load(lab, render_drain())
        assert await lab.call(lab.peer, VM4, 8080) == CallResult("application")
        assert await lab.call(lab.vm, CLUSTER6, 80) == CallResult("peer")
        assert (await lab.call(lab.peer, "169.254.77.1", 4140, timeout=0.3)).who == "TimeoutError"


# Connections that live, in both families and both directions.


async def load(lab: Lab, rules: str) -> None:
    assert (await lab.vm.run("nft", "-f", "-", stdin=rules.encode())).errors == ""


def stopping() -> EndingSwitch:
    endings = EndingSwitch()
    endings.ask_nowait(Ending.STOP)
    return endings


async def alive(flows: tuple[Flows, ...]) -> list[str]:
    return [who for each in flows for who in await each.alive()]


@asynccontextmanager
async def talking(lab: Lab, own: str) -> AsyncIterator[tuple[Flows, ...]]:
    """Connections through instance a, in and out, of the member with this address."""
    inbound = lab.flows(lab.peer, EACH, f"{own}/8080")
    outbound = lab.flows(lab.vm, EACH, f"{CLUSTER4}/80", f"{CLUSTER6}/80")
    assert await alive((inbound, outbound)) == ["proxy a"] * 3 * EACH
    yield inbound, outbound


WAYS: dict[str, tuple[Callable[[Lab, RedirectPolicy], Awaitable[object]], int]] = {
    "deleted at once": (lambda lab, _: lab.nft("delete", "table", "inet", "exclave"), 0),
    "emptied": (lambda lab, _: lab.nft("flush", "table", "inet", "exclave"), 0),
    "drained": (lambda lab, _: load(lab, render_drain()), 3 * EACH),
    "drained, then deleted": (lambda lab, _: load(lab, f"{render_drain()}delete table inet exclave\n"), 0),
    "both directions opened": (
        lambda lab, policy: load(lab, render_ruleset(replace(policy, inbound=False, outbound=False))),
        3 * EACH,
    ),
    "outbound opened": (lambda lab, policy: load(lab, render_ruleset(replace(policy, outbound=False))), 3 * EACH),
}
"""How the rules may change, and how many of the translated connections go on."""


@pytest.mark.parametrize("own", MEMBERS)
@pytest.mark.parametrize(("way", "living"), WAYS.values(), ids=WAYS)
async def test_a_change_of_the_rules_ends_connections_or_not(
    way: Callable[[Lab, RedirectPolicy], Awaitable[object]], living: int, own: str
) -> None:
    async with open_lab() as lab, open_link(stopping()):
        as_proxies(lab, "a")
        await load(lab, render_ruleset(MEMBERS[own]))
        async with talking(lab, own) as flows:
            await way(lab, MEMBERS[own])
            assert await alive(flows) == ["proxy a"] * living


@pytest.mark.parametrize("ending", [Ending.LEAVE, Ending.STOP], ids=["leave", "stop"])
async def test_leave_and_stop_reset_no_connection_until_the_proxy_has_ended(ending: Ending) -> None:
    async with open_lab() as lab:
        endings = EndingSwitch()
        before = await lab.nft("list", "ruleset")
        async with open_link(endings), open_table(endings):
            as_proxies(lab, "a")
            async with open_redirect(Latest[RedirectPolicy | None](POLICY), lab.network.scratch, endings):
                async with talking(lab, VM4) as flows:
                    endings.ask_nowait(ending)
            # Here the proxy's door closes: it drains, and new connections meet no rules.
            assert await alive(flows) == ["proxy a"] * 3 * EACH
            lab.listen(lab.vm, "application", f"{VM4}/8080")
            assert await lab.call(lab.peer, VM4, 8080) == CallResult("application")
        assert await lab.nft("list", "ruleset") == before
