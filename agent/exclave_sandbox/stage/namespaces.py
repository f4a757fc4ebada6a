"""Machines made of namespaces: each has its own network, mounts, host name and processes; a bridge connects them.

Nothing of the host is changed. Process 1 of a machine reads a pipe from this process. When this process ends in any
way, the pipe ends, process 1 ends, and with it every process, link and rule of the machine.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from exclave.kit.host.command import Finished, run_command
from exclave.kit.tasks.nursery import shielded

RELEASE_TIME = 30.0  # seconds for all machines to end
UPLINK = "eth0"  # the machine's link to the bridge

_PROCESS_1 = """
import signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the kernel reaps whatever is orphaned here
socket.sethostname(sys.argv[1])
open("/proc/sys/net/ipv6/conf/default/accept_dad", "w").write("0")  # addresses are there at once, or not at all
print("ready", flush=True)
sys.stdin.read()
"""
_NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")
_HOLDER = (*_NAMESPACES, sys.executable, "-I", "-S", "-c", _PROCESS_1)


class MachineError(Exception):
    """A command on a machine failed; the text is the command's error output."""


@dataclass(frozen=True)
class Machine:
    """One machine. `pid` is its process 1 as the host sees it."""

    name: str
    pid: int

    def command(self, *arguments: str) -> list[str]:
        """The argument list that runs `arguments` inside."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--", *arguments]

    async def run(self, *arguments: str, stdin: bytes = b"", timeout: float = 30.0) -> Finished:
        """Run a program inside to its end."""
        return await run_command(self.command(*arguments), stdin=stdin, timeout=timeout)

    async def must(self, *arguments: str) -> bytes:
        """Run a program that must succeed, and return its output. Raises MachineError."""
        return await _must(self.command(*arguments))

    async def add_address(self, address: str, link: str = UPLINK) -> None:
        """Give a link another address, such as 10.42.0.10/16."""
        await self.must("ip", "address", "add", address, "dev", link)

    async def add_route(self, network: str, link: str = UPLINK) -> None:
        """Reach a network directly over a link."""
        await self.must("ip", "route", "add", network, "dev", link)

    async def share(self, source: Path, target: Path) -> None:
        """Mount a folder of the host at another path of this machine, where every user may reach it."""
        await self.must("mount", "--bind", str(source), str(target))


@dataclass
class Network:
    """Machines on one bridge, which is in a machine of its own."""

    switch: Machine
    scratch: Path
    _holders: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    async def add(self, name: str, *addresses: str) -> Machine:
        """Make a machine on the bridge, with these addresses (CIDR) on its uplink."""
        machine, holder = await trio.to_thread.run_sync(_hold, name)
        self._holders.append(holder)
        await self._plug(name, machine.pid)
        for address in addresses:
            await machine.add_address(address)
        await machine.must("ip", "link", "set", UPLINK, "up")
        return machine

    async def join(self, *addresses: str) -> None:
        """Connect the calling process's network namespace. Raises MachineError if it may be the host's."""
        links = [name for _, name in socket.if_nameindex() if name != "lo"]
        if links:
            raise MachineError(f"this network namespace has links of its own ({', '.join(links)}) and stays untouched")
        await self._plug("self", os.getpid())
        for address in addresses:
            await _must(["ip", "address", "add", address, "dev", UPLINK])
        for link in ("lo", UPLINK):
            await _must(["ip", "link", "set", link, "up"])

    async def _plug(self, name: str, pid: int) -> None:
        port = f"port-{name}"[:15]
        inside = ["nsenter", f"--net=/proc/{self.switch.pid}/ns/net", "--"]
        peer = ["peer", "name", UPLINK, "netns", str(pid)]
        await _must([*inside, "ip", "link", "add", port, "type", "veth", *peer])
        await _must([*inside, "ip", "link", "set", port, "master", "bridge", "up"])


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    """An empty network, and a scratch folder for its machines. Needs root. Raises MachineError."""
    with tempfile.TemporaryDirectory(prefix="exclave-") as scratch:
        os.chmod(scratch, 0o755)  # noqa: S103  other users of the machines reach what is shared there
        holders: list[subprocess.Popen[bytes]] = []
        try:
            switch, holder = await trio.to_thread.run_sync(_hold, "switch")
            holders.append(holder)
            await switch.must("ip", "link", "add", "bridge", "type", "bridge")
            await switch.must("ip", "link", "set", "bridge", "up")
            yield Network(switch, Path(scratch), _holders=holders)
        finally:
            with shielded(RELEASE_TIME):
                await trio.to_thread.run_sync(_release, holders)


def _hold(name: str) -> tuple[Machine, subprocess.Popen[bytes]]:
    holder = subprocess.Popen(
        [*_HOLDER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline() != b"ready\n":
        raise MachineError(f"no namespaces here: {holder.stderr.read().decode(errors='replace').strip()}")
    machine = Machine(name, psutil.Process(holder.pid).children()[0].pid)
    subprocess.run(machine.command("ip", "link", "set", "lo", "up"), check=True)
    return machine, holder


def _release(holders: "list[subprocess.Popen[bytes]]") -> None:
    """End all machines at once, by the end of file for each process 1."""
    for holder in holders:
        assert holder.stdin is not None
        holder.stdin.close()
    for holder in holders:
        holder.wait()
        for pipe in (holder.stdout, holder.stderr):
            if pipe is not None:
                pipe.close()


async def _must(arguments: Sequence[str]) -> bytes:
    done = await run_command(arguments)
    if done.status != 0:
        raise MachineError(f"{' '.join(arguments)}: {done.errors}")
    return done.output
