"""A member in a mesh of the real Linkerd, and traffic to it by Service and by address."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from exclave.api.names import accounts_namespace, parse_member_name
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    MEMBERS,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Object,
    delete,
    list_all,
    patch,
)
from exclave_sandbox.demo.membership import BY_ADDRESS, JoinScenes, issue_token, ready_of
from exclave_sandbox.demo.traffic import BY_GROUP, BY_POD_SERVICE
from exclave_sandbox.expect import UnexpectedError, eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.kubernetes import find_binaries
from exclave_sandbox.stage.stage import DemoStage, fetch, open_stage, open_virtual_machine
from support.figures import add_figure
from support.swap_lab import Load, open_load

FOLDER = "EXCLAVE_REAL"
BY_POD_ADDRESS = f"http://{mesh.POD}:{mesh.POD_PORT}/"
PATIENCE = 60.0
MORE_VMS = "10.77.0.3"  # their addresses begin with that
STEADY = 3.0  # seconds of traffic around a change
WAYS = ("by Service", "by address", "to the pod by Service", "to the pod by address")


@asynccontextmanager
async def open_mesh(release: LinkerdBinaries) -> AsyncIterator[DemoStage]:
    """A stage whose VM has joined and is ready."""
    async with open_stage("24h", find_binaries(), release) as stage:
        joining = JoinScenes(stage)
        await joining.outside()
        await joining.make_token()
        stage.vm.start_agent()
        await stage.vm.wait_idle()
        await joining.join()
        yield stage


@asynccontextmanager
async def open_more_members(stage: DemoStage, count: int) -> AsyncIterator[None]:
    """More machines in the group, ready while open."""
    token = (await issue_token(stage, count, "m3mb3")).encode()
    proxy = Path(stage.scratch, "linkerd2-proxy")
    async with AsyncExitStack() as stack:
        for number in range(count):
            name = f"vm-{number}"
            machine = await stage.network.add(name, f"{MORE_VMS}{number}/24")
            for network in mesh.CLUSTER_NETWORKS:
                await machine.add_route(network)
            vm = await stack.enter_async_context(open_virtual_machine(stage.network, machine, proxy, name))
            (vm.folder / "machine-id").write_text(f"{number + 1:032x}\n")
            await machine.must("mount", "--bind", str(vm.folder / "machine-id"), "/etc/machine-id")
            vm.start_agent()
            await vm.wait_idle()
            done = await vm.command("join", "--token-file", "-", "--json", stdin=token)
            assert done.status == 0, done.errors
        yield


@dataclass
class Loads:
    """Traffic of all ways, under a name for its figures. `by_way` has their loads, `took` the seconds of all."""

    name: str
    by_way: dict[str, Load] = field(default_factory=dict)
    took: float = 0.0

    @property
    def failures(self) -> dict[str, dict[str, int]]:
        """What failed, by way; empty if nothing did."""
        return {way: load.failures for way, load in self.by_way.items() if load.failures}

    def add_figures(self) -> None:
        """Print requests and failures of each way after the tests."""
        for way, load in self.by_way.items():
            figures = load.figures
            counts = f"{figures['requests']} requests, {figures['failed']} failed"
            ended = f"{figures['broken']} reused connections ended"
            add_figure(f"{self.name}, {way}: {counts}, {ended}, {self.took:.0f} s")


@asynccontextmanager
async def open_loads(
    stage: DemoStage, name: str, ways: tuple[str, ...] = WAYS, rate: float = 15.0
) -> AsyncIterator[Loads]:
    """Traffic from the pod to the VM and back, while open."""
    places: dict[str, tuple[Any, str]] = {
        "by Service": (stage.pod, BY_GROUP),
        "by address": (stage.pod, BY_ADDRESS),
        "to the pod by Service": (stage.vm.machine, BY_POD_SERVICE),
        "to the pod by address": (stage.vm.machine, BY_POD_ADDRESS),
    }
    loads = Loads(name)
    try:
        async with AsyncExitStack() as stack:
            for way in ways:
                machine, url = places[way]
                loads.by_way[way] = await stack.enter_async_context(open_load(machine, url, 2, 1, rate))
            began = trio.current_time()
            yield loads
            loads.took = trio.current_time() - began
    finally:
        if all(load.figures for load in loads.by_way.values()):
            loads.add_figures()


async def change_group(stage: DemoStage, spec: dict[str, Any]) -> None:
    """Patch the group's spec."""
    await stage.admin.send(patch(WORKLOAD_GROUPS, mesh.NAMESPACE, mesh.GROUP, {"spec": spec}))


async def wait_listed(stage: DemoStage, ports: dict[str, int]) -> None:
    """Wait until each member's ExternalWorkload lists these ports, by name, and is Ready."""

    def view(workload: Object) -> tuple[object, dict[str, int]]:
        return ready_of(workload), {port["name"]: port["port"] for port in workload["spec"].get("ports", ())}

    async def listed() -> list[object]:
        workloads = (await stage.admin.send(list_all(EXTERNAL_WORKLOADS, mesh.NAMESPACE)))["items"]
        return [view(one) for one in workloads if one["metadata"]["labels"]["app"] == mesh.GROUP]

    with trio.fail_after(PATIENCE):
        await eventually(
            "the ports", listed, lambda found: bool(found) and all(one == ("True", ports) for one in found), every=0.2
        )


async def fetch_from(stage: DemoStage) -> str:
    """The name of who answers a request of the pod to the group's Service, or what went wrong."""
    try:
        return str((await fetch(stage.pod, BY_GROUP))["server"])
    except UnexpectedError as problem:
        return str(problem)


async def _leave(stage: DemoStage) -> None:
    done = await stage.vm.command("leave")
    assert done.status == 0, done.errors


async def _stop(stage: DemoStage) -> None:
    assert stage.vm.agent is not None
    assert await stage.vm.agent.end() == 0


async def _evict(stage: DemoStage) -> None:
    """As `kubectl exclave member evict` does: the account first, then the Member."""
    (member,) = (await stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE)))["items"]
    name = member["metadata"]["name"]
    account = parse_member_name(name).account
    await stage.admin.send(delete(SERVICE_ACCOUNTS, accounts_namespace(mesh.NAMESPACE), account))
    await stage.admin.send(delete(MEMBERS, mesh.NAMESPACE, name))
    with trio.fail_after(PATIENCE):
        await eventually("the machine to leave", stage.vm.status, lambda status: status.get("state") == "unjoined")


ENDINGS = {"the VM leaves": _leave, "the agent is stopped": _stop, "the member is evicted": _evict}
