"""A fleet that joins at once: the real join code, the real controller as a program, a real API server with etcd.

    python -m tests.bench.storm [--members 100,300,1000,3000,10000] [--release 1.37] [--plot storm.png]

Every machine has a folder, an id and an address of its own; none has a data path. The fleet grows in the same cluster,
so that what a request costs beside it is seen, too. Up to a thousand machines join really; of a greater step all but
the last ones are put there by an administrator as the controller leaves a member, copied from one that joined. All
members' heartbeats go on, by a program of its own, as often as the controller has published. Everything shares one
machine, and the joining code is most of what it does. Peer: as many bare creations of a ConfigMap, by as many clients.
"""

import argparse
import itertools
import json
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
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.parser import text_string_to_metric_families
from tests.bench.figures import heading, note, row
from tests.bench.heartbeats import Heartbeats
from tests.bench.member_log import MemberLog, open_member_log

from exclave.admin.objects import join_account
from exclave.api.csr import csr_sha256, make_csr
from exclave.api.join_token import JoinToken, encode_token
from exclave.api.member import heartbeat_request
from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    CONFIG_MAPS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SERVICE_ACCOUNTS,
    Object,
    create,
    get,
    patch,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.credential import parse_credential
from exclave.cluster.endpoint import Access
from exclave.config import Config, MemberConfig, Paths
from exclave.errors import ExclaveError
from exclave.join import join as steps
from exclave.member.record import MembershipRecord
from peers.conftest import Server, run_kubernetes
from support.mesh_cluster import MeshCluster, RunningApiServer, furnished
from support.needs import free_port
from support.replicas import wait_leads

NAMESPACE, GROUP, NETWORK = "shop", "web", "10.128.0.0/9"
AT_ONCE = 64
MOST_USES = 999
MOST_REAL = 1000
LAST = 200
"""Machines that join beside the members that an administrator has created."""

LOOKS = 300
SETTLING = 2.0
"""Seconds until logged steps have arrived here."""

RENEWING = 200
IDS = itertools.count(1)


def address_of(number: int) -> str:
    """A new address."""
    return f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"


def bare(found: Object) -> Object:
    """An object as it can be created again."""
    kept = ("name", "labels", "annotations", "finalizers", "ownerReferences")
    metadata = {key: value for key, value in found["metadata"].items() if key in kept}
    return {**found, "metadata": metadata}


