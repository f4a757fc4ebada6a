"""The demo's VM: an application, an agent with its own configuration, and reads of their state.

The agent's files below /etc, /var/lib and /run are in one folder, so that two snapshots can be compared.
"""

import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from exclave.control.client import NoAgent, query_agent
from exclave.kit.host.command import Finished, run_command
from exclave.kit.tasks.nursery import shielded
from exclave_sandbox.expect import SUBJECTS, UnexpectedError, eventually
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine, Network
from exclave_sandbox.stage.programs import GOODBYE, StageProgram, module, open_program, start

_CONFIG = """\
[paths]
state = "{folder}/var/lib/exclave"
runtime = "{folder}/run/exclave"

[proxy]
binary = "{proxy}"
user = "nobody"
drain = "5s"

[listing]
drain = "2s"
"""


@dataclass
class VirtualMachine:
    """The VM. `folder` has the agent's parts of a file system."""

    machine: Machine
    folder: Path
    agent: StageProgram | None = None

    @property
    def config(self) -> Path:
        """Its config.toml."""
        return self.folder / "etc/exclave/config.toml"

    @property
    def runtime(self) -> Path:
        """Its /run/exclave."""
        return self.folder / "run/exclave"

    def start_agent(self) -> StageProgram:
        """Start the agent."""
        command = self.machine.command(*module("exclave", "run", "--config", str(self.config)))
        self.agent = start(command, self.folder.parent / "agent.log")
        return self.agent

    async def kill_agent(self) -> None:
        """End the agent by SIGKILL, as a crash would."""
        assert self.agent is not None
        self.agent.send(signal.SIGKILL)
        await self.agent.wait()

    async def command(self, *arguments: str, stdin: bytes = b"", timeout: float = 60.0) -> Finished:
        """Run an exclave command on the machine."""
        command = module("exclave", *arguments, "--config", str(self.config))
        return await self.machine.run(*command, stdin=stdin, timeout=timeout)

    async def status(self) -> dict[str, Any]:
        """The agent's status; empty while no agent answers."""
        try:
            return await trio.to_thread.run_sync(query_agent, self.runtime, "status")
        except NoAgent:
            return {}

    async def wait_idle(self) -> None:
        """Wait until the agent answers."""
        await eventually("the agent's answer", self.status, bool)

    async def active_proxy(self) -> dict[str, Any]:
        """State and process of the proxy that the rules point to."""
        proxy = (await self.status())["proxy"]
        found: dict[str, Any] = proxy["instances"][proxy["active"]]
        return found

    def agent_log_tail(self) -> str:
        """The end of the agent's log."""
        return self.agent.log_tail() if self.agent is not None else ""

    async def snapshot(self) -> dict[str, str]:
        """A snapshot: rules, links, addresses, routes, files."""
        found = {subject: (await self.machine.must(*command)).decode() for subject, command in SUBJECTS.items()}
        listing = ["find", str(self.folder), "-printf", "%P %M %u:%g %s\\n"]
        lines = (await self.machine.must(*listing)).decode().splitlines()
        found["files"] = "\n".join(sorted(line for line in lines if not line.startswith(("run/exclave ", " "))))
        return found


async def read_url(machine: Machine | None, url: str) -> bytes:
    """The body at a URL, read on a machine or on this one (None) by a plain HTTP client."""
    ask = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=5).read())"
    command = [sys.executable, "-I", "-c", ask, url]
    done = await run_command(command if machine is None else machine.command(*command))
    if done.status != 0:
        raise UnexpectedError(f"{url}: {done.errors.splitlines()[-1]}")
    return done.output


async def fetch(machine: Machine | None, url: str) -> dict[str, Any]:
    """The JSON that the application at a URL answers to a machine."""
    answer: dict[str, Any] = json.loads(await read_url(machine, url))
    return answer


@asynccontextmanager
async def open_virtual_machine(network: Network, machine: Machine, proxy: Path) -> AsyncIterator[VirtualMachine]:
    """Set up the machine, with its application and `proxy` as the proxy's binary."""
    folder = network.scratch / "vm"
    for name in ("etc/exclave", "var/lib", "run"):
        (folder / name).mkdir(parents=True)
    guest = VirtualMachine(machine, folder)
    guest.config.write_text(_CONFIG.format(folder=folder, proxy=proxy))
    echo = machine.command(*module("exclave_sandbox.stage.echo", mesh.GROUP, str(mesh.GROUP_PORT)))
    async with open_program(echo, network.scratch / "vm-app.log"):
        try:
            yield guest
        finally:
            if guest.agent is not None:
                with shielded(GOODBYE):
                    await guest.kill_agent()  # its machine goes with it, so there is nothing to walk back from
