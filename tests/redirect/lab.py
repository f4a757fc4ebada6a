"""Two machines on one bridge, `vm` and `peer`, with small programs in them; our doors work inside `vm`.

The doors call `nft` and `ip` by name. A folder with two scripts in front of PATH moves these calls into the machine.
Code that opens a netlink socket runs in a process inside. The code under test, the tools and the kernel are real.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.kit.host.command import run_command
from exclave.link.link import open_link
from exclave.redirect.reconciler import open_table
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render_ruleset
from exclave_sandbox.stage.namespaces import Machine, Network, open_network

from .policies import PROXY

VM4, VM6, PEER4, PEER6 = "10.77.0.20", "fd00:77::20", "10.77.0.30", "fd00:77::30"
CLUSTER4, CLUSTER6 = "10.42.0.9", "fd00:42::9"

PYTHON = os.path.realpath(sys.executable)
"""An interpreter that other users may run, too; it needs the standard library only."""

ORDINARY = os.environ["PATH"]
PROGRAMS = Path(__file__).with_name("programs")


def read_program(name: str) -> str:
    """A program's text: other users cannot read this checkout, so it is run with `python -c`."""
    return (PROGRAMS / f"{name}.py").read_text()


@dataclass(frozen=True)
class CallResult:
    """Who answered a call, and the original destination; None: the call was not redirected."""

    who: str
    original: tuple[str, int] | None = None


