"""Traffic between a pod and a booted machine: steady requests that are counted, and connections with their times."""

import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

import trio

from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.programs import Traffic, module, open_traffic
from exclave_sandbox.stage.stage import DemoStage
from vm.machine import LIMIT, AnyMachine

SAMPLER = Path(__file__).resolve().parents[1] / "crash/sample_connections.py"
PAUSE, PATIENCE = "0.1", "5"
"""Seconds between new connections, and for one."""


@dataclass(frozen=True)
class Counts:
    """Requests in a time. `plain` arrived without an identity; `broken` are reused connections that broke."""

    requests: int
    failed: int
    plain: int
    broken: int
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.failed} failed, {self.plain} plaintext of {self.requests}"
        return f"{text}, {self.broken} reused connections broke" if self.broken else text


def _counts(before: dict[str, object], after: dict[str, object]) -> Counts:
    def grown(name: str) -> int:
        return int(after[name]) - int(before[name])  # type: ignore[call-overload, no-any-return]

    plain = [found["clients"].get("None", 0) for found in (before, after)]  # type: ignore[attr-defined]
    old: dict[str, int] = before["failures"]  # type: ignore[assignment]
    new: dict[str, int] = after["failures"]  # type: ignore[assignment]
    reasons = tuple(f"{count - old.get(why, 0)}x {why}" for why, count in new.items() if count > old.get(why, 0))
    return Counts(grown("requests"), grown("failed"), plain[1] - plain[0], grown("broken"), reasons)


@dataclass
class Load:
    """Requests both ways, over new and over reused connections."""

    ways: dict[str, Traffic]

    async def figures(self) -> dict[str, dict[str, object]]:
        """The counts so far, by way."""
        return {way: json.loads(await traffic.request()) for way, traffic in self.ways.items()}

    async def since(self, before: dict[str, dict[str, object]]) -> dict[str, Counts]:
        """What was counted since then, by way."""
        return {way: _counts(before[way], found) for way, found in (await self.figures()).items()}

    async def more(self, requests: int) -> None:
        """Wait until each way has sent so many requests more."""
        before = await self.figures()

        async def least() -> int:
            return min(found.requests for found in (await self.since(before)).values())

        await eventually("requests", least, lambda count: int(str(count)) >= requests, 0.1)


@asynccontextmanager
async def open_load(stage: DemoStage, machine: AnyMachine, host: str = mesh.GROUP_SERVICE) -> AsyncIterator[Load]:
    """Requests from the pod to `host`, by default the group's Service, and from the machine to the pod."""
    generator = "exclave_sandbox.stage.traffic"
    inside = machine.command(
        "/usr/bin/python3", "-B", "-m", generator, _POD, options=["--setenv=PYTHONPATH=/opt/sandbox"]
    )
    async with AsyncExitStack() as stack:
        inbound = stage.pod.command(*module(generator, f"http://{host}:{mesh.GROUP_PORT}/"))
        ways = {"pod to machine": inbound, "machine to pod": inside}
        yield Load({way: await stack.enter_async_context(open_traffic(words)) for way, words in ways.items()})


_POD = f"http://{mesh.POD}:{mesh.POD_PORT}/"


async def read_line(stream: trio.abc.ReceiveStream) -> bytes:
    """Read one line of a program, which may arrive in pieces; nothing may follow it."""
    text = b""
    while not text.endswith(b"\n"):
        piece = await stream.receive_some()
        assert piece, "the program has ended"
        text += piece
    return text


@dataclass
class Sampler:
    """New connections all the time, each with begin and end (seconds of CLOCK_MONOTONIC) and its outcome."""

    started: trio.Process
    samples: list[tuple[float, float, str]] = field(default_factory=list)

    async def read(self) -> list[tuple[float, float, str]]:
        """Read the results of the connections that have ended; all of them."""
        assert self.started.stdin is not None and self.started.stdout is not None
        await self.started.stdin.send_all(b"\n")
        text = await read_line(self.started.stdout)
        self.samples += [(begun, ended, outcome) for begun, ended, outcome in json.loads(text)]
        return self.samples

    async def wait_meshed(self, since: float, limit: float = LIMIT) -> float:
        """Wait for ten meshed connections one after the other that began after `since`; when the first one began."""
        with trio.fail_after(limit):
            while True:
                found = sorted(sample for sample in await self.read() if sample[0] >= since)
                if len(found) >= 10 and all(outcome == "meshed" for _, _, outcome in found[-10:]):
                    return next(found[n][0] for n in range(len(found)) if all(s[2] == "meshed" for s in found[n:]))
                await trio.sleep(0.1)

    def outcomes(self, since: float, until: float = float("inf")) -> dict[str, int]:
        """The counts of outcomes of connections that began then."""
        found: dict[str, int] = {}
        for begun, _, outcome in self.samples:
            if since <= begun <= until:
                found[outcome] = found.get(outcome, 0) + 1
        return found


@asynccontextmanager
async def open_sampler(command: Sequence[str]) -> AsyncIterator[Sampler]:
    """A sampler with this argument list; see `sampler_words`."""
    started = await trio.lowlevel.open_process(list(command), stdin=PIPE, stdout=PIPE, start_new_session=True)
    try:
        yield Sampler(started)
    finally:
        with shielded(60.0):
            started.kill()
            await started.wait()


def sampler_words(stage: DemoStage, pause: str = PAUSE, patience: str = PATIENCE) -> list[str]:
    """The argument list of a sampler from the pod to the group's Service.

    By a machine's own address, a pod would rightly speak plaintext while the cluster does not list that machine.
    """
    words = [sys.executable, "-I", str(SAMPLER), mesh.GROUP_SERVICE, str(mesh.GROUP_PORT), pause, patience]
    return stage.pod.command(*words)


def now() -> float:
    """The clock of samples, which all machines share."""
    return time.monotonic()
