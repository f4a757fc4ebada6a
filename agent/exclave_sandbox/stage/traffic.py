"""Steady traffic for the demo and the benchmarks: `python -m exclave_sandbox.stage.traffic URL`.

Rules: every request is counted, and a request that did not get its 200 is a failure with its reason; half of the
workers open a new connection for each request, half keep one. It ends when its standard input ends, after the
requests under way, and prints one JSON line; each line it reads before is answered with the figures so far.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import h11
import trio

PATIENCE = 10.0
"""Seconds after which a request has failed."""


@dataclass
class Figures:
    """What happened so far."""

    requests: int = 0
    connections: int = 0
    broken: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    clients: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """One JSON line; `clients` counts the identities that the server saw, `broken` kept connections that ended."""
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


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str


class Channel:
    """One HTTP/1.1 connection. `stays`: neither end has said that it is over after this answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stays = True
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def get(self, target: Target, last: bool) -> tuple[int, bytes]:
        """Send one GET and return status and body; `last` asks the server to close."""
        headers = [("Host", f"{target.host}:{target.port}"), ("Connection", "close" if last else "keep-alive")]
        request = self._http.send(h11.Request(method="GET", target=target.path, headers=headers))
        await self._stream.send_all((request or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise ConnectionError("closed before the answer was whole")
        self.stays = (self._http.our_state, self._http.their_state) == (h11.DONE, h11.DONE)
        if self.stays:
            self._http.start_next_cycle()
        return status, body


async def _work(target: Target, figures: Figures, pause: float, *, keep: bool, ended: trio.Event) -> None:
    """Ask again and again until `ended`."""
    stream: trio.SocketStream | None = None
    channel: Channel | None = None
    has_answered = False
    while not ended.is_set():
        figures.requests += 1
        try:
            with trio.fail_after(PATIENCE):
                if channel is None:
                    figures.connections += 1
                    stream = await trio.open_tcp_stream(target.host, target.port)
                    channel = Channel(stream)
                status, body = await channel.get(target, last=not keep)
            has_answered = keep and channel.stays
            figures.broken += keep and not channel.stays
            if status == 200:
                figures.clients[str(json.loads(body).get("client_id"))] += 1
            else:
                figures.failures[f"status {status}: {body[:80].decode(errors='replace')}"] += 1
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError, ValueError) as problem:
            figures.failures[_reason(problem)] += 1
            figures.broken += has_answered
            channel, has_answered = None, False
        if stream is not None and (channel is None or not channel.stays):
            await trio.aclose_forcefully(stream)
            stream = channel = None
        with trio.move_on_after(pause):
            await ended.wait()
    if stream is not None:
        await trio.aclose_forcefully(stream)


def _reason(problem: BaseException) -> str:
    """What went wrong, down to the kernel's own word: of a connection that fails, trio tells only that it does."""
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


async def generate(target: Target, workers: int, rate: float) -> Figures:
    """Ask `target` with `workers` workers, `rate` requests a second each at most, until standard input ends."""
    figures, ended = Figures(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer, figures, ended)
        for number in range(workers):
            keeps = number % 2 == 0
            nursery.start_soon(partial(_work, target, figures, 1.0 / rate, keep=keeps, ended=ended))
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Steady HTTP traffic, counted; ends when standard input ends.")
    parser.add_argument("url", help="such as http://10.77.0.20:8080/")
    parser.add_argument("--workers", type=int, default=4, help="half of them keep their connection (default: 4)")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second of each worker (default: 10)")
    arguments = parser.parse_args()
    parts = urlsplit(arguments.url)
    target = Target(parts.hostname or "", parts.port or 80, parts.path or "/")
    sys.stdout.write(trio.run(generate, target, arguments.workers, arguments.rate).line() + "\n")


if __name__ == "__main__":
    main()
