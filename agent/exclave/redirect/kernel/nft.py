"""What the program `nft` does for us: load rules in one transaction, list our table, remove it.

Rules: one process each; a failure is told by who must act, HostError, and leaves what stood.
"""

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.command import Finished, run_command
from exclave.link.layout import TABLE, Instance
from exclave.milestones import Withdrawing, tell
from exclave.redirect.kernel.observe import NOTHING, Observed, observe
from exclave.redirect.rules.confirm_timer import render_keeping
from exclave.redirect.rules.drain_ruleset import render_holding
from exclave.redirect.rules.ruleset import render_removal


async def load_rules(rules: str) -> None:
    """Carry out a transaction. Raises HostError."""
    loaded = await _nft("-f", "-", stdin=rules.encode())
    if loaded.status != 0:
        raise _translated(loaded)


async def hold_table() -> None:
    """Capture nothing new from now on, and keep what lives, if there is a table of ours. Raises HostError."""
    if (await look()).installed:
        await load_rules(render_holding())
    tell(Withdrawing.HOLDING)


async def remove_table() -> None:
    """Remove our table, from cold, as often as one likes. Raises HostError.

    What it has translated is reset: end the proxies before.
    """
    await load_rules(render_removal())
    tell(Withdrawing.TABLE)


async def find_active() -> Instance | None:
    """The instance that the kernel's rules point to, before anything of ours runs. Raises HostError."""
    return (await look()).instance


async def find_armed() -> float | None:
    """Seconds for which rules that are not confirmed still capture; None if there are none. Raises HostError."""
    return (await look()).armed_left


async def keep_armed() -> None:
    """Confirm the rules that stand, from cold, if they capture still. Raises HostError."""
    if await find_armed():
        await load_rules(render_keeping())


async def look() -> Observed:
    """Our table as it stands. Raises HostError."""
    listed = await _nft("-j", "list", "table", "inet", TABLE)
    if listed.status != 0:
        if "No such file or directory" in listed.errors:
            return NOTHING
        raise _translated(listed)
    try:
        return observe(listed.output.decode())
    except ValueError as problem:
        raise HostError(Fault.NFT_UNUSABLE, str(problem), "exclave needs nftables 0.9.3 or newer, with JSON") from None


async def _nft(*arguments: str, stdin: bytes = b"") -> Finished:
    try:
        return await run_command(["nft", *arguments], stdin=stdin)
    except OSError as problem:
        raise HostError(
            Fault.NFT_UNUSABLE,
            f"the program nft cannot be run: {problem.strerror}",
            "install it: apt install nftables",
        ) from None
    except trio.TooSlowError:
        raise HostError(
            Fault.NFT_UNUSABLE,
            "the program nft did not end within 30 s",
            "see what holds the kernel's tables: nft monitor",
        ) from None


def _translated(done: Finished) -> HostError:
    first = (done.errors.splitlines() or ["no word"])[0]
    if "not permitted" in done.errors:
        return HostError(
            Fault.NO_PRIVILEGE,
            "changing nftables is not permitted",
            "run as root, with the capability NET_ADMIN",
        )
    return HostError(
        Fault.NFT_UNUSABLE,
        f"nft refused the rules: {first}",
        "the kernel needs nf_tables with NAT (modules nft_chain_nat, nf_conntrack)",
    )