class Program:
    """The controller as a program."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._command = [
            sys.executable, "-m", "exclave", "controller", "--server", url, "--listen", f"127.0.0.1:{self._port}",
            "--ca-file", str(folder / "ca.pem"), "--token-file", str(folder / "token"),
        ]  # fmt: skip
        self._started: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> psutil.Process:
        """Its process."""
        assert self._started is not None
        return psutil.Process(self._started.pid)

    async def start(self) -> float:
        """Start it; the seconds until it leads."""
        began = time.perf_counter()
        with (self._folder / "controller.log").open("ab") as log:
            self._started = subprocess.Popen(self._command, stderr=log)
        await wait_leads(self._port)
        return time.perf_counter() - began

    def end(self) -> None:
        """End it by SIGTERM, so that its Lease is free."""
        if self._started is not None:
            self._started.terminate()
            self._started.wait()
            self._started = None


@dataclass
class Storm:
    """One wave: the number that joined, beside how many members, in how many seconds.

    Seconds of each: from its Member to its ExternalWorkload (admission), from there to certificate and credential
    (signing), and of all as the machine sees it (waits); of a renewal from CSR to certificate, when many ask at once.
    """

    fleet: int
    joining: int
    joined: int = 0
    took: float = 0.0
    waits: list[float] = field(default_factory=list)
    admission: list[float] = field(default_factory=list)
    signing: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    peer: float = 0.0
    look: float = 0.0
    bare_look: float = 0.0
    heartbeat: float = 0.0
    start: float = 0.0
    rss: float = 0.0
    cpu: float = 0.0


class Fleet:
    """The machines, the cluster they join, and the controller's program."""

    def __init__(
        self, cluster: MeshCluster, server: Server, folder: Path, controller: Program, heartbeats: Heartbeats
    ) -> None:
        self.cluster, self.server, self.folder = cluster, server, folder
        self.controller, self.heartbeats = controller, heartbeats
        self.size = 0
        self.waves = 0

    async def grow(self, to: int) -> Storm:
        """Let machines join until there are this many."""
        storm = Storm(to, to - self.size if to - self.size <= MOST_REAL else LAST)
        if storm.joining < to - self.size:
            self.controller.end()
            await self._put_there(to - self.size - storm.joining)
            storm.start = await self.controller.start()
            await self._settled()
        storm.peer = await self._bare_creations(storm.joining)
        tokens = await self._tokens(storm.joining)
        process = self.controller.process
        async with open_member_log(self.server, self.folder) as noted:
            before, cpu = self._asked(), sum(process.cpu_times()[:2])
            began = time.perf_counter()
            limit = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as nursery:
                for token in tokens:
                    who = (token, next(IDS))
                    await limit.acquire_on_behalf_of(who)
                    nursery.start_soon(self._join, who, limit, storm)
            storm.took = time.perf_counter() - began
            print(f"{storm.fleet}: {storm.joined} joined in {storm.took:.0f} s", file=sys.stderr, flush=True)
            storm.asked = self._asked() - before
            storm.cpu = sum(process.cpu_times()[:2]) - cpu
            await trio.sleep(SETTLING)
            storm.admission, storm.signing = noted.steps()
            storm.renewals = await self._renewals(noted)
        storm.rss = process.memory_info().rss / 2**20
        storm.look, storm.bare_look, storm.heartbeat = await self._looks()
        self.size = to
        return storm

    async def _put_there(self, count: int) -> None:
        """Create complete members, copied from one that joined."""
        name = self._first().member
        found = [await self.cluster.find(resource, name) for resource in (MEMBERS, EXTERNAL_WORKLOADS, LEASES)]
        texts = [json.dumps(bare(one)) for one in found if one is not None]
        address = found[0]["spec"]["addresses"][0]  # type: ignore[index]
        limit = trio.CapacityLimiter(AT_ONCE)

        async def put(number: int) -> None:
            async with limit:
                new = f"{GROUP}-p{number:04x}-1"
                member, workload, lease = (
                    json.loads(text.replace(name, new).replace(f'"{address}"', f'"{address_of(number)}"'))
                    for text in texts
                )
                member["spec"]["machineHash"], status = f"{number:016x}", member.pop("status")
                send = self.cluster.admin.send_patiently
                await send(create(LEASES, NAMESPACE, lease))
                made = await send(create(EXTERNAL_WORKLOADS, NAMESPACE, workload))
                status["externalWorkload"]["uid"] = made["metadata"]["uid"]
                await send(create(MEMBERS, NAMESPACE, member))
                await send(patch(MEMBERS, NAMESPACE, new, {"status": status}, "status"))
                account = {"metadata": {"name": f"{GROUP}.vm.p{number:04x}-1"}}
                await send(create(SERVICE_ACCOUNTS, f"{NAMESPACE}-vms", account))
                self.heartbeats.add(new)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(put, next(IDS))

    async def _settled(self) -> None:
        """Wait until the controller has read all members and published the settings of a fleet of this size."""
        before, used = -1, 0.0
        while True:
            written, busy = self._asked()["patch members/status"], sum(self.controller.process.cpu_times()[:2])
            if written - before <= 1 and busy - used < SETTLING / 4:
                return
            before, used = written, busy
            await trio.sleep(SETTLING)

    async def _renewals(self, noted: MemberLog) -> list[float]:
        """Seconds from a CSR to its certificate, when several members renew at once."""
        names = sorted(noted.certified)[:RENEWING]
        taken: list[float] = []

        async def renew(name: str) -> None:
            csr = make_csr(ec.generate_private_key(ec.SECP256R1()), name)
            await self.cluster.admin.send(patch(MEMBERS, NAMESPACE, name, {"spec": {"csr": csr}}))
            asked = time.monotonic()
            while noted.signed_for.get(name, ("", 0.0))[0] != csr_sha256(csr):
                await noted.changed.wait()
            taken.append(noted.signed_for[name][1] - asked)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(renew, name)
        return taken

    def _first(self) -> MembershipRecord:
        place = next(self.folder.glob("vm-*/state/membership.json")).parent
        record = steps.load_membership(place)
        assert record is not None
        return record

    async def _tokens(self, count: int) -> list[str]:
        """One token for each machine: tokens of many uses, each repeated once a use."""
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
        config = Config(Paths(place / "state", place / "run"), MemberConfig(address_of(number)))
        reported: list[float] = []

        def report(text: str) -> None:
            if text.startswith(("Member ", "admitted ")):
                reported.append(time.perf_counter())

        MACHINE.set(number)
        try:
            record = await steps.join(line, config, time.time, report)
            self.heartbeats.add(record.member)
            storm.joined += 1
            storm.waits.append(reported[-1] - reported[0])
        except ExclaveError as problem:
            storm.failures[problem.fault.word] += 1
        finally:
            limit.release_on_behalf_of(who)

    def _asked(self) -> Counter[str]:
        """All requests to the API server, by verb and resource."""
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

    async def _looks(self) -> tuple[float, float, float]:
        """Seconds of a machine's get of its own Member, of an administrator's get of it, and of a heartbeat."""
        record = self._first()
        place = next(self.folder.glob("vm-*/state/membership.json")).parent
        credential = parse_credential((place / "credential.json").read_text())
        own, there = credential.token, (NAMESPACE, record.member)
        found = []
        for token, ask in (
            (own, lambda: get(MEMBERS, *there)),
            (self.server.admin_token, lambda: get(MEMBERS, *there)),
            (own, lambda: heartbeat_request(*there, "boot.bench", time.time())),
        ):
            async with open_cluster(Access((self.server.url,), self.server.ca), lambda token=token: token) as client:
                taken = []
                for _ in range(LOOKS):
                    began = time.perf_counter()
                    await client.send(ask())
                    taken.append(time.perf_counter() - began)
            found.append(median(taken))
        return found[0], found[1], found[2]


