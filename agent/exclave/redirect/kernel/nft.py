"""Runs `nft`: load rules in one transaction, list our table, remove it. A failure leaves the rules as they were."""

from exclave.errors import Fault, HostError
from exclave.kit.host.command import Finished, check_permitted, run_tool, without_json
from exclave.link.layout import TABLE, Instance
from exclave.milestones import Withdrawing, log_milestone
from exclave.redirect.kernel.observe import NOTHING, Observed, parse_listing
from exclave.redirect.rules.confirm_timer import render_confirmed
from exclave.redirect.rules.ruleset import render_drain, render_removal


async def load_rules(rules: str) -> None:
    """Load a transaction. Raises HostError."""
    loaded = await run_tool("nft", "-f", "-", stdin=rules.encode())
    if loaded.status != 0:
        raise _translated(loaded)


async def drain_table() -> None:
    """Replace our table, if there is one, by the drain ruleset: open connections go on. Raises HostError."""
    if (await observe_table()).installed:
        await load_rules(render_drain())
    log_milestone(Withdrawing.HOLDING)


async def remove_table() -> None:
    """Remove our table, also without an agent. End the proxies before, or connections are reset. Raises HostError."""
    await load_rules(render_removal())
    log_milestone(Withdrawing.TABLE)


async def find_active() -> Instance | None:
    """The instance that the kernel's rules point to, before any proxy is started. Raises HostError."""
    return (await observe_table()).instance


async def find_armed() -> float | None:
    """Seconds for which unconfirmed rules still capture; None if the rules are confirmed. Raises HostError."""
    return (await observe_table()).armed_left


async def confirm_from_cold() -> None:
    """Confirm the rules without an agent, if they still capture. Raises HostError."""
    if await find_armed():
        await load_rules(render_confirmed())


async def observe_table() -> Observed:
    """Our table as it is now. Raises HostError."""
    listed = await run_tool("nft", "-j", "list", "table", "inet", TABLE)
    if listed.status != 0:
        if "No such file or directory" in listed.errors:
            return NOTHING
        raise _translated(listed)
    try:
        return parse_listing(listed.output.decode())
    except ValueError as problem:
        raise without_json(str(problem)) from None


def _translated(done: Finished) -> HostError:
    check_permitted(done, "changing nftables")
    return HostError(
        Fault.NFT_UNUSABLE,
        f"nft refused the rules: {done.first_error}",
        "the kernel needs nf_tables with NAT (modules nft_chain_nat, nf_conntrack)",
    )
