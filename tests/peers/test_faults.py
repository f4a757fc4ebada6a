"""The parts of agent and controller that talk to Kubernetes, while it or the network between fails, and afterwards.

In each row a member serves, with its heartbeats, its certificate and its probes, a controller controls, somebody
follows a collection and somebody sends a request until it is answered, all by the real code; of the data path, proxy
and rules are taken to stand. The member's certificate falls due as the fault begins. During the fault the
administrator, who is not affected unless the server is away, makes what all of them have to see. Nobody is told that
the fault is over: each has to find out by itself. How long that took is printed at the end of the run; that it comes to
an end is asserted, and that pods were never told otherwise of the member's ports and readiness.
"""

import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.join_token import encode_token
from exclave.api.member import READY, member_object, read_conditions, view_member
from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    CONFIG_MAPS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    Object,
    create,
    create_token,
    delete,
    get,
    patch,
)
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.member_cluster import open_member_cluster
from exclave.cluster.watch import Listed, Upserted
from exclave.config import Config, ListingConfig, MemberConfig, Paths
from exclave.confirm.confirm import Confirmation
from exclave.controller.policy.admit import ABANDONED_AFTER
from exclave.controller.run import Locations, open_controller
from exclave.data_path.observer import DataPathObserver
from exclave.ending import EndingSwitch
from exclave.identity.rotator import Identity, open_identity
from exclave.join.join import join
from exclave.listing.serving import Listing, open_listing
from exclave.member.client import MemberClient, open_member
from exclave.member.record import MembershipRecord
from exclave.proxy.published import InstanceView
from exclave.proxy.states import InstanceState
from exclave.redirect.kernel.observe import Observed
from exclave_sandbox.pki import Authority, make_anchor
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.fake_machines import gone
from peers.kubernetes import AVAILABLE, Kubernetes, running_kubernetes
from support.figures import add_figure
from support.https_server import Asked, ConnectionCut, Reply
from support.interposer import (
    Interposer,
    Treat,
    busy,
    falling_silent,
    headers_of,
    honest,
    is_watch,
    loopback_leaf,
    open_interposer,
    status_object,
)
from support.mesh import fake_part
from support.mesh_cluster import RunningApiServer, furnished
from support.needs import free_port
from support.replicas import leads, replica, wait_leads

NUMBERS = itertools.count(1)
PATIENCE = 600.0
"""Seconds of the row's own clock; none needs nearly so many."""

STREAMS = 15
"""Watches of a scene: the follower's, the member's, and thirteen of the controller."""

ANCHOR, NEXT_ANCHOR = make_anchor("an API server's CA"), make_anchor("the next CA")


SHORT = "10m"
"""A certificate's life: longer than a row, and due when a test says so."""

MOST_AHEAD = ABANDONED_AFTER / 3
"""Seconds by which the wall clock may be ahead of the servers' before a row. Further on, the controller would count
newcomers as abandoned, whose age is by the servers' clock."""

SEEN = 0.5
"""Seconds between two looks at what others do."""


class Wall:
    """The rows' wall clock: it runs as fast as that of the row, and not back while one machine is a member."""

    def __init__(self) -> None:
        self._began, self._clock = time.time(), trio.testing.MockClock(rate=1.0)

    def ahead(self) -> float:
        """Seconds by which it is ahead of the servers' clock."""
        return self.now() - time.time()

    def reset(self) -> None:
        """Set it to the servers' clock."""
        self._began, self._clock = time.time(), trio.testing.MockClock(rate=1.0)

    def run_with(self, clock: trio.testing.MockClock) -> None:
        """Go on as fast as this clock, which has just begun."""
        self._began, self._clock = max(self.now(), time.time()) - clock.current_time(), clock

    def now(self) -> float:
        """Epoch seconds."""
        return self._began + self._clock.current_time()


WALL = Wall()
WANTED = SimpleNamespace(inbound=True, outbound=True, instance="a")
SERVING = {"a": InstanceView(InstanceState.ACTIVE, 4711, "digest", is_ready=True)}


@dataclass(frozen=True)
class Machine:
    """A member that has joined."""

    config: Config
    record: MembershipRecord


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """One of its own, since it is ended and started: the newest, as these faults are not the API's."""
    with running_kubernetes(AVAILABLE[0], tmp_path_factory.mktemp("faults")) as found:
        yield found


