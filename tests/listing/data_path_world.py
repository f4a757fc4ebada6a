"""A member whose data path is whole, and a controller that lists its ports, in virtual time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from exclave.api.group import FailurePolicy
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, Resource
from exclave.cluster.watch import Upserted
from exclave.config import Config, ListingConfig, MemberConfig, Paths
from exclave.confirm.confirm import Confirmation
from exclave.data_path.observer import DataPathObserver
from exclave.ending import EndingSwitch
from exclave.listing.serving import Listing, open_listing
from exclave.member.client import MemberClient, open_member
from exclave.redirect.kernel.observe import NOTHING, Observed
from support.mesh import ADDRESS, MEMBER, NAMESPACE, RECORD, fake_part, make_settings, put_member
from support.store import StoreCluster

AFTER = 30.0
WANTED = SimpleNamespace(inbound=True, outbound=True, instance="a")
POINTING = Observed(True, "a")
SERVING = {"a": SimpleNamespace(can_serve=True, is_adopted=False)}


def virtual_now() -> float:
    return 1_800_000_000.0 + trio.current_time()


class World:
    """A member whose data path is whole, unless a test takes something away."""

    def __init__(self, folder: Path, **group: Any) -> None:
        self.settings = make_settings(failure=FailurePolicy(AFTER), **group)
        self.cluster = StoreCluster(virtual_now)
        self.trace: list[str] = []
        self.refuses: dict[int, str] = {}  # what goes wrong with a connection to a port
        self.tries: dict[int, int] = {}
        self.asked: list[str] = []  # the addresses that were probed
        self.endings = EndingSwitch()
        self.identity = fake_part(svid=SimpleNamespace(not_after=virtual_now() + 86400))
        self.proxy = fake_part(ready="a", instances=SERVING, admin_denial=None)
        self.redirect = fake_part(observed=POINTING, wanted=WANTED, problem=None)
        self.redirect.in_place = True
        self.confirming: Any = fake_part(view=Confirmation())
        self.config = Config(Paths(folder, folder), MemberConfig(ADDRESS))

    async def try_tcp(self, address: str, port: int, timeout: float) -> str | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(address)
        self.tries[port] = self.tries.get(port, 0) + 1
        return self.refuses.get(port)

    @asynccontextmanager
    async def listed(self, **member: Any) -> AsyncIterator[Listing]:
        put_member(self.cluster, self.settings, **member)
        cluster: Any = self.cluster
        async with trio.open_nursery() as nursery:
            async with open_member(RECORD, self.config, cluster, EndingSwitch(), virtual_now) as membership:
                nursery.start_soon(self._control)
                nursery.start_soon(self._note, EXTERNAL_WORKLOADS)
                nursery.start_soon(self._note, MEMBERS)
                self.membership = membership
                async with self._open(membership) as listing:
                    nursery.start_soon(self.data_path.run_assessment)
                    yield listing
                self._line("rules may go")
            nursery.cancel_scope.cancel()

    def _open(self, membership: MemberClient) -> Any:
        self.data_path = DataPathObserver(membership, self.identity, self.proxy, virtual_now)
        firewall = fake_part(blocked=None)
        parts = (membership, self.identity, self.proxy, self.redirect, firewall, self.data_path, self.confirming)
        return open_listing(ListingConfig(10.0), *parts, self.endings, virtual_now)

    async def _control(self) -> None:
        async with self.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
            async for event in events:
                if isinstance(event, Upserted):
                    await self._list_ports(event.object)

    async def _list_ports(self, member: Any) -> None:
        wanted = [port.port for port in self.settings.group.ports] if member["spec"]["serving"] else []
        if wanted != member["status"]["externalWorkload"].get("ports", []):
            await trio.sleep(1)
            status = {"externalWorkload": {**member["status"]["externalWorkload"], "ports": wanted}}
            self.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")
            self._line(f"the controller lists {wanted}")

    async def _note(self, resource: Resource) -> None:
        """Each thing that a machine has said, once."""
        said = None
        async with self.cluster.watch(resource, NAMESPACE, MEMBER) as events:
            async for event in events:
                assert isinstance(event, Upserted)
                spec, status = event.object["spec"], event.object.get("status", {})
                if resource is MEMBERS:
                    newest = f"serving={spec['serving']} dataPath={spec.get('dataPath', 'unsaid')}"
                else:
                    reported = [f"Ready={one['status']} {one['message']}" for one in status.get("conditions", [])]
                    newest = "".join(reported)
                if said is not None and newest != said:
                    self._line(newest)
                said = newest

    def _line(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():5.1f} s  {text}")

    def lose(self, part: str) -> None:
        if part == "certificate":
            self.identity.svid.set(None)
        elif part == "proxy":
            self.proxy.instances.set({})
            self.proxy.ready.set(None)
        else:
            self.redirect.in_place = False
            self.redirect.observed.set(NOTHING)

    def regain(self) -> None:
        self.identity.svid.set(SimpleNamespace(not_after=virtual_now() + 86400))
        self.proxy.instances.set(SERVING)
        self.proxy.ready.set("a")
        self.redirect.in_place = True
        self.redirect.observed.set(POINTING)

    def reported(self) -> list[str]:
        """What was noted since the last call, without times."""
        lines, self.trace = [line[9:] for line in self.trace], []
        return lines
