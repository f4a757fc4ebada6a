"""Steady traffic for the demo and the benchmarks: `python -m exclave_sandbox.stage.traffic URL`.

Half of the workers open a connection for each request, half reuse one. A request without an answer of status 200 is a
failure. Each line of standard input is answered with the figures so far; its end ends the traffic, with a last line.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import SplitResult, urlsplit

import h11
import trio

from exclave_sandbox.http1 import HttpClient

PATIENCE = 10.0  # seconds after which a request has failed


@dataclass
class Figures:
    """What happened so far."""

    requests: int = 0
    connections: int = 0
    broken: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """One JSON line. `clients` counts identities that the server saw, `broken` reused connections that broke."""
        return json.dumps(
            {
                "requests": self.requests,
                "connections": self.connections,
                "broken": self.broken,
                "failed": sum(self.failures.values()),
                "failures": dict(self.failures),
                "clients": dict(self.clients),
            }
        )


async def _work(url: SplitResult, figures: Figures, pause: float, *, reuses: bool, ended: trio.Event) -> None:
    """Send requests until `ended`, with `pause` seconds between them; `reuses`: over one connection."""
    host, port = url.hostname or "", url.port or 80
    client: HttpClient | None = None
    has_answered = False
    while not ended.is_set():
        figures.requests += 1
        try:
            with trio.fail_after(PATIENCE):
                if client is None:
                    figures.connections += 1
                    client = HttpClient(await trio.open_tcp_stream(host, port))
                status, body = await client.get(f"{host}:{port}", url.path or "/", is_last=not reuses)
            has_answered = reuses and client.is_open
            figures.broken += reuses and not client.is_open
            if status == 200:
                figures.clients[str(json.loads(body).get("client_id"))] += 1
            else:
                figures.failures[f"status {status}: {body[:80].decode(errors='replace')}"] += 1
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError, ValueError) as problem:
            figures.failures[_reason(problem)] += 1
            figures.broken += has_answered
            has_answered = False
        if client is not None and not client.is_open:
            await trio.aclose_forcefully(client.stream)
            client = None
        with trio.move_on_after(pause):
            await ended.wait()
    if client is not None:
        await trio.aclose_forcefully(client.stream)


def _reason(problem: BaseException) -> str:
    """The problem with the kernel's error behind it: trio itself reports only that a connection failed."""
    cause = problem.__cause__
    causes = getattr(cause, "exceptions", (cause,) if cause is not None else ())
    return ": ".join([f"{type(problem).__name__}: {problem}", *map(str, causes)])


async def _answer(figures: Figures, ended: trio.Event) -> None:
    """Answer each line of standard input with the figures; its end ends the traffic."""
    async with trio.lowlevel.FdStream(0) as commands:
        async for lines in commands:
            for _ in range(lines.count(b"\n")):
                sys.stdout.write(figures.line() + "\n")
                sys.stdout.flush()
    ended.set()


async def generate(url: SplitResult, workers: int, rate: float) -> Figures:
    """Send requests with `workers` workers, `rate` requests a second each at most, until standard input ends."""
    figures, ended = Figures(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer, figures, ended)
        for number in range(workers):
            reuses = number % 2 == 0
            nursery.start_soon(partial(_work, url, figures, 1.0 / rate, reuses=reuses, ended=ended))
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Steady HTTP traffic, counted; ends when standard input ends.")
    parser.add_argument("url", help="such as http://10.77.0.20:8080/")
    parser.add_argument("--workers", type=int, default=4, help="half of them reuse their connection (default: 4)")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of each worker (default: 10)")
    arguments = parser.parse_args()
    figures = trio.run(generate, urlsplit(arguments.url), arguments.workers, arguments.rate)
    sys.stdout.write(figures.line() + "\n")


if __name__ == "__main__":
    main()
