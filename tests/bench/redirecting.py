"""Time and processes to put rules into the kernel and to take them out; the peer does it rule by rule."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from tests.bench.figures import heading, median_of, note, processes_started, row

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.link.layout import TABLE
from exclave.redirect.kernel.nft import remove_table
from exclave.redirect.reconciler import open_redirect
from exclave.redirect.rules.policy import RedirectPolicy, Server
from exclave.redirect.rules.ruleset import render_ruleset

TIMES = 9


def policy(exclusions: int) -> RedirectPolicy:
    """A machine with one port and this many excluded networks."""
    excluded = tuple(f"10.42.{number // 250}.{number % 250}/32" for number in range(exclusions))
    return RedirectPolicy(
        instance="a",
        addresses=("10.77.0.20",),
        inbound_ports=(8080,),
        networks=("10.42.0.0/16",),
        proxy_uid=990,
        servers=(Server("10.77.0.1", 6443),),
        families=(4,),
        exempt_networks=excluded,
    )


async def apply(wanted: RedirectPolicy) -> None:
    """Apply and read back, as the agent does."""
    endings = EndingSwitch()
    with TemporaryDirectory() as runtime:  # always a new one: nothing to compare with, so the rules are made
        async with open_redirect(Latest[RedirectPolicy | None](wanted), Path(runtime), endings) as redirect:
            assert redirect.in_place
            assert endings.value is Ending.HAND_OVER  # so that the rules stay


def one_by_one(listed: str) -> Iterator[list[str]]:
    """The commands that make a listed table rule by rule, as scripts over `iptables` or `nft` do."""
    chain = ""
    yield ["nft", f"add table inet {TABLE}"]
    for line in map(str.strip, listed.splitlines()):
        if found := re.match(r"(chain|set) (\S+) {", line):
            chain = found[2] if found[1] == "chain" else ""
        elif line.startswith("type ") and chain and "hook" in line:
            yield ["nft", f"add chain inet {TABLE} {chain} {{ {line} }}"]
        elif chain and line not in ("}", "") and "@" not in line:
            yield ["nft", f"add rule inet {TABLE} {chain} {line.split(' comment ')[0]}"]


def measure(exclusions: int) -> None:
    """Print the figures for this many exclusions."""
    wanted = policy(exclusions)
    before = processes_started()
    trio.run(apply, wanted)
    started = processes_started() - before
    listed = subprocess.run(["nft", "list", "table", "inet", TABLE], capture_output=True, text=True, check=True).stdout

    def again() -> None:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        trio.run(apply, wanted)

    flush = median_of(TIMES, lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))
    applied = median_of(TIMES, again) - flush
    commands = list(one_by_one(listed))

    def peer() -> None:
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)

    theirs = median_of(TIMES, peer) - flush
    trio.run(apply, wanted)
    before = processes_started()
    trio.run(remove_table)
    removing = processes_started() - before
    removed = median_of(TIMES, lambda: trio.run(remove_table))
    rules = render_ruleset(wanted).encode()
    alone = median_of(TIMES, lambda: subprocess.run(["nft", "-f", "-"], input=rules, check=True))
    row(f"{exclusions} exclusions: applied and read back", 1000 * applied, "ms", 1000 * theirs)
    row(f"{exclusions} exclusions: of that, the one transaction", 1000 * alone, "ms")
    row(f"{exclusions} exclusions: processes and threads for that", started, "", len(commands))
    row(f"{exclusions} exclusions: removed, from cold", 1000 * removed, "ms")
    row(f"{exclusions} exclusions: processes and threads for that", removing, "")


def main() -> None:
    """Print the figures."""
    heading(f"Redirecting (median of {TIMES} times)")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for exclusions in (0, 1000):
        measure(exclusions)
    note("peer: the rules that need no set, one nft process each, neither read back nor in one transaction")


if __name__ == "__main__":
    main()
