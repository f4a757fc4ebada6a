"""A fleet that joins at once: the real join code, the real controller as a program, a real API server with etcd.

    python -m tests.bench.storm [--members 100,300,1000] [--release 1.37] [--plot storm.png]

Every machine has a folder, an id and an address of its own; none has a data path. The fleet grows in the same cluster,
so that what a request costs beside it is seen, too. Peer: as many bare creations of a ConfigMap, by as many clients.
"""

import argparse
import itertools
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import httpx
import psutil
import trio
from prometheus_client.parser import text_string_to_metric_families
from tests.bench.figures import heading, note, row

from exclave.admin.objects import CONTROLLER, join_account
from exclave.cluster import open_cluster
from exclave.cluster.credential import parse_credential
from exclave.cluster.endpoint import Access
from exclave.cluster.requests import CONFIG_MAPS, MEMBERS, create, get
from exclave.config import Config, MemberConfig, Paths
from exclave.errors import ExclaveError
from exclave.join import steps
from exclave.join.token import JoinToken, encode_token
from peers.conftest import Server, run_kubernetes
from support.apiserver import RunningApiServer
from support.mesh_cluster import MeshCluster, furnished

NAMESPACE, GROUP, NETWORK = "shop", "web", "10.128.0.0/9"
AT_ONCE = 64
MOST_USES = 999
LOOKS = 300
IDS = itertools.count(1)


@dataclass
class Storm:
    """One wave: how many joined by then, in how long; seconds of each from its Member to its credential."""

    fleet: int
    joined: int = 0
    took: float = 0.0
    waits: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    peer: float = 0.0
    look: float = 0.0
    bare_look: float = 0.0
    rss: float = 0.0
    cpu: float = 0.0


class Fleet:
    """The machines, the cluster they join, and the controller's process."""

    def __init__(self, cluster: MeshCluster, server: Server, folder: Path, process: psutil.Process) -> None:
        self.cluster, self.server, self.folder, self.process = cluster, server, folder, process
        self.size = 0
        self.waves = 0

    async def grow(self, to: int) -> Storm:
        """Have machines join until there are so many."""
        storm = Storm(to)
        storm.peer = await self._bare_creations(to - self.size)
        tokens = await self._tokens(to - self.size)
        before, cpu = self._asked(), sum(self.process.cpu_times()[:2])
        began = time.perf_counter()
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for token in tokens:
                who = (token, next(IDS))
                await limit.acquire_on_behalf_of(who)
                nursery.start_soon(self._join, who, limit, storm)
        storm.took = time.perf_counter() - began
        storm.asked = self._asked() - before
        storm.cpu = sum(self.process.cpu_times()[:2]) - cpu
        storm.rss = self.process.memory_info().rss / 2**20
        storm.look, storm.bare_look = await self._looks()
        self.size = to
        return storm

    async def _tokens(self, count: int) -> list[str]:
        """One line for each machine: tokens of many uses, each told as often as it has uses."""
        lines: list[str] = []
        while len(lines) < count:
            uses, self.waves = min(MOST_USES, count - len(lines)), self.waves + 1
            account = join_account(NAMESPACE, GROUP, f"w{self.waves:04d}", uses, time.time() + 3600)
            await self.cluster.put([account])
            jwt = await self.cluster.token_of(f"{NAMESPACE}-vms", account.body["metadata"]["name"])
            token = JoinToken((self.server.url,), self.server.ca, NAMESPACE, GROUP, jwt, time.time() + 3600)
            lines += [encode_token(token)] * uses
        return lines

    async def _join(self, who: tuple[str, int], limit: trio.CapacityLimiter, storm: Storm) -> None:
        line, number = who
        place = self.folder / f"vm-{number}"
        place.mkdir()
        address = f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"
        config = Config(Paths(place / "state", place / "run"), MemberConfig(address))
        told: list[float] = []

        def report(text: str) -> None:
            if text.startswith(("Member ", "admitted ")):
                told.append(time.perf_counter())

        MACHINE.set(number)
        try:
            await steps.join(line, config, time.time, report)
            storm.joined += 1
            storm.waits.append(told[-1] - told[0])
        except ExclaveError as problem:
            storm.failures[problem.fault.word] += 1
        finally:
            limit.release_on_behalf_of(who)

    def _asked(self) -> Counter[str]:
        """What the API server has been asked for by everybody, by verb and resource."""
        with self.server.client(self.server.admin_token) as client:
            text = client.get("/metrics").text
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "apiserver_request_total" and sample.labels["resource"] in WATCHED:
                    labels = sample.labels
                    below = f"/{labels['subresource']}" if labels["subresource"] else ""
                    found[f"{labels['verb'].lower()} {labels['resource']}{below}"] += int(sample.value)
        return found

    async def _bare_creations(self, count: int) -> float:
        limit = trio.CapacityLimiter(AT_ONCE)
        began = time.perf_counter()

        async def make(number: int) -> None:
            async with limit:
                body = {"metadata": {"name": f"bare-{number}"}, "data": {}}
                await self.cluster.admin.send(create(CONFIG_MAPS, "default", body))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(make, next(IDS))
        return time.perf_counter() - began

    async def _looks(self) -> tuple[float, float]:
        """Seconds that a machine's get of its own Member takes, and an administrator's of the same."""
        place = next(self.folder.glob("vm-*/state/membership.json")).parent
        credential = parse_credential((place / "credential.json").read_text())
        access = Access((self.server.url,), self.server.ca)
        name = steps.load_membership(place).member  # type: ignore[union-attr]
        found = []
        for token in (credential.token, self.server.admin_token):
            async with open_cluster(access, lambda token=token: token) as client:
                taken = []
                for _ in range(LOOKS):
                    began = time.perf_counter()
                    await client.send(get(MEMBERS, NAMESPACE, name))
                    taken.append(time.perf_counter() - began)
            found.append(median(taken))
        return found[0], found[1]


