"""Reads the tables of others from the kernel. It changes nothing.

Functions raise HostError if nft cannot be run, or lacks the permission. Tables of iptables-legacy are not read: the
agent's unit may not do so (host_check reads them before a join).
"""

from dataclasses import replace

import trio

from exclave.errors import Fault, HostError
from exclave.firewall.iptables import SavedRule, parse_saved
from exclave.firewall.ruleset import Rule, Table, parse_foreign_tables, parse_table, with_saved
from exclave.kit.host.command import check_permitted, run_command, run_tool, without_json

SAVE_PROGRAMS = {"ip": "iptables-nft-save", "ip6": "ip6tables-nft-save"}

SAVE_TIME = 10.0  # seconds for one of them; it takes milliseconds


async def read_tables() -> tuple[Table, ...]:
    """The tables of others that packets for this machine, and their answers, meet."""
    listed = await run_tool("nft", "-j", "list", "chains")
    if listed.status != 0:
        check_permitted(listed, "reading nftables")
        hint = "see whether it works: nft list ruleset"
        raise HostError(Fault.NFT_UNUSABLE, f"nft lists no rules: {listed.first_error}", hint)
    try:
        names = parse_foreign_tables(listed.output)
    except ValueError as problem:
        raise without_json(str(problem)) from None
    tables = [await _read_table(family, name) for family, name in names]
    return tuple([await _with_iptables(table) for table in tables if table is not None])


async def _read_table(family: str, name: str) -> Table | None:
    """One table; None if it was removed meanwhile."""
    listed = await run_tool("nft", "-j", "list", "table", family, name)
    if listed.status != 0:
        return None
    try:
        table = await trio.to_thread.run_sync(parse_table, listed.output)  # thousands of rules take seconds
        return replace(table, is_dormant=await _is_dormant(family, name)) if table.has_flags else table
    except ValueError:  # before 1.1.0, nft may cut off what it prints of a table with a flag
        return Table(family, name, is_unread=True)


async def read_rule_text(table: Table, rule: Rule) -> str:
    """A rule as nft prints it, without counters; "" if it was removed meanwhile. Raises HostError."""
    listed = await run_tool("nft", "-s", "-a", "list", "chain", table.family, table.name, rule.chain)
    end = f" # handle {rule.handle}"
    lines = listed.output.decode("utf-8", "replace").splitlines()
    return next((line.strip().removesuffix(end) for line in lines if line.endswith(end)), "")


async def _is_dormant(family: str, name: str) -> bool:
    listed = await run_tool("nft", "list", "table", family, name)
    return b"\tflags dormant\n" in listed.output


async def _with_iptables(table: Table) -> Table:
    """A table with the rules of iptables-nft, if it has such rules and the program is there that prints them."""
    if not table.has_iptables_rules or table.family not in SAVE_PROGRAMS:
        return table
    saved = await _save(SAVE_PROGRAMS[table.family], table.name)
    return with_saved(table, saved)


async def _save(program: str, table: str) -> dict[str, list[SavedRule]]:
    try:
        done = await run_command([program, "-t", table], timeout=SAVE_TIME)
    except (OSError, trio.TooSlowError):
        return {}
    if done.status != 0:
        return {}
    text = done.output.decode("utf-8", "replace")
    return (await trio.to_thread.run_sync(parse_saved, text)).get(table, {})