def api_of(kubernetes: Kubernetes) -> RunningApiServer:
    access = Access((kubernetes.url,), kubernetes.ca)
    return RunningApiServer(access, kubernetes.admin_token, kubernetes.folder, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def machines() -> list[Machine]:
    """Those that have joined so far, the last one last."""
    return []


@pytest.fixture
def machine(kubernetes: Kubernetes, machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Joined while all was well: the one of the row before, or another one if the wall clock is far ahead."""
    if not machines or WALL.ahead() > MOST_AHEAD:
        WALL.reset()
        folder = tmp_path_factory.mktemp("machine")
        config = Config(Paths(folder / "state", folder / "run"), MemberConfig(f"10.77.0.{250 - len(machines)}"))

        async def become() -> Machine:
            async with furnished(api_of(kubernetes), lifetime=SHORT, probes=[]) as cluster:
                if machines:  # they are one machine by their id
                    former = NAMESPACE, machines[-1].record.member
                    await cluster.admin.send(delete(MEMBERS, *former))
                    await gone(cluster, MEMBERS, former)
                token = encode_token(await cluster.join_token(token_id=f"m{len(machines):04d}"))
                return Machine(config, await join(token, config, WALL.now, lambda _: None))

        machines.append(trio.run(become))
    return machines[-1]


@dataclass
class Scene:
    """One row's parts. `through` and what is the member's meet the fault, `admin` does not.

    `seen` is what the follower knows, `listed` what pods have been told of the member, one after the other.
    """

    kubernetes: Kubernetes
    first: Interposer
    nursery: trio.Nursery
    admin: Cluster
    through: Cluster
    member: MemberClient
    identity: Identity
    listing: Listing
    seen: set[str] = field(default_factory=set)
    listed: list[str] = field(default_factory=list)

    async def follow(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the ConfigMaps of a namespace for ever."""
        has_begun = False
        async with self.through.watch(CONFIG_MAPS, "default") as events:
            async for event in events:
                if isinstance(event, Listed):
                    self.seen |= {one["metadata"]["name"] for one in event.objects}
                elif isinstance(event, Upserted):
                    self.seen.add(event.object["metadata"]["name"])
                if not has_begun:
                    task_status.started()
                    has_begun = True

    async def note_listed(self) -> None:
        """Note for ever what pods are told of the member."""
        async with self.admin.watch(EXTERNAL_WORKLOADS, NAMESPACE, self.member.record.member) as events:
            async for event in events:
                told = told_of(event.object) if isinstance(event, Upserted) else "gone"
                if told not in self.listed[-1:]:
                    self.listed.append(told)

    async def listen_anew(self, leaf: Authority) -> None:
        """Drop every connection, and show this certificate to those who come back."""
        await self.first.close()
        self.first.leaf = leaf
        await self.nursery.start(self.first.listen)


Act = Callable[[Scene], Awaitable[None]]


async def nothing(_: Scene) -> None: ...


def treated(treat: Treat) -> Act:
    """From now on, and what is under way is cut."""

    async def begin(scene: Scene) -> None:
        scene.first.treat = treat
        scene.first.cut_all()

    return begin


async def treated_well(scene: Scene) -> None:
    scene.first.treat = honest


async def silence(scene: Scene) -> None:
    """Have streams opened anew, and wait until as many of them have fallen silent."""
    await treated(falling_silent)(scene)
    while scene.first.silenced < STREAMS:  # noqa: ASYNC110  another's state
        await trio.sleep(1)
    scene.first.treat = honest


async def closed(scene: Scene) -> None:
    await scene.first.close()


async def opened(scene: Scene) -> None:
    await scene.nursery.start(scene.first.listen)


async def cutting(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Cut each answer in its middle."""
    async with between.ask(asked) as answer:
        if is_watch(asked):
            await reply.start(answer.status_code, **headers_of(answer))
            async for piece in answer.aiter_raw():
                await reply.piece(piece[: len(piece) // 2])
                break
        else:
            content = await answer.aread()
            await reply.start(answer.status_code, **headers_of(answer), Content_Length=str(len(content)))
            await reply.piece(content[: len(content) // 2])
    raise ConnectionCut


def slow(seconds: float) -> Treat:
    """Delay each answer, and each piece of it."""

    async def treat(between: Interposer, asked: Asked, reply: Reply) -> None:
        await trio.sleep(seconds)
        async with between.ask(asked) as answer:
            await reply.start(answer.status_code, **headers_of(answer))
            async for piece in answer.aiter_raw():
                await trio.sleep(seconds)
                await reply.piece(piece)

    return treat


EXPIRED = itertools.count(1)


async def expiring(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Answer every watch that its version is too old: by turns as a status, and as an event."""
    if not is_watch(asked):
        await honest(between, asked, reply)
        return
    gone = status_object(410, "Expired", "too old resource version")
    if next(EXPIRED) % 2:
        await reply.send(410, gone)
    else:
        await reply.start(200, Content_Type="application/json")
        await reply.line({"type": "ERROR", "object": gone})


async def no_kubernetes(between: Interposer, asked: Asked, reply: Reply) -> None:
    """Answer as a captive portal."""
    await reply.send(200, b"<html>welcome</html>", Content_Type="text/html")


def presenting(make: Callable[[], Authority]) -> Act:
    async def begin(scene: Scene) -> None:
        await scene.listen_anew(make())

    return begin


async def told_nothing(scene: Scene) -> None:
    """Whoever answered by a certificate of another CA has got no request, and so no token."""
    assert scene.first.asked == 0
    await scene.listen_anew(loopback_leaf(ANCHOR))


def restarting(*parts: str, number: signal.Signals = signal.SIGTERM) -> Act:
    """End programs in this order, and start them again in the other."""

    async def begin(scene: Scene) -> None:
        for name in parts:
            await getattr(scene.kubernetes, name).end(number)
        for name in reversed(parts):
            getattr(scene.kubernetes, name).start()

    return begin


@dataclass(frozen=True)
class Row:
    """How a fault begins and ends, how long it lasts, how fast the parts' clock runs; what they know of servers."""

    begin: Act
    end: Act = nothing
    lasts: float = 0.0
    rate: float = 6.0
    both: bool = False


FAULTS = {
    "the API server is restarted": Row(restarting("apiserver"), rate=1.0),
    "the API server is killed": Row(restarting("apiserver", number=signal.SIGKILL), rate=1.0),
    "etcd is killed, its API server stays": Row(restarting("etcd", number=signal.SIGKILL), rate=1.0),
    "the whole control plane is killed": Row(
        restarting("controllers", "apiserver", "etcd", number=signal.SIGKILL), rate=1.0
    ),
    "every connection is cut": Row(treated(honest)),
    "nobody listens": Row(closed, opened, lasts=10.0),
    "answers are cut in half": Row(treated(cutting), treated_well, lasts=10.0),
    "429, with Retry-After": Row(treated(busy(429, "TooManyRequests")), treated_well, lasts=10.0),
    "503, with Retry-After": Row(treated(busy(503, "ServiceUnavailable")), treated_well, lasts=10.0),
    "every answer is slow": Row(treated(slow(2.0)), treated_well, lasts=20.0),
    "every watch has expired": Row(treated(expiring), treated_well, lasts=10.0),
    "a portal answers instead": Row(treated(no_kubernetes), treated_well, lasts=10.0),
    "the server's certificate has expired": Row(
        presenting(lambda: loopback_leaf(ANCHOR, lifetime=timedelta(seconds=-5))),
        presenting(lambda: loopback_leaf(ANCHOR)),
        lasts=10.0,
    ),
    "somebody else answers at the address": Row(
        presenting(lambda: loopback_leaf(make_anchor("nobody's CA"))), told_nothing, lasts=10.0
    ),
    "the server's CA is replaced by one that was made known": Row(presenting(lambda: loopback_leaf(NEXT_ANCHOR))),
    "the server moves to the other address that is known": Row(closed, both=True),
    "watches fall silent": Row(silence, rate=10.0),
}


def told_of(workload: Object) -> str:
    """What an ExternalWorkload tells pods."""
    ready = [one for one in read_conditions((workload.get("status") or {}).get("conditions")) if one.type == READY]
    words = ready[0].reason if ready else "nothing"
    return f"{words}, ports {[port['port'] for port in workload['spec'].get('ports') or ()]}"


WELL = "Ready, ports [8080]"


@asynccontextmanager
async def open_scene(
    kubernetes: Kubernetes, machine: Machine, both: bool = False, controlled: bool = True
) -> AsyncIterator[Scene]:
    """Everything that is watched, going well."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        cluster = await enter(furnished(api_of(kubernetes), controlled=False))
        token = await cluster.token_of("exclave", CONTROLLER)
        first = await enter(open_interposer(kubernetes.url, kubernetes.ca, ANCHOR))
        second = await enter(open_interposer(kubernetes.url, kubernetes.ca, ANCHOR))
        access = Access((first.url, second.url) if both else (first.url,), ANCHOR.pem + NEXT_ANCHOR.pem)
        through = await enter(open_cluster(access, lambda: kubernetes.admin_token))
        if controlled:
            controller = await enter(open_cluster(access, lambda: token))
            await enter(open_controller(controller, Locations(), WALL.now))
        record, state, endings = machine.record, machine.config.paths.state, EndingSwitch()
        own = await enter(
            open_member_cluster(access, state, record.accounts_namespace, record.account, endings, WALL.now)
        )
        member = await enter(open_member(record, machine.config, own, endings, WALL.now))
        identity = await enter(open_identity(state, member, endings, WALL.now))
        proxy = fake_part(ready="a", instances=SERVING, admin_denial=None)
        redirect = fake_part(observed=Observed(installed=True, instance="a"), wanted=WANTED, problem=None)
        redirect.in_place = True
        data_path, confirming = DataPathObserver(member, identity, proxy, WALL.now), fake_part(view=Confirmation())
        parts = identity, proxy, redirect, fake_part(blocked=None), data_path, confirming
        listing = await enter(open_listing(ListingConfig(10.0), member, *parts, endings, WALL.now))
        nursery = await enter(trio.open_nursery())
        nursery.start_soon(data_path.run_assessment)
        scene = Scene(kubernetes, first, nursery, cluster.admin, through, member, identity, listing)
        await nursery.start(scene.follow)
        nursery.start_soon(scene.note_listed)
        while scene.listed[-1:] != [WELL]:  # noqa: ASYNC110  what others see
            await trio.sleep(SEEN)
        scene.listed.clear()
        yield scene
        nursery.cancel_scope.cancel()


async def play(kubernetes: Kubernetes, machine: Machine, row: Row) -> dict[str, float]:
    """Have the fault, and all that happens meanwhile; the seconds that each part needed after its end."""
    took: dict[str, float] = {}
    number = next(NUMBERS)
    name = f"fault-{number}"
    with trio.fail_after(PATIENCE):
        async with open_scene(kubernetes, machine, row.both) as scene:
            member, sent = scene.member.record.member, trio.Event()

            async def send() -> None:
                await scene.through.send_patiently(patch(CONFIG_MAPS, "linkerd", "linkerd-config", annotated(name)))
                sent.set()

            await row.begin(scene)
            began, renewed = trio.current_time(), scene.identity.renewals["ok"]
            scene.identity.renew_at.set(WALL.now())
            scene.nursery.start_soon(send)
            newcomer = newcomer_object(number)
            for request in (
                create(CONFIG_MAPS, "default", {"metadata": {"name": name}}),
                create(MEMBERS, NAMESPACE, newcomer),
                patch(MEMBERS, NAMESPACE, member, {"spec": {"loaded": {"proxy": name}}}),
            ):
                await scene.admin.send_patiently(request)
            await trio.sleep_until(began + row.lasts)
            await row.end(scene)
            over, beaten = trio.current_time(), await renewed_at(scene.admin, member)

            async def until(what: str, look: Callable[[], Awaitable[bool]]) -> None:
                while not await look():  # noqa: ASYNC110  what others see
                    await trio.sleep(0.1)
                took[what] = trio.current_time() - over

            async def beats() -> bool:
                return await renewed_at(scene.admin, member) != beaten

            async with trio.open_nursery() as nursery:
                nursery.start_soon(until, "followed", lambda: true(name in scene.seen))
                nursery.start_soon(until, "sent", lambda: true(sent.is_set()))
                nursery.start_soon(until, "own Member seen", lambda: true(has_seen(scene.member, name)))
                nursery.start_soon(until, "admitted and signed", lambda: is_signed(scene.admin, newcomer))
                nursery.start_soon(until, "heartbeat", beats)
                nursery.start_soon(until, "certificate", lambda: true(scene.identity.renewals["ok"] > renewed))
            await undisturbed(scene)
    return took


async def undisturbed(scene: Scene) -> None:
    """Pods have been told nothing else meanwhile: asked once more, when all that happened has been heard of."""
    workload = await scene.admin.send_patiently(get(EXTERNAL_WORKLOADS, NAMESPACE, scene.member.record.member))
    assert {told_of(workload), *scene.listed} == {WELL}
    assert scene.listing.state.value.ready


def test_a_paused_controller_is_followed_by_the_other(kubernetes: Kubernetes, machine: Machine, tmp_path: Path) -> None:
    """Two as programs; the one that leads is stopped where it stands, and goes on later as if nothing had been."""
    clock = trio.testing.MockClock(rate=1.0)
    WALL.run_with(clock)
    took = trio.run(follow_the_paused, kubernetes, machine, tmp_path, clock=clock, strict_exception_groups=True)
    figures = ", ".join(f"{what} {seconds:.1f}" for what, seconds in sorted(took.items()))
    add_figure(f"seconds after: a controller that leads is paused: {figures}")


async def follow_the_paused(kubernetes: Kubernetes, machine: Machine, folder: Path) -> dict[str, float]:
    took: dict[str, float] = {}
    access, ports = Access((kubernetes.url,), kubernetes.ca), (free_port(), free_port())
    with trio.fail_after(PATIENCE), ExitStack() as stack:
        async with open_cluster(access, lambda: kubernetes.admin_token) as admin:
            granted = await admin.send(create_token("exclave", CONTROLLER, 3600))
            (folder / "token").write_text(str(granted["status"]["token"]))
            leader = stack.enter_context(replica(access, folder, "first", ports[0]))
            await wait_leads(ports[0])
            stack.enter_context(replica(access, folder, "second", ports[1]))
            while (is_second := await leads(ports[1])) is None:  # noqa: ASYNC110  another process
                await trio.sleep(0.2)
            assert not is_second
        async with open_scene(kubernetes, machine, controlled=False) as scene:
            newcomer = newcomer_object(next(NUMBERS))
            os.kill(leader.pid, signal.SIGSTOP)
            began, renewed = trio.current_time(), scene.identity.renewals["ok"]
            scene.identity.renew_at.set(WALL.now())
            await scene.admin.send(create(MEMBERS, NAMESPACE, newcomer))
            await wait_leads(ports[1])
            took["the other leads"] = trio.current_time() - began
            while not await is_signed(scene.admin, newcomer):  # noqa: ASYNC110  what others see
                await trio.sleep(SEEN)
            took["admitted and signed"] = trio.current_time() - began
            while scene.identity.renewals["ok"] == renewed:  # noqa: ASYNC110  another's
                await trio.sleep(SEEN)
            took["certificate"] = trio.current_time() - began
            before = await issued(scene.admin, newcomer)
            os.kill(leader.pid, signal.SIGCONT)
            resumed = trio.current_time()
            while await leads(ports[0]):  # noqa: ASYNC110  another process
                await trio.sleep(SEEN)
            took["the paused one stands back, once it goes on"] = trio.current_time() - resumed
            assert await leads(ports[1])
            assert await issued(scene.admin, newcomer) == before, "nothing is signed twice"
            await undisturbed(scene)
    return took


@pytest.mark.parametrize("row", FAULTS.values(), ids=FAULTS)
def test_everybody_recovers(kubernetes: Kubernetes, machine: Machine, request: pytest.FixtureRequest, row: Row) -> None:
    clock = trio.testing.MockClock(rate=row.rate)
    WALL.run_with(clock)
    took = trio.run(play, kubernetes, machine, row, clock=clock, strict_exception_groups=True)
    figures = ", ".join(f"{what} {seconds:.1f}" for what, seconds in sorted(took.items()))
    add_figure(f"seconds after: {request.node.callspec.id}: {figures}")


async def is_signed(admin: Cluster, newcomer: Object) -> bool:
    found = await admin.send_patiently(get(MEMBERS, NAMESPACE, newcomer["metadata"]["name"]))
    return view_member(found).certificate is not None


async def issued(admin: Cluster, newcomer: Object) -> object:
    found = await admin.send_patiently(get(MEMBERS, NAMESPACE, newcomer["metadata"]["name"]))
    assert len(found["status"]["issued"]) == 1
    return found["status"]["issued"]


async def true(value: bool) -> bool:
    await trio.lowlevel.checkpoint()
    return value


def annotated(name: str) -> dict[str, object]:
    return {"metadata": {"annotations": {"row": name}}}


def has_seen(member: MemberClient, name: str) -> bool:
    view = member.view.value
    return view is not None and view.loaded.get("proxy") == name


async def renewed_at(admin: Cluster, member: str) -> object:
    return (await admin.send_patiently(get(LEASES, NAMESPACE, member)))["spec"].get("renewTime")


def newcomer_object(number: int) -> dict[str, object]:
    """A machine that asks to join, by what it leaves in the cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"web-f{number:04d}-1"
    return member_object(
        NAMESPACE,
        name,
        nonce=f"nonce-{number}",
        machine_hash=f"{number:016x}",
        delivery_key=delivery_key_text(key),
        csr=make_csr(key, name),
        addresses=[f"10.77.0.{number}"],
        facts={},
    )
