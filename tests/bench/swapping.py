"""The cost of a swap for new connections: failures and extra time. The peer is a second without a swap.

EXCLAVE_LINKERD2_PROXY names a real linkerd2-proxy, which is then measured, too.
"""

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio
from tests.bench.figures import heading, note, row

from support.agent_program import Agent
from support.swap_lab import Lab, Load, open_lab

LEAST = 10_000
"""New connections, at least."""

SWAPS = 4
"""Swaps, at least."""

MOMENT = 0.25
"""Seconds before and after the new rules that count as the moment of swapping."""

QUIET = 2.0
"""Seconds after each swap in which nothing happens."""

WORKERS, LONG, RATE = 6, 3, 60.0

AT_LEAST = 200.0
"""New connections a second that a small machine can open."""

Window = tuple[float, float]


@dataclass
class Windows:
    """The times of the steps, in seconds of CLOCK_MONOTONIC."""

    swaps: list[Window] = field(default_factory=list)
    moments: list[Window] = field(default_factory=list)
    quiet: list[Window] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


async def swap_on(lab: Lab, agent: Agent) -> tuple[Windows, dict[str, Load]]:
    """Swap to and fro under load until there are enough swaps and connections."""
    windows, began = Windows(), time.monotonic()
    async with lab.load(WORKERS, LONG, RATE) as loads:
        while len(windows.swaps) < SWAPS or (time.monotonic() - began) * AT_LEAST < LEAST:
            asked = time.monotonic()
            await agent.send("swap")
            report = await agent.outcome()
            moved = time.monotonic()
            assert report["error"] is None, report
            windows.took.append(moved - asked)
            await trio.sleep(MOMENT)
            windows.swaps.append((asked, time.monotonic()))
            windows.moments.append((moved - MOMENT, moved + MOMENT))
            for load in loads.values():
                await load.renew()
            await agent.until_alone()
            calm = time.monotonic()
            await trio.sleep(QUIET)
            windows.quiet.append((calm, time.monotonic()))
    return windows, loads


def within(samples: list[list[float]], windows: list[Window]) -> list[float]:
    """Milliseconds of each connection that was under way in a window, sorted."""
    return sorted(
        1000 * took for began, took in samples if any(began <= end and began + took >= start for start, end in windows)
    )


def share(taken: list[float], part: float) -> float:
    return taken[min(len(taken) - 1, int(part * len(taken)))]


def show(windows: Windows, loads: dict[str, Load]) -> None:
    """Print the figures."""
    new = sum(len(load.figures["samples"]) for load in loads.values())
    kept = sum(load.reused for load in loads.values())
    failed = sum(sum(load.failures.values()) for load in loads.values())
    row("swaps", len(windows.swaps), "")
    row("new connections", new, "")
    row("requests on kept connections", kept, "")
    row("failed or reset, of all", failed, "")
    for way, load in loads.items():
        for failure, count in load.failures.items():
            note(f"{way}: {count} times {failure}")
    row("from asking to the new rules, median", sorted(windows.took)[len(windows.took) // 2], "s")
    for way, load in loads.items():
        quiet = within(load.figures["samples"], windows.quiet)
        for name, when in (("during a swap", windows.swaps), ("as the rules change", windows.moments)):
            taken = within(load.figures["samples"], when)
            for part, word in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
                row(f"{way}, a new connection's answer {name}, {word}", share(taken, part), "ms", share(quiet, part))


async def measure(real: str | None) -> None:
    """Measure with the stand-in, or with a real proxy."""
    async with open_lab() as lab:
        if real is not None:
            lab.use_real_proxy(real)
        async with lab.agent() as agent:
            await agent.until_alone()
            if real is not None:
                lab.start_real_controllers()
            windows, loads = await swap_on(lab, agent)
        show(windows, loads)


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    heading("Swaps under load, with the stand-in proxy")
    note("peer: the same in the quiet seconds of the same run")
    trio.run(measure, None, strict_exception_groups=True)
    real = os.environ.get("EXCLAVE_LINKERD2_PROXY")
    if real and Path(real).exists():
        heading("Swaps under load, with the real linkerd2-proxy")
        trio.run(measure, real, strict_exception_groups=True)


if __name__ == "__main__":
    main()
