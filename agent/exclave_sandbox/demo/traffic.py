"""The demo's scenes under traffic: who is who on both sides, renewals, a control plane that goes away, a killed agent.

Rules: steady traffic is two generators, one on the pod and one on the machine, half of whose workers keep their
connections; a step that has traffic counts every request, and one failure fails the step. Only where others flush all
rules may new connections fail or pass by the mesh, for as long as there are no rules; no kept one may break.
"""

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, WORKLOAD_GROUPS, list_all, patch
from exclave.kit.tasks.shield import shielded
from exclave.link.layout import ADMIN_PORT, instance_address
from exclave_sandbox.demo.joining import BY_ADDRESS, expect
from exclave_sandbox.expect import UnexpectedError, eventually
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import Traffic, module, open_traffic
from exclave_sandbox.stage.stage import Stage
from exclave_sandbox.stage.vm import fetch, read_url

BY_GROUP = f"http://{mesh.GROUP_SERVICE}:{mesh.GROUP_PORT}/"
BY_POD_SERVICE = f"http://{mesh.POD_SERVICE}:{mesh.POD_PORT}/"

RENEWING = 30.0
"""Seconds of renewals, at least; and how many there must be, one every five seconds or so."""

RENEWALS = 6

FLUSHES = 3
APART = 2.0
"""Seconds from one flush by others to the next."""

AWAY = 5.0
"""Seconds without a control plane: longer than connections need to break, and probes and heartbeats come due."""

DEAD = 1.0
"""Seconds without an agent."""

AROUND = 1.0
"""Seconds of traffic before and after a swap."""

RESTART_TIME = 120.0
"""Seconds for an API server to start again; a real one takes a while."""

LONG_LIFE = "24h"

_IDENTITY = "{}.{}.serviceaccount.identity.{}.{}"
_SPIFFE = f"spiffe://{mesh.TRUST_DOMAIN}/ns/{mesh.NAMESPACE}/sa/{mesh.GROUP}"


def identity_of(account: str) -> str:
    """The DNS form of an account's identity."""
    return _IDENTITY.format(account, mesh.NAMESPACE, mesh.LINKERD, mesh.TRUST_DOMAIN)


@dataclass
class Load:
    """Two traffic generators, and what they have measured once they have ended."""

    generators: dict[str, Traffic]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def tell(self) -> str:
        """The figures in words. Raises UnexpectedError if a request failed or came from nobody."""
        for way, figures in self.figures.items():
            if figures["failed"] or not figures["requests"]:
                raise UnexpectedError(
                    f"{way}: {figures['failed']} of {figures['requests']} failed: {figures['failures']}"
                )
            client = identity_of(mesh.POD_NAME if way == _TO_MACHINE else mesh.GROUP)
            expect(f"{way}: clients", set(figures["clients"]), {client})
        asked = sum(figures["requests"] for figures in self.figures.values())
        connections = sum(figures["connections"] for figures in self.figures.values())
        return f"{asked} requests over {connections} connections, 0 failed"

    def tell_losses(self) -> str:
        """The figures in words where rules were away for a while. Raises UnexpectedError if a kept connection broke."""
        for way, figures in self.figures.items():
            expect(f"{way}: kept connections that broke", figures["broken"], 0)
        asked, failed = (sum(each[what] for each in self.figures.values()) for what in ("requests", "failed"))
        bare = sum(each["clients"].get("None", 0) for each in self.figures.values())
        return f"of {asked} requests {failed} failed and {bare} passed by the mesh, 0 kept connections broke"


_TO_MACHINE, _TO_POD = "pod → machine", "machine → pod"


@asynccontextmanager
async def open_load(stage: Stage) -> AsyncIterator[Load]:
    """Have traffic both ways while open; the figures are there afterwards."""
    async with AsyncExitStack() as stack:

        async def generate(machine: Machine, url: str) -> Traffic:
            command = machine.command(*module("exclave_sandbox.stage.traffic", url))
            return await stack.enter_async_context(open_traffic(command))

        load = Load(
            {
                _TO_MACHINE: await generate(stage.pod, BY_GROUP),
                _TO_POD: await generate(stage.vm.machine, BY_POD_SERVICE),
            }
        )
        yield load
        for way, traffic in load.generators.items():
            load.figures[way] = json.loads(await traffic.end())


