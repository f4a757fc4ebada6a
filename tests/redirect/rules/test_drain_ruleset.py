"""What holds connections while rules go: the ruleset as a file, and what becomes of connections, seen in the kernel."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.link import open_link
from exclave.redirect.kernel.observe import parse_listing
from exclave.redirect.reconciler import open_redirect
from exclave.redirect.rules.drain_ruleset import render_drain, render_ruleset
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.table_door import open_table

from ..lab import CLUSTER4, CLUSTER6, VM4, VM6, CallResult, Flows, Lab, as_proxies, open_lab
from ..policies import GOLDEN, PLAIN

FILES = Path(__file__).with_name("golden")

WHY = "Nothing new is captured, strangers stay out, and what was translated before lives on until the proxy has ended."

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

MEMBERS = {VM4: POLICY, VM6: replace(POLICY, addresses=(VM6,))}
"""A member has one family inbound, and both outbound."""

EACH = 5
"""Connections inbound, and as many outbound of each family."""


def test_the_holding_ruleset_is_the_one_that_was_reviewed() -> None:
    assert (FILES / "holding.nft").read_text() == f"# {WHY}\n{render_drain()}"


@pytest.mark.parametrize("name", GOLDEN)
def test_every_ruleset_has_the_keepalive_chain(name: str) -> None:
    policy = GOLDEN[name][1]
    assert render_ruleset(policy).endswith(render_drain()[render_drain().index("    chain kept") :])


async def test_its_listing_shows_that_it_drains() -> None:
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
    "held": (lambda lab, _: load(lab, render_drain()), 3 * EACH),
    "held, then deleted": (lambda lab, _: load(lab, f"{render_drain()}delete table inet exclave\n"), 0),
    "both directions opened": (
        lambda lab, policy: load(lab, render_ruleset(replace(policy, inbound=False, outbound=False))),
        3 * EACH,
    ),
    "outbound opened": (lambda lab, policy: load(lab, render_ruleset(replace(policy, outbound=False))), 3 * EACH),
}
"""How rules may go, and how many of the connections they translated live on."""


@pytest.mark.parametrize("own", MEMBERS)
@pytest.mark.parametrize(("way", "living"), WAYS.values(), ids=WAYS)
async def test_how_many_connections_live_on(
    way: Callable[[Lab, RedirectPolicy], Awaitable[object]], living: int, own: str
) -> None:
    async with open_lab() as lab, open_link(stopping()):
        as_proxies(lab, "a")
        await load(lab, render_ruleset(MEMBERS[own]))
        async with talking(lab, own) as flows:
            await way(lab, MEMBERS[own])
            assert await alive(flows) == ["proxy a"] * living


@pytest.mark.parametrize("ending", [Ending.LEAVE, Ending.STOP], ids=["leave", "stop"])
async def test_on_the_way_out_no_connection_is_reset_until_the_proxy_has_ended(ending: Ending) -> None:
    async with open_lab() as lab:
        endings = EndingSwitch()
        before = await lab.nft("list", "ruleset")
        async with open_link(endings), open_table(endings):
            as_proxies(lab, "a")
            async with open_redirect(Latest[RedirectPolicy | None](POLICY), lab.network.scratch, endings):
                async with talking(lab, VM4) as flows:
                    endings.ask_nowait(ending)
            # Here the proxy's door closes: it drains, with the rules gone for whoever is new.
            assert await alive(flows) == ["proxy a"] * 3 * EACH
            lab.listen(lab.vm, "application", f"{VM4}/8080")
            assert await lab.call(lab.peer, VM4, 8080) == CallResult("application")
        assert await lab.nft("list", "ruleset") == before
