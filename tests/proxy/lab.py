"""A machine with the private link's addresses, a proxy that its users may run, and agents that come and go in it."""

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave_sandbox.stage.namespaces import Machine, open_network
from exclave_sandbox.stage.stage import share_stand_in
from support.agent_program import Agent, is_running, open_agent

PROGRAMS = Path(__file__).with_name("programs")
USER = "nobody"
UID = GID = 65534


@dataclass
class Lab:
    """One machine. `runtime` is its agents' runtime folder, `proxy` the stand-in proxy."""

    machine: Machine
    scratch: Path
    proxy: Path

    @property
    def runtime(self) -> Path:
        return self.scratch / "run"

    def write_binary(self, name: str, *lines: str) -> Path:
        """A shell script in place of a proxy."""
        return write_script(self.scratch / name, *lines)

    @asynccontextmanager
    async def agent(
        self, binary: Path | None = None, *, drain: float = 5.0, active: str | None = None, policy: str | None = None
    ) -> AsyncIterator[Agent]:
        """An agent with proxies and no rules of its own: it finds some that point to `active`."""
        options = {"binary": str(binary or self.proxy), "drain": drain, "active": active, "policy": policy}
        async with open_agent(self.machine, self.scratch, **options) as agent:
            yield agent

    async def status(self, pid: int) -> dict[str, str]:
        """What the kernel reports of a process of the machine."""
        text = (await self.machine.must("cat", f"/proc/{pid}/status")).decode()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}

    async def runs(self, pid: int) -> bool:
        return await is_running(self.machine, pid)

    async def get(self, path: str, address: str = "169.254.77.1") -> int:
        """Request a path of a proxy's admin server, from a program of the machine; the status."""
        return int(await self.machine.must(sys.executable, "-I", str(PROGRAMS / "get_status.py"), address, path))


@asynccontextmanager
async def open_lab() -> AsyncIterator[Lab]:
    """A machine of its own. Needs root."""
    async with open_network() as network:
        machine = await network.add("vm", "10.77.0.20/24")
        (network.scratch / "run").mkdir(mode=0o755)
        yield Lab(machine, network.scratch, await share_stand_in(network.scratch, machine))


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="exclave-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def write_script(path: Path, *lines: str, mode: int = 0o755) -> Path:
    """A shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(mode)
    return path
