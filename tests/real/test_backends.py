"""A Service with two backends, the VM and a pod, with the real Linkerd: whoever calls the Service notices no end."""

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from operator import eq

import pytest
import trio

from exclave.api.requests import ENDPOINT_SLICES, EXTERNAL_WORKLOADS, create, list_all
from exclave_sandbox.expect import eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.programs import module, open_program
from exclave_sandbox.stage.stage import DemoStage
from real.mesh import ENDINGS, PATIENCE, STEADY, fetch_from, open_loads, open_mesh
from support.figures import add_figure

BACKEND, OTHER_VM = "10.42.0.11", "10.77.0.21"
FORGOTTEN = 180.0  # seconds until a machine that is gone is not listed any more
BY_SERVICE = ("by Service",)


@asynccontextmanager
async def open_backend(stage: DemoStage) -> AsyncIterator[None]:
    """A pod without a proxy that the group's Service lists, too."""
    machine = await stage.network.add("backend", f"{BACKEND}/16")
    command = machine.command(*module("exclave_sandbox.stage.echo", "backend", str(mesh.GROUP_PORT)))
    async with open_program(command, stage.scratch / "backend.log"):
        labels = {"kubernetes.io/service-name": mesh.GROUP}
        body = {
            "metadata": {"name": f"{mesh.GROUP}-backend", "namespace": mesh.NAMESPACE, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [BACKEND], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": mesh.GROUP_PORT, "protocol": "TCP"}],
        }
        await stage.admin.send(create(ENDPOINT_SLICES, mesh.NAMESPACE, body))
        for name in (mesh.GROUP, "backend"):
            await eventually(f"an answer of {name}", partial(fetch_from, stage), partial(eq, name))
        yield


async def only_the_pod_answers(stage: DemoStage) -> bool:
    return {await fetch_from(stage) for _ in range(10)} == {"backend"}


@pytest.mark.parametrize("name", ENDINGS)
async def test_callers_of_a_service_notice_no_end(release: LinkerdBinaries, name: str) -> None:
    async with open_mesh(release) as stage, open_backend(stage):
        async with open_loads(stage, f"two backends, {name}", BY_SERVICE) as loads:
            await trio.sleep(STEADY)
            await ENDINGS[name](stage)
            await trio.sleep(2 * STEADY)
    assert not loads.failures


async def test_a_machine_that_is_gone_is_forgotten(release: LinkerdBinaries) -> None:
    async with open_mesh(release) as stage, open_backend(stage):
        began = time.monotonic()
        await stage.vm.machine.must("ip", "link", "set", "eth0", "down")  # as if its power were cut

        with trio.fail_after(FORGOTTEN):
            await eventually("answers of the pod alone", partial(only_the_pod_answers, stage), bool, 1.0)
        add_figure(f"two backends, the machine is gone: only the other answers after {time.monotonic() - began:.0f} s")
        async with open_loads(stage, "two backends, after that", BY_SERVICE) as loads:
            await trio.sleep(STEADY)
    assert not loads.failures


async def test_callers_of_a_service_notice_no_new_address(release: LinkerdBinaries) -> None:
    """The old address stays until the new one is listed, as with a second DHCP lease; then it goes."""
    async with open_mesh(release) as stage:
        machine = stage.vm.machine
        async with open_loads(stage, "another address of the VM", BY_SERVICE) as loads:
            await trio.sleep(STEADY)
            # With /24, local connections to it would come from the old one, and end with it.
            await machine.must("ip", "address", "add", f"{OTHER_VM}/32", "dev", "eth0")
            for network in (*mesh.CLUSTER_NETWORKS, mesh.VM_NETWORK):
                await machine.must("ip", "route", "replace", network, "dev", "eth0", "scope", "link", "src", OTHER_VM)

            async def listed() -> object:
                (found,) = (await stage.admin.send(list_all(EXTERNAL_WORKLOADS, mesh.NAMESPACE)))["items"]
                return found["spec"]["workloadIPs"]

            with trio.fail_after(2 * PATIENCE):
                await eventually("the new address", listed, lambda found: found == [{"ip": OTHER_VM}])
            await trio.sleep(4 * STEADY)
            await machine.must("ip", "address", "del", f"{mesh.VM}/24", "dev", "eth0")
            await trio.sleep(4 * STEADY)  # a pod's proxy that was not given the new address gives up after 3 s
    assert not loads.failures


async def test_a_member_whose_proxy_cannot_run_is_left_out(release: LinkerdBinaries) -> None:
    async with open_mesh(release) as stage, open_backend(stage):
        binary = stage.scratch / "linkerd2-proxy"
        pid = (await stage.vm.active_proxy())["pid"]
        binary.rename(binary.with_name("away"))
        began = time.monotonic()
        await stage.vm.machine.must("kill", f"-{signal.SIGKILL}", str(pid))

        with trio.fail_after(PATIENCE):
            await eventually("answers of the pod alone", partial(only_the_pod_answers, stage), bool)
        took = time.monotonic() - began
        add_figure(f"two backends, the proxy cannot run: only the other answers after {took:.1f} s")
        async with open_loads(stage, "two backends, the proxy cannot run", BY_SERVICE) as loads:
            await trio.sleep(STEADY)
        assert not loads.failures
        binary.with_name("away").rename(binary)
        with trio.fail_after(2 * PATIENCE):
            await eventually("the VM's answer", partial(fetch_from, stage), partial(eq, mesh.GROUP))