@dataclass
class Lab:
    """The machines, and what runs in them."""

    network: Network
    vm: Machine
    peer: Machine
    _running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def listen(self, machine: Machine, who: str, *places: str, uid: int = 0) -> None:
        """Run a program that listens at places (`address/port`) and answers with its name and the destination."""
        self.start(machine, read_program("listen"), who, *places, uid=uid, expecting="up")

    def talk(self, machine: Machine, address: str, port: int) -> "Talk":
        """Open a connection that stays open."""
        return Talk(self.start(machine, read_program("hold_connection"), address, str(port)))

    def flows(self, machine: Machine, count: int, *places: str) -> "Flows":
        """Open `count` connections to each place, which exchange words all the time."""
        return Flows(self.start(machine, read_program("hold_connections"), str(count), *places, expecting="up"))

    async def call(
        self, machine: Machine, address: str, port: int, *, uid: int = 0, timeout: float = 5.0, source_port: int = 0
    ) -> CallResult:
        """Connect; return who answered, or the name of the exception."""
        words = (address, str(port), str(timeout), str(source_port))
        answer = json.loads(await machine.must(*self._as(uid), read_program("call"), *words))
        return CallResult(answer["who"], answer["original"] and tuple(answer["original"]))

    def start(
        self, machine: Machine, program: str, *arguments: str, uid: int = 0, expecting: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Run a Python program until the lab closes; return when it has printed `expecting`."""
        command = machine.command(*self._as(uid), program, *arguments)
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._running.append(running)
        if expecting:
            assert running.stdout is not None
            assert running.stdout.readline().decode().strip() == expecting
        return running

    def end(self, running: "subprocess.Popen[bytes]") -> None:
        """End a program of this lab."""
        running.kill()
        running.wait()
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                pipe.close()

    def end_all(self) -> None:
        for running in self._running:
            self.end(running)

    async def ask(self, machine: Machine, address: str, port: int, *, timeout: float = 5.0) -> str:
        """Send a datagram; return who answered, or the name of the exception."""
        return (
            (
                await machine.must(
                    PYTHON, "-I", "-S", "-c", read_program("send_datagram"), address, str(port), str(timeout)
                )
            )
            .decode()
            .strip()
        )

    async def load(self, policy: RedirectPolicy) -> None:
        """Put the rules of a policy into the machine's kernel."""
        loaded = await self.vm.run("nft", "-f", "-", stdin=render_ruleset(policy).encode())
        assert loaded.errors == ""

    async def add(self, name: str) -> Machine:
        """Another machine, without addresses."""
        with ordinary_programs():
            return await self.network.add(name)

    async def wire(self, machine: Machine, name: str, address: str, other: Machine, other_name: str, at: str) -> None:
        """Make a link between two machines beside the bridge; addresses have a prefix length."""
        inside = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", "--", "ip", "link", "add", name, "type", "veth"]
        with ordinary_programs():
            done = await run_command([*inside, "peer", "name", other_name, "netns", str(other.pid)])
        assert done.errors == ""
        for end, link, its in ((machine, name, address), (other, other_name, at)):
            if its:
                await end.add_address(its, link)
            await end.must("ip", "link", "set", link, "up")

    def join(self, machine: Machine, other: Machine, name: str) -> None:
        """Make a tunnel between two machines, with a device of this name in both."""
        command = [PYTHON, "-I", "-S", "-c", read_program("tunnel"), str(machine.pid), str(other.pid), name]
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._running.append(running)
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"

    async def nft(self, *arguments: str) -> str:
        """Run nft in the machine; return its output."""
        return (await self.vm.must("nft", *arguments)).decode()

    @staticmethod
    def _as(uid: int) -> list[str]:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return [*user, PYTHON, "-I", "-S", "-c"]


@dataclass
class Talk:
    """A connection that stays open, and who answered it."""

    running: "subprocess.Popen[bytes]"

    def __post_init__(self) -> None:
        self.who = str(json.loads(self._line())["who"])

    def is_alive(self) -> bool:
        """Send a word; whether it comes back."""
        assert self.running.stdin is not None
        self.running.stdin.write(b"word\n")
        self.running.stdin.flush()
        return self._line() == "word"

    def _line(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().decode().strip()


@dataclass
class Flows:
    """Connections that exchange words all the time."""

    running: "subprocess.Popen[bytes]"

    async def alive(self) -> list[str]:
        """Who serves each connection that is alive: a word that was sent after this call has come back."""
        return await trio.to_thread.run_sync(self._ask)

    def _ask(self) -> list[str]:
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(b"?\n")
        self.running.stdin.flush()
        names: list[str] = json.loads(self.running.stdout.readline())
        return names


@asynccontextmanager
async def open_lab() -> AsyncIterator[Lab]:
    """`vm` has both families, and so has `peer`, which is also the cluster's network."""
    async with open_network() as network:
        vm = await network.add("vm", f"{VM4}/24")
        peer = await network.add("peer", f"{PEER4}/24", f"{CLUSTER4}/16")
        for machine, addresses in ((vm, (VM6,)), (peer, (PEER6, CLUSTER6))):
            for address in addresses:
                await machine.must("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
        await vm.add_route("10.42.0.0/16")
        await vm.add_route("fd00:42::/64")
        lab = Lab(network, vm, peer)
        try:
            with doors_inside(vm, network.scratch):
                yield lab
        finally:
            await trio.to_thread.run_sync(lab.end_all)


@asynccontextmanager
async def open_rules(lab: Lab, policy: RedirectPolicy) -> AsyncIterator[None]:
    """The private link, a program in place of the policy's instance, and the rules."""
    endings = EndingSwitch()
    endings.ask_nowait(Ending.STOP)
    async with open_link(endings), open_table(endings):
        as_proxies(lab, policy.instance)
        await lab.load(policy)
        yield


@contextmanager
def ordinary_programs() -> Iterator[None]:
    """Calls of `nft` and `ip` run on the host."""
    before = os.environ["PATH"]
    os.environ["PATH"] = ORDINARY
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def doors_inside(machine: Machine, scratch: Path, *, prefix: str = "") -> Iterator[None]:
    """Calls of `nft` and `ip` run inside the machine, with a prefix such as `setpriv …`."""
    folder = scratch / "inside"
    folder.mkdir(exist_ok=True)
    for program in ("nft", "ip", "iptables-nft-save", "ip6tables-nft-save"):
        script = folder / program
        real = shutil.which(program, path=ORDINARY)
        if real is None:
            continue
        home = f"/proc/{machine.pid}/ns/net"  # does not exist inside a machine
        script.write_text(
            f'#!/bin/sh\n[ -e {home} ] || exec {real} "$@"\nexec nsenter --net={home} -- {prefix} {real} "$@"\n'
        )
        script.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{ORDINARY}"
    try:
        with mock.patch("exclave.redirect.reconciler.forget_half_open", partial(forget_inside, machine)):
            yield
    finally:
        os.environ["PATH"] = before


async def forget_inside(machine: Machine, addresses: Collection[str]) -> None:
    """Run `forget_half_open` in a process inside the machine."""
    await machine.must(sys.executable, str(PROGRAMS / "forget_half_open.py"), *addresses)


def as_proxies(lab: Lab, *instances: str) -> None:
    """Run programs in place of proxy instances, with the proxy's user id."""
    for instance in instances:
        number = {"a": 1, "b": 2}[instance]
        hosts = (f"169.254.77.{number}", f"fd77:ec1a:7e::{number}")
        lab.listen(
            lab.vm, f"proxy {instance}", *(f"{host}/{port}" for host in hosts for port in (4140, 4143)), uid=PROXY
        )
