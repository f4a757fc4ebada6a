"""Two machines for swaps: `vm` with an agent and an application, `peer` that is cluster, client and control plane.

The control plane answers what the stand-in proxy requests: policies that admit everybody, and no destination of the
mesh, so that traffic passes unchanged both ways. It can be ended and started again.
"""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio

from exclave.link.layout import ADMIN_PORT, instance_address
from exclave_sandbox.stage.namespaces import Machine, open_network
from exclave_sandbox.stage.programs import Traffic, module, open_program, open_traffic
from exclave_sandbox.stage.stage import share_stand_in
from support.agent_program import PATIENCE, Agent, is_running, open_agent
from support.linkerd_controllers import controllers_command, write_certificate
from support.mesh import stored_mesh

VM, PEER, POD, CONTROL_PLANE = "10.77.0.20", "10.77.0.30", "10.42.0.9", "10.42.0.2"
PORT = 8080
INBOUND, OUTBOUND = f"http://{VM}:{PORT}/", f"http://{POD}:{PORT}/"


@dataclass
class Load:
    """Traffic to one place. `figures` are there afterwards: see exclave_sandbox.stage.traffic."""

    traffic: Traffic
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, int]:
        """How often what failed; a reused connection that was ended is a failure, too."""
        broken = self.figures["broken"]
        return self.figures["failures"] | ({"a reused connection was ended": broken} if broken else {})

    @property
    def reused(self) -> int:
        """How many requests over reused connections were answered."""
        return int(self.figures["requests"] - self.figures["failed"] - len(self.figures["samples"]))

    async def renew(self) -> None:
        """Let the client close each reused connection and open it again."""
        with trio.fail_after(PATIENCE):
            await self.traffic.request("renew")


@asynccontextmanager
async def open_load(
    machine: Machine, url: str, workers: int, long: int, rate: float, *source: str
) -> AsyncIterator[Load]:
    """Traffic from a machine while open: `workers` open connections, `long` reuse one."""
    words = ["--new", str(workers), "--reusing", str(long), "--rate", str(rate), *(f"--source={one}" for one in source)]
    async with open_traffic(machine.command(*module("exclave_sandbox.stage.traffic", url, *words))) as traffic:
        load = Load(traffic)
        with trio.fail_after(PATIENCE):
            while sum(json.loads(await traffic.request())["clients"].values()) < 2 * (workers + long):  # noqa: ASYNC110  another process
                await trio.sleep(0.05)
        yield load
        load.figures = json.loads(await traffic.end())


@dataclass
class Lab:
    """Both machines, and what runs in them. `binary` is the proxy, a file of the lab's own."""

    vm: Machine
    peer: Machine
    scratch: Path
    binary: Path
    controllers: "subprocess.Popen[bytes] | None" = None

    @asynccontextmanager
    async def agent(self, **more: Any) -> AsyncIterator[Agent]:
        """An agent; when the block is left it is killed, if it has not ended."""
        options = {"steers": True, "binary": str(self.binary), "drain": 3.0, "ports": [PORT], **more}
        async with open_agent(self.vm, self.scratch, **options) as agent:
            yield agent

    @asynccontextmanager
    async def load(self, workers: int = 2, long: int = 1, rate: float = 20.0) -> AsyncIterator[dict[str, Load]]:
        """Traffic both ways while open; each one's figures are there afterwards."""
        async with (
            open_load(self.peer, INBOUND, workers, long, rate) as inbound,
            open_load(self.vm, OUTBOUND, workers, long, rate) as outbound,
        ):
            yield {"inbound": inbound, "outbound": outbound}

    def start_controllers(self) -> None:
        """Start a control plane for the stand-in proxy."""
        self._run_controllers(controllers_command(CONTROL_PLANE))

    def start_real_controllers(self, policy: str = "all-unauthenticated") -> None:
        """Start a control plane for the real proxy, whose mesh is that of the agents."""
        certificate = write_certificate(stored_mesh(self.scratch).issuer, self.scratch)
        self._run_controllers(controllers_command(CONTROL_PLANE, policy, *certificate))

    def _run_controllers(self, command: list[str]) -> None:
        self.controllers = subprocess.Popen(self.peer.command(*command), stdin=PIPE, stdout=PIPE)
        assert self.controllers.stdout is not None
        assert self.controllers.stdout.readline() == b"up\n"

    def use_real_proxy(self, named: str) -> None:
        """Have a real proxy in place of the stand-in, and no controllers that it could not talk to."""
        shutil.copy(named, self.binary)
        self.binary.chmod(0o755)
        self.end_controllers()

    def end_controllers(self) -> None:
        """End the control plane."""
        if self.controllers is not None:
            self.controllers.communicate()
            self.controllers = None

    def replace_binary(self) -> None:
        """Put another proxy in the place of the one that runs, as a package does."""
        newer = self.scratch / "proxy-newer"
        newer.write_text(self.binary.read_text() + "# newer\n")
        newer.chmod(0o755)
        newer.rename(self.binary)

    def write_binary(self, *lines: str) -> None:
        """Put a shell script in its place."""
        newer = self.scratch / "proxy-newer"
        newer.write_text("\n".join(["#!/bin/sh", *lines, ""]))
        newer.chmod(0o755)
        newer.rename(self.binary)

    async def runs(self, pid: int) -> bool:
        return await is_running(self.vm, pid)

    async def proxies(self) -> list[int]:
        """Every proxy of the machine, also without a record: the processes that listen on an admin port."""
        listening = (await self.vm.must("ss", "-Hltnp")).decode()
        places = tuple(f"{instance_address(instance)}:{ADMIN_PORT}" for instance in ("a", "b"))  # type: ignore[arg-type]
        return sorted(
            int(line.split("pid=")[1].split(",")[0]) for line in listening.splitlines() if line.split()[3] in places
        )


@asynccontextmanager
async def open_lab() -> AsyncIterator[Lab]:
    """Both machines, with applications and a control plane. Needs root."""
    async with open_network() as network:
        vm = await network.add("vm", f"{VM}/24")
        peer = await network.add("peer", f"{PEER}/24", f"{POD}/16", f"{CONTROL_PLANE}/16")
        await vm.add_route("10.42.0.0/16")
        for machine in (vm, peer):  # thousands of connections a minute to one place: their ports are used again
            await machine.must("sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse")
            await machine.must("sh", "-c", "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range")
        (network.scratch / "run").mkdir(mode=0o755)
        lab = Lab(vm, peer, network.scratch, await share_stand_in(network.scratch, vm))
        lab.start_controllers()
        echo = module("exclave_sandbox.stage.echo", "app", str(PORT))
        try:
            async with open_program(vm.command(*echo), network.scratch / "vm.log"):
                async with open_program(peer.command(*echo), network.scratch / "peer.log"):
                    yield lab
        finally:
            lab.end_controllers()