WATCHED = {"members", "leases", "externalworkloads", "serviceaccounts", "configmaps", "events", "workloadgroups"}


class _Machine:
    """The machine id of a task, in place of /etc/machine-id."""

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
            controller = Program(server.url, folder)
            stack.callback(controller.end)
            await controller.start()
            heartbeats = Heartbeats(server, folder)
            stack.callback(heartbeats.end)
            fleet = Fleet(cluster, server, folder, controller, heartbeats)
            return [await fleet.grow(size) for size in sizes]


def tell(storms: list[Storm]) -> None:
    """Print the figures."""
    for storm in storms:
        heading(f"{storm.joining} machines join at once, beside {storm.fleet - storm.joining}")
        row("joins a second (peer: bare creations)", storm.joined / storm.took, "/s", storm.joining / storm.peer)
        row("joined", storm.joined, "", storm.joining)
        for word, failed in storm.failures.items():
            row(f"  failed: {word}", failed, "")
        for what, taken in (
            ("from Member to certificate and credential", storm.waits),
            ("  admission: from Member to ExternalWorkload", storm.admission),
            ("  signing: from there to certificate and credential", storm.signing),
            (f"renewals, {len(storm.renewals)} at once: from CSR to certificate", storm.renewals),
        ):
            if len(taken) > 1:
                cuts = quantiles(taken, n=100)
                row(f"{what}, p50", cuts[49], "s")
                row(f"{what}, p99", cuts[98], "s")
        if storm.start:
            row("controller: from its start until it leads, beside so many", storm.start, "s")
        row("controller: processor a join", 1000 * storm.cpu / max(1, storm.joined), "ms")
        row("controller: memory", storm.rss, "MB")
        row("a machine's get of its own Member (peer: an administrator's)", 1000 * storm.look, "ms",
            1000 * storm.bare_look)  # fmt: skip
        row("a machine's heartbeat", 1000 * storm.heartbeat, "ms")
        for what, asked in sorted(storm.asked.items(), key=lambda item: -item[1]):
            if asked >= storm.joined / 10:
                row(f"  {what}, a join", asked / max(1, storm.joined), "")
    first, last = storms[0], storms[-1]
    if last is not first:
        heading(f"How it grows, {first.fleet} to {last.fleet} members (peer: the first)")
        row("joins a second", last.joined / last.took, "/s", first.joined / first.took)
        row("from Member to certificate and credential, p99", p99(last.waits), "s", p99(first.waits))
        row(
            "controller: processor a join",
            1000 * last.cpu / max(1, last.joined),
            "ms",
            1000 * first.cpu / max(1, first.joined),
        )
        row("controller: memory", last.rss, "MB", first.rss)
        row("a machine's get of its own Member", 1000 * last.look, "ms", 1000 * first.look)
        row("a machine's heartbeat", 1000 * last.heartbeat, "ms", 1000 * first.heartbeat)
    note("a token's uses are all used: who comes last tries many names, which are the creations beyond one a join")
    note("what is asked of patch leases includes the heartbeats of the whole fleet")


def p99(taken: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(taken, n=100)[98] if len(taken) > 1 else 0.0


def plot(storms: list[Storm], file: Path) -> None:
    """Draw the figures that grow with the fleet."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(17, 4), layout="constrained")
    fleet = [storm.fleet for storm in storms]
    panels: tuple[tuple[str, dict[str, list[float]]], ...] = (
        ("joins a second", {"": [storm.joined / storm.took for storm in storms]}),
        (
            "seconds, p99",
            {
                "Member to credential": [p99(storm.waits) for storm in storms],
                "to ExternalWorkload: admission": [p99(storm.admission) for storm in storms],
                "from there: signing": [p99(storm.signing) for storm in storms],
                "a renewal": [p99(storm.renewals) for storm in storms],
            },
        ),
        (
            "a machine's request: ms, median",
            {
                "get of its Member": [1000 * storm.look for storm in storms],
                "heartbeat": [1000 * storm.heartbeat for storm in storms],
                "an administrator's get": [1000 * storm.bare_look for storm in storms],
            },
        ),
        ("controller: MB", {"": [storm.rss for storm in storms]}),
    )
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for label, values in lines.items():
            axis.plot(fleet, values, marker="o", label=label)
        axis.set(title=title, xlabel="members", xscale="log", ylim=(0, None))
        axis.set_xticks(fleet, [str(size) for size in fleet])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend()
    figure.savefig(file, dpi=110)
    note(f"drawn: {file}")


def main() -> None:
    """Measure and print."""
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="100,300,1000,3000,10000", help="sizes of the fleet, growing")
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