@dataclass
class UnderTraffic:
    """What happens to a member that serves."""

    stage: Stage

    async def pod_to_machine(self) -> str:
        """By address: Linkerd's ExternalWorkload says who is there."""
        return await self._from_pod(BY_ADDRESS)

    async def pod_to_service(self) -> str:
        """By a Service that selects the group's label."""
        return await self._from_pod(BY_GROUP)

    async def _from_pod(self, url: str) -> str:
        answer = await fetch(self.stage.pod, url)
        expect("server", answer["server"], mesh.GROUP)
        expect("client that the machine saw", answer["client_id"], identity_of(mesh.POD_NAME))
        seen = await self._server_seen(self.stage.pod, "127.0.0.1")
        expect("server that the pod's proxy saw", seen, {_SPIFFE})
        return f"the machine saw {answer['client_id']}\nthe pod saw {_SPIFFE}"

    async def machine_to_service(self) -> str:
        """By a Service with a meshed pod behind."""
        answer = await fetch(self.stage.vm.machine, BY_POD_SERVICE)
        expect("server", answer["server"], mesh.POD_NAME)
        expect("client that the pod saw", answer["client_id"], identity_of(mesh.GROUP))
        seen = await self._server_seen(self.stage.vm.machine, instance_address("a"))
        expect("server that the machine's proxy saw", seen, {identity_of(mesh.POD_NAME)})
        return f"the pod saw {answer['client_id']}\nthe machine saw {identity_of(mesh.POD_NAME)}"

    async def _server_seen(self, machine: Machine, address: str) -> set[str]:
        """Servers that a proxy has proven by TLS, from its metrics."""
        metrics = (await read_url(machine, f"http://{address}:{ADMIN_PORT}/metrics")).decode()
        return set(re.findall(r'direction="outbound".*server_id="([^"]+)"', metrics))

    async def renewals(self) -> str:
        """Certificates of ten seconds, for half a minute."""
        before, began = await self._renewed(), trio.current_time()
        async with open_load(self.stage) as load:
            await trio.sleep(RENEWING)
            await eventually("renewals", self._renewed, lambda count: int(str(count)) - before >= RENEWALS)
        took = trio.current_time() - began
        return f"{await self._renewed() - before} renewals in {took:.1f} s; {load.tell()}"

    async def _renewed(self) -> int:
        metrics = (await self.stage.vm.status())["metrics"]
        return int(metrics.get('exclave_certificate_renewals_total{result="ok"}', 0))

    async def longer_life(self) -> str:
        """New settings reach the machine without a restart."""
        body = {"spec": {"certificateLifetime": LONG_LIFE}}
        await self.stage.admin.send(patch(WORKLOAD_GROUPS, mesh.NAMESPACE, mesh.GROUP, body))
        first = (await self.stage.vm.status())["certificate"]["notAfter"]

        async def look() -> object:
            return (await self.stage.vm.status())["certificate"]["notAfter"]

        ends = await eventually("a longer certificate", look, lambda ends: str(ends)[:13] > str(first)[:13])
        return f"the certificate ends {ends}"

    async def rules_flushed(self) -> str:
        """Somebody else's program flushes all rules, as a firewall's restart does."""
        away, before = [], await self._workload_version()
        async with open_load(self.stage) as load:
            for _ in range(FLUSHES):
                await trio.sleep(APART)
                away.append(float(await self.stage.vm.machine.must(sys.executable, "-c", _FLUSH)))
            await trio.sleep(APART)
        expect("state", await self._state(), "ready")
        expect("the ExternalWorkload, which nobody writes for that", await self._workload_version(), before)
        every = ", ".join(f"{1000 * seconds:.0f}" for seconds in away)
        return f"the rules were back after {every} ms, and the cluster was told nothing; {load.tell_losses()}"

    async def _workload_version(self) -> str:
        """Another one after each write."""
        (found,) = (await self.stage.admin.send(list_all(EXTERNAL_WORKLOADS, mesh.NAMESPACE)))["items"]
        return str(found["metadata"]["resourceVersion"])

    async def control_plane_away(self) -> str:
        """API server and controller go away and come back."""
        stage = self.stage
        async with open_load(stage) as load:
            await stage.controller.end()
            await stage.api.close()
            try:
                await eventually("the agent to notice", self._reachable, lambda reachable: not reachable)
                await trio.sleep(AWAY)
                expect("state while it was away", await self._state(), "ready")
                expect("reachable while it was away", await self._reachable(), False)
            finally:
                with shielded(RESTART_TIME):
                    await stage.api.open()
            stage.start_controller()
            await eventually("the API server again", self._reachable, bool)
            await eventually("Linkerd's destination controller again", self._destination_follows, bool)
        return f"{AWAY:.0f} s away, still ready; {load.tell()}"

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
        """The agent dies as by the kernel's hand, and another finds the proxy."""
        vm = self.stage.vm
        before = (await vm.active_proxy())["pid"]
        async with open_load(self.stage) as load:
            await vm.kill_agent()
            await trio.sleep(DEAD)
            vm.start_agent()
            await eventually("the agent to be ready", self._state, lambda state: state == "ready")
        after = (await vm.active_proxy())["pid"]
        expect("the proxy's process", after, before)
        return f"the same proxy goes on, process {after}; {load.tell()}"

    async def proxy_swapped(self) -> str:
        """Traffic moves to a new proxy, and back; each old one goes when its last connections have ended."""
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
                expect("the old proxy, which still has connections", old["state"], "draining")
            moved.append(f"{swapped['from']} → {swapped['to']} in {swapped['seconds']:.1f} s: {load.tell()}")
            await eventually("the old proxy to end", self._instances, lambda names: names == {swapped["to"]})  # noqa: B023  used before it changes
            expect("the proxy's process is another", (await vm.active_proxy())["pid"] == before["pid"], False)
        expect("state", await self._state(), "ready")
        return "\n".join(moved)

    async def _instances(self) -> object:
        instances = (await self.stage.vm.status())["proxy"]["instances"]
        return {name for name, view in instances.items() if view is not None}

    async def _state(self) -> object:
        return (await self.stage.vm.status()).get("state")


_FLUSH = """
import contextlib, os, socket, subprocess, time
from exclave.redirect.kernel.nft_events import Reader
from exclave.link.layout import TABLE
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
kernel.bind((0, 0))
kernel.setsockopt(270, 1, 7)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES
kernel.settimeout(10)
with contextlib.suppress(OSError):  # else messages wait for us on a busy machine, and the gap looks shorter
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
with subprocess.Popen(["nft", "flush", "ruleset"]):
    gone, back, reader = None, None, Reader()
    while back is None:
        datagram, now = kernel.recv(1 << 16), time.monotonic()
        for news in reader.receive(datagram):
            if TABLE in news.gone:
                gone = now
            elif TABLE in news.changed and gone is not None:
                back = now
print(back - gone)
"""
"""Flushes all rules, and prints for how many seconds ours were away, by the kernel's own messages."""
