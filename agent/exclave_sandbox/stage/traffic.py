"""Steady traffic for the demo, tests and benchmarks: `python -m exclave_sandbox.stage.traffic URL`.

Some workers open a connection for each request, others reuse one. A request without an answer of status 200 is a
failure. Each line of standard input is answered with the figures so far, the line `renew` after every reused connection
was closed to be opened anew. The end of standard input ends the traffic, with a last line that also has the samples.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import SplitResult, urlsplit

import h11
import trio

from exclave.kit.tasks.latest import Latest
from exclave_sandbox.http1 import HttpClient

PATIENCE = 10.0  # seconds after which a request has failed


@dataclass
class Figures:
    """Counts of the requests so far."""

    requests: int = 0
    connections: int = 0
    broken: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float]] = field(default_factory=list)
    """Of each answer over a new connection: its begin (seconds of CLOCK_MONOTONIC), and seconds until it was there."""

    def line(self, *, is_last: bool = False) -> str:
        """One JSON line, the last one with `samples`.

        `clients` counts identities that the server saw, `broken` reused connections that broke.
        """
        counts = {**vars(self), "failed": sum(self.failures.values())}
        return json.dumps({name: count for name, count in counts.items() if is_last or name != "samples"})


@dataclass
class Renewals:
    """Requests to open all reused connections anew, and the number of those closed for that."""

    requested: int = 0
    closed: Latest[int] = field(default_factory=lambda: Latest(0))


@dataclass(frozen=True)
class Plan:
    """The target of requests, the seconds from one to the next, and the address that they come from (None: any)."""

    url: SplitResult
    interval: float
    source: str | None = None


async def _work(plan: Plan, figures: Figures, renewals: Renewals, *, reuses: bool, ended: trio.Event) -> None:
    """Send requests until `ended`; `reuses`: over one connection."""
    host, port = plan.url.hostname or "", plan.url.port or 80
    client: HttpClient | None = None
    has_answered, renewed = False, renewals.requested
    while not ended.is_set():
        figures.requests += 1
        began, due = time.monotonic(), trio.current_time() + plan.interval
        try:
            with trio.fail_after(PATIENCE):
                if client is None:
                    figures.connections += 1
                    client = HttpClient(await trio.open_tcp_stream(host, port, local_address=plan.source))
                status, body = await client.get(f"{host}:{port}", plan.url.path or "/", is_last=not reuses)
            has_answered = reuses and client.is_open
            figures.broken += reuses and not client.is_open
            if status == 200:
                figures.clients[str(json.loads(body).get("client_id"))] += 1
                if not reuses:
                    figures.samples.append((began, time.monotonic() - began))
            else:
                figures.failures[f"status {status}: {body[:80].decode(errors='replace')}"] += 1
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError, ValueError) as problem:
            figures.failures[_reason(problem)] += 1
            figures.broken += has_answered
            has_answered = False
        is_renewal = reuses and renewed < renewals.requested
        if client is not None and (is_renewal or not client.is_open):
            await trio.aclose_forcefully(client.stream)
            client = None
        if is_renewal:
            renewed, has_answered = renewals.requested, False
            renewals.closed.set(renewals.closed.value + 1)
        with trio.move_on_at(due):
            await ended.wait()
    if client is not None:
        await trio.aclose_forcefully(client.stream)


def _reason(problem: BaseException) -> str:
    """The problem with the kernel's error behind it: trio itself reports only that a connection failed."""
    cause = problem.__cause__
    causes = getattr(cause, "exceptions", (cause,) if cause is not None else ())
    return ": ".join([f"{type(problem).__name__}: {problem}", *map(str, causes)])


async def _renew(renewals: Renewals, reusing: int) -> None:
    """Have every reused connection closed, after the request under way."""
    due = renewals.closed.value + reusing
    renewals.requested += 1
    await renewals.closed.wait_for(lambda closed: closed >= due)


async def _answer(figures: Figures, renewals: Renewals, reusing: int, ended: trio.Event) -> None:
    """Answer each line of standard input with the figures; its end ends the traffic."""
    async with trio.lowlevel.FdStream(0) as commands:
        async for lines in commands:
            for line in lines.splitlines():
                if line == b"renew":
                    await _renew(renewals, reusing)
                sys.stdout.write(figures.line() + "\n")
                sys.stdout.flush()
    ended.set()


async def generate(plan: Plan, new: int, reusing: int) -> Figures:
    """Send requests until standard input ends, with so many workers that open connections, and that reuse one."""
    figures, renewals, ended = Figures(), Renewals(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer, figures, renewals, reusing, ended)
        for number in range(new + reusing):
            nursery.start_soon(partial(_work, plan, figures, renewals, reuses=number < reusing, ended=ended))
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Steady HTTP traffic, counted; ends when standard input ends.")
    parser.add_argument("url", help="such as http://10.77.0.20:8080/")
    parser.add_argument("--new", type=int, default=2, help="workers that open a connection for each request")
    parser.add_argument("--reusing", type=int, default=2, help="workers that reuse one (default: 2 and 2)")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of each worker (default: 10)")
    parser.add_argument("--source", help="address that connections come from")
    arguments = parser.parse_args()
    plan = Plan(urlsplit(arguments.url), 1.0 / arguments.rate, arguments.source)
    figures = trio.run(generate, plan, arguments.new, arguments.reusing)
    sys.stdout.write(figures.line(is_last=True) + "\n")


if __name__ == "__main__":
    main()
