"""The demo's scenes under traffic: identities, renewals, flushed rules, outages and swaps.

Two generators, on the pod and on the VM. One failed request fails the step; only a flush of all rules may fail some.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, WORKLOAD_GROUPS, list_all, patch
from exclave.kit.tasks.nursery import shielded
from exclave.link.layout import ADMIN_PORT, instance_address
from exclave_sandbox.demo.membership import BY_ADDRESS, SPIFFE_ID, identity_of
from exclave_sandbox.expect import UnexpectedError, eventually, expect
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import Traffic, module, open_traffic
from exclave_sandbox.stage.stage import DemoStage, fetch, read_url

BY_GROUP = f"http://{mesh.GROUP_SERVICE}:{mesh.GROUP_PORT}/"
BY_POD_SERVICE = f"http://{mesh.POD_SERVICE}:{mesh.POD_PORT}/"

RENEWING = 30.0  # seconds of renewals, at least
RENEWALS = 6  # certificates of ten seconds are renewed about every five
FLUSHES = 3
APART = 2.0  # seconds from one flush to the next
AWAY = 5.0  # seconds without a control plane: connections to it break, and probes and heartbeats come due
DEAD = 1.0  # seconds without an agent
AROUND = 1.0  # seconds of traffic before and after a swap
RESTART_TIME = 120.0  # seconds for an API server to start again; a real one takes a while
LONG_LIFE = "24h"


@dataclass
class Load:
    """Two traffic generators, and their figures once they have ended."""

    generators: dict[str, Traffic]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> str:
        """The figures as text. Raises UnexpectedError if a request failed, or came without the right identity."""
        for way, figures in self.figures.items():
            if figures["failed"] or not figures["requests"]:
                raise UnexpectedError(
                    f"{way}: {figures['failed']} of {figures['requests']} failed: {figures['failures']}"
                )
            client = identity_of(mesh.POD_NAME if way == _TO_VM else mesh.GROUP)
            expect(f"{way}: clients", set(figures["clients"]), {client})
        asked = sum(figures["requests"] for figures in self.figures.values())
        connections = sum(figures["connections"] for figures in self.figures.values())
        return f"{asked} requests over {connections} connections, 0 failed"

    def loss_summary(self) -> str:
        """The same where there were no rules for a while. Raises UnexpectedError if a reused connection broke."""
        for way, figures in self.figures.items():
            expect(f"{way}: reused connections that broke", figures["broken"], 0)
        asked, failed = (sum(each[what] for each in self.figures.values()) for what in ("requests", "failed"))
        bare = sum(each["clients"].get("None", 0) for each in self.figures.values())
        return f"of {asked} requests {failed} failed and {bare} bypassed the mesh; 0 reused connections broke"


_TO_VM, _TO_POD = "pod → VM", "VM → pod"


@asynccontextmanager
async def open_load(stage: DemoStage) -> AsyncIterator[Load]:
    """Traffic both ways while open; the figures are there afterwards."""
    async with AsyncExitStack() as stack:

        async def generate(machine: Machine, url: str) -> Traffic:
            command = machine.command(*module("exclave_sandbox.stage.traffic", url))
            return await stack.enter_async_context(open_traffic(command))

        load = Load(
            {_TO_VM: await generate(stage.pod, BY_GROUP), _TO_POD: await generate(stage.vm.machine, BY_POD_SERVICE)}
        )
        yield load
        for way, traffic in load.generators.items():
            load.figures[way] = json.loads(await traffic.end())


@dataclass
class TrafficScenes:
    """A member serves, while its surroundings change and fail."""

    stage: DemoStage

    async def pod_to_vm(self) -> str:
        """By address: the ExternalWorkload names the identity behind it."""
        return await self._from_pod(BY_ADDRESS)

    async def pod_to_service(self) -> str:
        """By a Service that selects the group's label."""
        return await self._from_pod(BY_GROUP)

    async def _from_pod(self, url: str) -> str:
        answer = await fetch(self.stage.pod, url)
        expect("server", answer["server"], mesh.GROUP)
        expect("client, at the VM", answer["client_id"], identity_of(mesh.POD_NAME))
        expect("server, at the pod's proxy", await self._proven_servers(self.stage.pod, "127.0.0.1"), {SPIFFE_ID})
        return f"client, proven to the VM:  {answer['client_id']}\nserver, proven to the pod: {SPIFFE_ID}"

    async def vm_to_service(self) -> str:
        """By a Service that selects a meshed pod."""
        answer = await fetch(self.stage.vm.machine, BY_POD_SERVICE)
        expect("server", answer["server"], mesh.POD_NAME)
        server = identity_of(mesh.POD_NAME)
        expect("client, at the pod", answer["client_id"], identity_of(mesh.GROUP))
        proven = await self._proven_servers(self.stage.vm.machine, instance_address("a"))
        expect("server, at the VM's proxy", proven, {server})
        return f"client, proven to the pod: {answer['client_id']}\nserver, proven to the VM:  {server}"

    async def _proven_servers(self, machine: Machine, address: str) -> set[str]:
        """The servers whose identity a proxy has verified by TLS, from its metrics."""
        metrics = (await read_url(machine, f"http://{address}:{ADMIN_PORT}/metrics")).decode()
        return set(re.findall(r'direction="outbound".*server_id="([^"]+)"', metrics))

    async def renewals(self) -> str:
        """Certificates of ten seconds, for half a minute."""
        before, began = await self._renewed(), trio.current_time()
        async with open_load(self.stage) as load:
            await trio.sleep(RENEWING)
            await eventually("renewals", self._renewed, lambda count: int(str(count)) - before >= RENEWALS)
        took = trio.current_time() - began
        return f"{await self._renewed() - before} renewals in {took:.1f} s; {load.summary()}"

    async def _renewed(self) -> int:
        metrics = (await self.stage.vm.status())["metrics"]
        return int(metrics.get('exclave_certificate_renewals_total{result="ok"}', 0))

    async def longer_life(self) -> str:
        """New settings reach the machine without a restart."""
        body = {"spec": {"certificateLifetime": LONG_LIFE}}
        await self.stage.admin.send(patch(WORKLOAD_GROUPS, mesh.NAMESPACE, mesh.GROUP, body))
        first = (await self.stage.vm.status())["certificate"]["notAfter"]

        async def read_end() -> object:
            return (await self.stage.vm.status())["certificate"]["notAfter"]

        ends = await eventually("a longer certificate", read_end, lambda ends: str(ends)[:13] > str(first)[:13])
        return f"the new certificate ends at {ends}"

    async def rules_flushed(self) -> str:
        """As the restart of a firewall does."""
        away, before = [], await self._workload_version()
        async with open_load(self.stage) as load:
            for _ in range(FLUSHES):
                await trio.sleep(APART)
                away.append(float(await self.stage.vm.machine.must(*module("exclave_sandbox.stage.flush"))))
            await trio.sleep(APART)
        expect("state", await self._state(), "ready")
        expect("version of the ExternalWorkload", await self._workload_version(), before)
        gaps = ", ".join(f"{1000 * seconds:.0f}" for seconds in away)
        return f"the rules were back after {gaps} ms, without a write to the cluster\n{load.loss_summary()}"

    async def _workload_version(self) -> str:
        (found,) = (await self.stage.admin.send(list_all(EXTERNAL_WORKLOADS, mesh.NAMESPACE)))["items"]
        return str(found["metadata"]["resourceVersion"])

    async def control_plane_down(self) -> str:
        """API server and controller end and start again."""
        stage = self.stage
        async with open_load(stage) as load:
            await stage.controller.end()
            await stage.api.close()
            try:
                await eventually("the agent to notice", self._reachable, lambda reachable: not reachable)
                await trio.sleep(AWAY)
                expect("state meanwhile", await self._state(), "ready")
                expect("reachable meanwhile", await self._reachable(), False)
            finally:
                with shielded(RESTART_TIME):
                    await stage.api.open()
            stage.start_controller()
            stage.restart_ended()
            await eventually("the API server again", self._reachable, bool)
            if not stage.linkerd:  # the stand-in reports it; the real one reconnects by itself
                await eventually("Linkerd's destination controller again", self._destination_follows, bool)
        return f"down for {AWAY:.0f} s, the member stayed ready; {load.summary()}"

    async def _reachable(self) -> bool:
        status = await self.stage.vm.status()
        return bool(status and status["cluster"]["reachable"])

    async def _destination_follows(self) -> bool:
        try:
            await read_url(None, f"http://{mesh.CONTROL_PLANE}:8086/follows")
        except UnexpectedError:
            return False
        return True

    async def agent_killed(self) -> str:
        """The next agent adopts the proxy that still runs."""
        vm = self.stage.vm
        before = (await vm.active_proxy())["pid"]
        async with open_load(self.stage) as load:
            await vm.kill_agent()
            await trio.sleep(DEAD)
            vm.start_agent()
            await eventually("the agent to be ready", self._state, lambda state: state == "ready")
        after = (await vm.active_proxy())["pid"]
        expect("the proxy's process", after, before)
        return f"the same proxy, process {after}, kept running; {load.summary()}"

    async def proxy_swapped(self) -> str:
        """Traffic moves to a new proxy, and back; each old one ends after its last connection."""
        vm, moved = self.stage.vm, []
        for _ in range(2):
            before = await vm.active_proxy()
            async with open_load(self.stage) as load:
                await trio.sleep(AROUND)
                done = await vm.command("proxy", "swap", "--json")
                if done.status != 0:
                    raise UnexpectedError(done.output.decode() or done.errors)
                swapped = json.loads(done.output)["swapped"]
                await trio.sleep(AROUND)
                old = (await vm.status())["proxy"]["instances"][swapped["from"]]
                expect("the old proxy, which still has connections,", old["state"], "draining")
            moved.append(f"{swapped['from']} → {swapped['to']} in {swapped['seconds']:.1f} s: {load.summary()}")
            await eventually("the old proxy to end", self._instances, lambda names: names == {swapped["to"]})  # noqa: B023  used before it changes
            expect("the proxy's process is another", (await vm.active_proxy())["pid"] == before["pid"], False)
        expect("state", await self._state(), "ready")
        return "\n".join(moved)

    async def _instances(self) -> object:
        instances = (await self.stage.vm.status())["proxy"]["instances"]
        return {name for name, view in instances.items() if view is not None}

    async def _state(self) -> object:
        return (await self.stage.vm.status()).get("state")
