"""Reads rules, addresses and listeners from the kernel for `exclave explain`. It changes nothing.

Functions raise HostError if nft cannot be run, or lacks the permission.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

import psutil
import trio

from exclave.errors import Fault, HostError
from exclave.explain.table import Table, parse_rule_texts, parse_table
from exclave.kit.formats.nft_json import parse_items
from exclave.kit.host.command import Finished, check_permitted, run_tool, without_json
from exclave.kit.host.procfs import addresses_by_interface
from exclave.link.layout import KEEPALIVE_TABLE, LINK, PRIVATE_TABLE, TABLE

TRIES = 5  # attempts, since the table may be replaced between its two listings


@dataclass(frozen=True)
class KernelTable:
    """The table, and the text of each of its rules by handle."""

    table: Table
    texts: Mapping[int, str]


OUR_TABLES = (TABLE, KEEPALIVE_TABLE, PRIVATE_TABLE)  # only the first one redirects


async def read_kernel_table() -> KernelTable | None:
    """Our table; None if there is none."""
    for _ in range(TRIES):
        listed = await run_tool("nft", "-j", "list", "table", "inet", TABLE)
        if listed.status != 0 and "No such file or directory" in listed.errors:
            return None
        texts_listing = await run_tool("nft", "-a", "list", "table", "inet", TABLE)
        if listed.status != 0 or texts_listing.status != 0:
            if "No such file or directory" in texts_listing.errors:
                continue
            raise _unreadable(listed if listed.status != 0 else texts_listing)
        try:
            table = parse_table(listed.output.decode())
            texts = parse_rule_texts(texts_listing.output.decode())
        except ValueError as problem:
            raise without_json(str(problem)) from None
        if table is not None and table.handle == texts.handle:
            return KernelTable(replace(table, is_dormant=texts.is_dormant), texts.rules)
    raise HostError(
        Fault.NFT_UNUSABLE, "the table changes at every reading", "see who changes it: nft monitor; then try again"
    )


async def read_other_nat_chains(hook: str) -> tuple[str, ...]:
    """Other NAT chains at a hook, in the kernel's order."""
    listed = await run_tool("nft", "-j", "list", "chains")
    if listed.status != 0:
        raise _unreadable(listed)
    try:
        chains = [item["chain"] for item in parse_items(listed.output) if "chain" in item]
    except ValueError as problem:
        raise without_json(str(problem)) from None
    found = [
        (chain["prio"], f"{chain['family']} {chain['table']} {chain['name']}")
        for chain in chains
        if chain.get("type") == "nat" and chain.get("hook") == hook and chain["table"] not in OUR_TABLES
    ]
    return tuple(name for _, name in sorted(found))


def read_addresses() -> tuple[str, ...]:
    """This machine's addresses that others can reach, without those of the private link."""
    found = addresses_by_interface().items()
    listed = [ip_address(address) for name, addresses in found if name != LINK for address in addresses]
    return tuple(str(each) for each in listed if not each.is_loopback and not each.is_link_local)


async def is_listening(address: str, port: int) -> bool:
    """True if a program listens there."""
    found = await trio.to_thread.run_sync(psutil.net_connections, "tcp")
    listeners = {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}
    return any((host, port) in listeners for host in (address, "0.0.0.0", "::"))  # noqa: S104


def _unreadable(done: Finished) -> HostError:
    check_permitted(done, "reading nftables")
    return HostError(
        Fault.NFT_UNUSABLE, f"nft lists no rules: {done.first_error}", "see whether it works: nft list ruleset"
    )