WATCHED = {"members", "leases", "externalworkloads", "serviceaccounts", "configmaps", "events", "workloadgroups"}


class _Machine:
    """Which machine a task is: its id goes where /etc/machine-id would be read."""

    def __init__(self) -> None:
        import contextvars

        self._number: contextvars.ContextVar[int] = contextvars.ContextVar("number")

    def set(self, number: int) -> None:
        self._number.set(number)

    async def read_hash(self) -> str:
        return f"{self._number.get():016x}"


MACHINE = _Machine()


async def measure(server: Server, folder: Path, sizes: list[int]) -> list[Storm]:
    """Grow a fleet through these sizes."""
    steps.read_machine_hash = MACHINE.read_hash
    with ExitStack() as stack:
        api = RunningApiServer(Access((server.url,), server.ca), server.admin_token, folder, None)  # type: ignore[arg-type]
        async with furnished(api, controlled=False, networks=[NETWORK]) as cluster:
            (folder / "token").write_text(await cluster.token_of("exclave", CONTROLLER))
            (folder / "ca.pem").write_text(server.ca)
            command = [
                sys.executable, "-m", "exclave", "controller", "--server", server.url,
                "--ca-file", str(folder / "ca.pem"), "--token-file", str(folder / "token"),
            ]  # fmt: skip
            log = stack.enter_context((folder / "controller.log").open("wb"))
            process = stack.enter_context(subprocess.Popen(command, stderr=log))
            stack.callback(process.terminate)
            fleet = Fleet(cluster, server, folder, psutil.Process(process.pid))
            return [await fleet.grow(size) for size in sizes]


def tell(storms: list[Storm]) -> None:
    """Print the figures."""
    before = 0
    for storm in storms:
        count = storm.fleet - before
        heading(f"{count} machines join at once, beside {before}")
        row("joins a second (peer: bare creations)", storm.joined / storm.took, "/s", count / storm.peer)
        row("joined", storm.joined, "", count)
        for word, failed in storm.failures.items():
            row(f"  failed: {word}", failed, "")
        if len(storm.waits) > 1:
            cuts = quantiles(storm.waits, n=100)
            row("from Member to certificate and credential, p50", cuts[49], "s")
            row("from Member to certificate and credential, p99", cuts[98], "s")
        row("controller: processor a join", 1000 * storm.cpu / max(1, storm.joined), "ms")
        row("controller: memory", storm.rss, "MB")
        row("a machine's get of its own Member (peer: an administrator's)", 1000 * storm.look, "ms",
            1000 * storm.bare_look)  # fmt: skip
        for what, asked in sorted(storm.asked.items(), key=lambda item: -item[1]):
            if asked >= storm.joined / 10:
                row(f"  {what}, a join", asked / max(1, storm.joined), "")
        before = storm.fleet
    first, last = storms[0], storms[-1]
    if last is not first:
        heading(f"How it grows, {first.fleet} to {last.fleet} members (peer: the first)")
        row("joins a second", last.joined / last.took, "/s", first.joined / first.took)
        row("controller: processor a join", 1000 * last.cpu / last.joined, "ms", 1000 * first.cpu / first.joined)
        row("controller: memory", last.rss, "MB", first.rss)
        row("a machine's get of its own Member", 1000 * last.look, "ms", 1000 * first.look)
    note("steady state: one heartbeat every 10 s up to 500 members, then at most 50 a second over the fleet; two")
    note("renewals of a certificate and less than one of a credential a day: 360 requests an hour, or fewer")


def plot(storms: list[Storm], file: Path) -> None:
    """Draw what grows with the fleet."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    fleet = [storm.fleet for storm in storms]
    for axis, title, values in (
        (axes[0], "joins a second", [storm.joined / storm.took for storm in storms]),
        (axes[1], "controller: ms of processor a join", [1000 * storm.cpu / storm.joined for storm in storms]),
        (axes[2], "controller: MB", [storm.rss for storm in storms]),
    ):
        axis.plot(fleet, values, marker="o")
        axis.set(title=title, xlabel="members", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    note(f"drawn: {file}")


def main() -> None:
    """Measure and print."""
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="100,300,1000", help="sizes of the fleet, growing")
    parser.add_argument("--release", default="1.37")
    parser.add_argument("--plot", type=Path, default=Path(tempfile.gettempdir(), "exclave-storm.png"))
    options = parser.parse_args()
    sizes = [int(size) for size in options.members.split(",")]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as made, run_kubernetes(options.release, Path(made)) as server:
        storms = trio.run(measure, server, Path(made), sizes, strict_exception_groups=True)
    tell(storms)
    plot(storms, options.plot)


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as problem:
        sys.exit(f"the API server did not answer: {problem}")
