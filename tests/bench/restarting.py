"""An agent that is restarted under load: connections that fail or bypass the mesh, each way.

Peer: the machine stopped and started as a whole, proxy and rules with it, in order; what a unit without hand-over does.
"""

import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from tests.bench.figures import heading, note, row

from exclave_sandbox.demo.membership import JoinScenes
from exclave_sandbox.demo.traffic import open_load
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage.stage import DemoStage, open_stage

TIMES = 5

AROUND = 1.0
"""Seconds of traffic before the first, between two, and after the last."""


@dataclass
class Losses:
    """The sums over some restarts of one kind, both ways together."""

    connections: int = 0
    failed: int = 0
    bare: int = 0
    broken: int = 0
    away: float = 0.0


async def killed(stage: DemoStage) -> None:
    """SIGKILL, and a new start."""
    await stage.vm.kill_agent()
    stage.vm.start_agent()


async def reloaded(stage: DemoStage) -> None:
    """SIGHUP, as by `systemctl reload`: the same process starts its program anew."""
    assert stage.vm.agent is not None
    stage.vm.agent.send(signal.SIGHUP)
    await eventually("the agent to go", stage.vm.status, lambda status: not status)


async def stopped(stage: DemoStage) -> None:
    """SIGTERM, and a new start."""
    assert stage.vm.agent is not None
    stage.vm.agent.send(signal.SIGTERM)
    await stage.vm.agent.wait()
    stage.vm.start_agent()


async def measure(stage: DemoStage, restart: Callable[[DemoStage], Awaitable[None]]) -> Losses:
    """Restart it several times under load."""
    losses = Losses()

    async def state() -> object:
        return (await stage.vm.status()).get("state")

    async with open_load(stage) as load:
        for _ in range(TIMES):
            await trio.sleep(AROUND)
            began = trio.current_time()
            await restart(stage)
            await eventually("the agent to be ready", state, lambda found: found == "ready")
            losses.away += trio.current_time() - began
        await trio.sleep(AROUND)
    for figures in load.figures.values():
        losses.connections += figures["connections"]
        losses.failed += figures["failed"]
        losses.broken += figures["broken"]
        losses.bare += figures["clients"].get("None", 0)
    return losses


async def measure_all() -> tuple[Losses, Losses, Losses]:
    """A machine in the mesh, restarted in each way."""
    async with open_stage("24h") as stage:
        joining = JoinScenes(stage)
        await joining.make_token()
        stage.vm.start_agent()
        await stage.vm.wait_idle()
        await joining.join()
        await joining.listed()
        return await measure(stage, killed), await measure(stage, reloaded), await measure(stage, stopped)


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    by_kill, by_reload, peer = trio.run(measure_all, strict_exception_groups=True)
    for title, ours in (("killed with -9", by_kill), ("reloaded, as by SIGHUP", by_reload)):
        heading(f"The agent {title}, {TIMES} times under load both ways")
        row("connections made meanwhile", ours.connections, "", peer.connections)
        row("requests that failed", ours.failed, "", peer.failed)
        row("requests that passed by the mesh", ours.bare, "", peer.bare)
        row("kept connections that broke", ours.broken, "", peer.broken)
        row("until it is ready again, on average", ours.away / TIMES, "s", peer.away / TIMES)
    note("peer: stopped with SIGTERM, and started again: proxy and rules go, and come back")


if __name__ == "__main__":
    main()
