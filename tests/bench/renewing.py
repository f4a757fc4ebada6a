"""The cost of a renewal on a serving machine: requests to the API server, processor time. The peer is the bare work."""

import logging
import time
from collections import Counter

import psutil
import trio
from tests.bench.figures import heading, note, row

from exclave.api.csr import make_csr
from exclave.identity.storage import generate_key
from exclave.identity.svid import check_svid
from exclave_sandbox.demo.membership import JoinScenes
from exclave_sandbox.demo.traffic import TrafficScenes
from exclave_sandbox.stage.stage import DemoStage, open_stage
from support.mesh import IDENTITY
from support.mesh import mesh as made_mesh

SECONDS = 40.0


class Meter:
    """The resources that an agent has used so far."""

    def __init__(self, stage: DemoStage) -> None:
        assert stage.vm.agent is not None
        self.stage = stage
        self.agent = psutil.Process(stage.vm.agent.pid)

    async def read(self) -> tuple[float, Counter[tuple[str, str]], int]:
        """Seconds of processor, requests, renewals."""
        asked: Counter[tuple[str, str]] = Counter()
        for (user, verb, resource), count in self.stage.api.counts.items():
            if ".vm." in user:
                asked[verb, resource] += count
        used = self.agent.cpu_times()
        metrics = (await self.stage.vm.status())["metrics"]
        renewals = metrics.get('exclave_certificate_renewals_total{result="ok"}', 0)
        return used.user + used.system, asked, int(renewals)

    async def over(self, seconds: float) -> tuple[float, Counter[tuple[str, str]], int]:
        """The same, for the next seconds."""
        used, asked, renewals = await self.read()
        await trio.sleep(seconds)
        used_then, asked_then, renewals_then = await self.read()
        return used_then - used, asked_then - asked, renewals_then - renewals


async def measure() -> None:
    """Print the figures: a while with certificates of ten seconds, against a while with those of a day."""
    async with open_stage("10s") as stage:
        joining = JoinScenes(stage)
        await joining.outside()
        await joining.make_token()
        stage.vm.start_agent()
        await stage.vm.wait_idle()
        await joining.join()
        meter = Meter(stage)
        used, asked, renewals = await meter.over(SECONDS)
        await TrafficScenes(stage).longer_life()
        idle, asked_idle, _ = await meter.over(SECONDS)
        row("processor for one renewal", 1000 * (used - idle) / renewals, "ms", 1000 * bare_work())
        note("peer: key, CSR and checks alone; the difference is asking, storing and telling")
        row("API round trips for one renewal", (asked.total() - asked_idle.total()) / renewals, "")
        for (verb, resource), count in sorted((asked - asked_idle).items()):
            row(f"  {verb} {resource}, in {renewals} renewals", count, "")


def bare_work() -> float:
    """Seconds of processor for the least work of a renewal."""
    mesh_of_ours, times = made_mesh(), 50
    leaf = mesh_of_ours.leaf()
    chain = mesh_of_ours.chain(leaf)
    began = time.process_time()
    for _ in range(times):
        make_csr(generate_key(), "web-k7q2x-1")
        check_svid(chain, leaf.key, mesh_of_ours.anchor.pem, IDENTITY, time.time())
    return (time.process_time() - began) / times


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    heading(f"A renewal (over {SECONDS:.0f} s)")
    trio.run(measure, strict_exception_groups=True)


if __name__ == "__main__":
    main()
