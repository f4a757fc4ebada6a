"""What the kernel says of rules, routes, addresses and listeners, for `exclave explain`: asked once, changed never.

Raises HostError where nft or ip cannot be run, or may not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil
import trio

from exclave.errors import Fault, HostError
from exclave.explain.table import Table, parse_rule_texts, parse_table
from exclave.kit.host.command import Finished, run_command
from exclave.link.layout import LINK, TABLE

TRIES = 5
"""Looks at a table that is made anew between two of them."""


@dataclass(frozen=True)
class KernelTable:
    """The table, and the text of each of its rules by handle."""

    table: Table
    texts: Mapping[int, str]


@dataclass(frozen=True)
class Route:
    """How this machine would reach an address: what kind that is, the interface, and its own address for it."""

    kind: str
    interface: str
    source: str | None


async def read_kernel_table() -> KernelTable | None:
    """Our table as it stands; None if there is none."""
    for _ in range(TRIES):
        listed = await _run("nft", "-j", "list", "table", "inet", TABLE)
        if listed.status != 0 and "No such file or directory" in listed.errors:
            return None
        told = await _run("nft", "-a", "list", "table", "inet", TABLE)
        if listed.status != 0 or told.status != 0:
            if "No such file or directory" in told.errors:
                continue
            raise _unreadable(listed if listed.status != 0 else told)
        try:
            table = parse_table(listed.output.decode())
            texts = parse_rule_texts(told.output.decode())
        except ValueError as problem:
            raise HostError(
                Fault.NFT_UNUSABLE, str(problem), "exclave needs nftables 0.9.3 or newer, with JSON"
            ) from None
        if table is not None and table.handle == texts.handle:
            return KernelTable(replace(table, is_dormant=texts.is_dormant), texts.rules)
    raise HostError(
        Fault.NFT_UNUSABLE, "the table changes at every look", "see who changes it: nft monitor; then ask again"
    )


async def read_other_nat_chains(hook: str) -> tuple[str, ...]:
    """Chains of others that may translate connections at a hook, in the order that the kernel asks them."""
    listed = await _run("nft", "-j", "list", "chains")
    if listed.status != 0:
        raise _unreadable(listed)
    chains = [item["chain"] for item in json.loads(listed.output)["nftables"] if "chain" in item]
    found = [
        (chain["prio"], f"{chain['family']} {chain['table']} {chain['name']}")
        for chain in chains
        if chain.get("type") == "nat" and chain.get("hook") == hook and chain["table"] != TABLE
    ]
    return tuple(name for _, name in sorted(found))


async def read_route(address: str, *arguments: str) -> Route | str:
    """The route to an address, `uid 1000` may follow as for `ip route get`; or the kernel's word why there is none."""
    told = await _run("ip", "-json", "route", "get", address, *arguments)
    if told.status != 0:
        return told.errors.splitlines()[0].removeprefix("RTNETLINK answers: ") if told.errors else "no route"
    return parse_route(told.output)


def parse_route(listing: bytes) -> Route:
    """Read what `ip -json route get` prints."""
    (found, *_) = json.loads(listing)
    return Route(found.get("type", "unicast"), found["dev"], found.get("prefsrc"))


async def read_addresses() -> tuple[str, ...]:
    """This machine's addresses that others may know."""
    told = await _run("ip", "-json", "address", "show")
    links: list[dict[str, Any]] = json.loads(told.output) if told.status == 0 else []
    return tuple(
        info["local"]
        for link in links
        for info in link.get("addr_info", ())
        if link["ifname"] != LINK and info.get("scope") == "global"
    )


async def is_listening(address: str, port: int) -> bool:
    """Whether some program takes connections there."""
    found = await trio.to_thread.run_sync(psutil.net_connections, "tcp")
    places = {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}
    return any((its, port) in places for its in (address, "0.0.0.0", "::"))  # noqa: S104


def _unreadable(done: Finished) -> HostError:
    if "not permitted" in done.errors:
        return HostError(
            Fault.NO_PRIVILEGE, "reading nftables is not permitted", "run as root, with the capability NET_ADMIN"
        )
    first = (done.errors.splitlines() or ["no word"])[0]
    return HostError(Fault.NFT_UNUSABLE, f"nft lists no rules: {first}", "see whether it works: nft list ruleset")


async def _run(*arguments: str) -> Finished:
    try:
        return await run_command(arguments)
    except OSError as problem:
        package = {"nft": "nftables", "ip": "iproute2"}[arguments[0]]
        raise HostError(
            Fault.NFT_UNUSABLE,
            f"the program {arguments[0]} cannot be run: {problem.strerror}",
            f"install it: apt install {package}",
        ) from None
    except trio.TooSlowError:
        raise HostError(
            Fault.NFT_UNUSABLE, f"the program {arguments[0]} did not end within 30 s", "see what holds it: nft monitor"
        ) from None
