"""Two machines on one bridge, `vm` and `peer`; programs in them that say what they see; our doors at work inside `vm`.

The doors call `nft` and `ip` by name, so a folder of two scripts in front of PATH moves them into the machine; the one
that asks the kernel itself does so in a process inside. The code under test, the tools and the kernel are real ones.
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
from exclave.redirect.rules.drain_ruleset import render_kept
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.table_door import open_table
from exclave_sandbox.stage.namespaces import Machine, Network, open_network

from .policies import PROXY

VM4, VM6, PEER4, PEER6 = "10.77.0.20", "fd00:77::20", "10.77.0.30", "fd00:77::30"
CLUSTER4, CLUSTER6 = "10.42.0.9", "fd00:42::9"

PYTHON = os.path.realpath(sys.executable)
"""An interpreter that other users may run, too; nothing but the standard library is asked of it."""

ORDINARY = os.environ["PATH"]

LISTEN = """
import json, selectors, socket, struct, sys, threading
from contextlib import suppress

def original(connection):
    try:
        if connection.family == socket.AF_INET:
            raw = connection.getsockopt(socket.SOL_IP, 80, 16)
            return [socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack("!H", raw[2:4])[0]]
        raw = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
        return [socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack("!H", raw[2:4])[0]]
    except OSError:
        return None  # nobody has redirected it

def serve(name, connection):
    seen = original(connection)
    if seen == list(connection.getsockname()[:2]):
        seen = None
    with suppress(OSError), connection, connection.makefile("rwb") as lines:
        lines.write(json.dumps({"who": name, "original": seen}).encode() + b"\\n")
        lines.flush()
        for line in lines:
            lines.write(line)
            lines.flush()

def listen(server):
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(sys.argv[1], connection), daemon=True).start()

for place in sys.argv[2:]:
    address, port = place.rsplit("/", 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, int(port)), family=family)
    threading.Thread(target=listen, args=(server,), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""

CALL = """
import json, socket, sys
try:
    place, own = (sys.argv[1], int(sys.argv[2])), ("", int(sys.argv[4]))
    with socket.create_connection(place, timeout=float(sys.argv[3]), source_address=own) as connection:
        print(connection.makefile().readline().strip())
except OSError as problem:
    print(json.dumps({"who": type(problem).__name__, "original": None}))
"""

TALK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
lines = connection.makefile("rwb")
print(lines.readline().decode().strip(), flush=True)
for line in sys.stdin.buffer:
    lines.write(line)
    lines.flush()
    print(lines.readline().decode().strip(), flush=True)
"""

FLOW = """
import asyncio, json, sys

class Flow:
    words, is_alive, who = 0, True, None

    async def talk(self, place):
        address, port = place.rsplit("/", 1)
        lines, out = await asyncio.open_connection(address, int(port))
        self.who = json.loads(await lines.readline())["who"]
        try:
            while True:
                out.write(b"word\\n")
                if await asyncio.wait_for(lines.readline(), 20) != b"word\\n":
                    break
                self.words += 1
                await asyncio.sleep(0.002)
        except (OSError, asyncio.TimeoutError):
            pass
        self.is_alive = False

async def until(holds):
    while not holds():
        await asyncio.sleep(0.002)

async def main():
    flows = [Flow() for _ in range(int(sys.argv[1])) for _ in sys.argv[2:]]
    tasks = [asyncio.create_task(flow.talk(place)) for flow, place in zip(flows, sys.argv[2:] * int(sys.argv[1]))]
    await until(lambda: all(flow.words for flow in flows))
    print("up", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        before = [flow.words for flow in flows]  # a word that was begun now has come back once there are two more
        await until(lambda: all(not flow.is_alive or flow.words > past + 1 for flow, past in zip(flows, before)))
        print(json.dumps([flow.who for flow in flows if flow.is_alive]), flush=True)

asyncio.run(main())
"""


ECHO = """
import socket, sys, threading
def serve(address, port):
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, int(port)))
    while True:
        _, caller = server.recvfrom(99)
        server.sendto(sys.argv[1].encode(), caller)
for place in sys.argv[2:]:
    threading.Thread(target=serve, args=place.rsplit("/", 1), daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""

ASK = """
import socket, sys
sender = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sender.settimeout(float(sys.argv[3]))
try:
    sender.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
    print(sender.recv(99).decode())
except OSError as problem:
    print(type(problem).__name__)
"""

FORGET = """
import sys, trio
from exclave.redirect.kernel.half_open import forget_unanswered
trio.run(forget_unanswered, sys.argv[1:])
"""


@dataclass(frozen=True)
class Seen:
    """Who answered a call, and what destination that one was told of; None: it was not redirected."""

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
        """Run a program that listens at places (`address/port`) and answers with its name and what it sees."""
        self.start(machine, LISTEN, who, *places, uid=uid, expecting="up")

    def talk(self, machine: Machine, address: str, port: int) -> "Talk":
        """A connection that stays."""
        return Talk(self.start(machine, TALK, address, str(port)))

    def flows(self, machine: Machine, count: int, *places: str) -> "Flows":
        """So many connections to each place, which talk all the time."""
        return Flows(self.start(machine, FLOW, str(count), *places, expecting="up"))

    async def call(
        self, machine: Machine, address: str, port: int, *, uid: int = 0, timeout: float = 5.0, source_port: int = 0
    ) -> Seen:
        """Connect, and say who answered; an exception's name where nobody did."""
        words = (address, str(port), str(timeout), str(source_port))
        told = json.loads(await machine.must(*self._as(uid), CALL, *words))
        return Seen(told["who"], told["original"] and tuple(told["original"]))

    def start(
        self, machine: Machine, program: str, *arguments: str, uid: int = 0, expecting: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Run a Python program until the lab closes; return when it has printed what is expected."""
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
        """Send a datagram, and say who answered; an exception's name where nobody did."""
        return (await machine.must(PYTHON, "-I", "-S", "-c", ASK, address, str(port), str(timeout))).decode().strip()

    async def load(self, policy: RedirectPolicy) -> None:
        """Put the rules of a policy into the machine's kernel."""
        loaded = await self.vm.run("nft", "-f", "-", stdin=render_kept(policy).encode())
        assert loaded.errors == ""

    async def add(self, name: str) -> Machine:
        """Another machine, without addresses."""
        with ordinary_programs():
            return await self.network.add(name)

    async def wire(self, machine: Machine, name: str, address: str, other: Machine, other_name: str, at: str) -> None:
        """A link between two machines, beside the bridge; addresses with their lengths."""
        inside = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", "--", "ip", "link", "add", name, "type", "veth"]
        with ordinary_programs():
            done = await run_command([*inside, "peer", "name", other_name, "netns", str(other.pid)])
        assert done.errors == ""
        for end, link, its in ((machine, name, address), (other, other_name, at)):
            if its:
                await end.add_address(its, link)
            await end.must("ip", "link", "set", link, "up")

    async def nft(self, *arguments: str) -> str:
        """What the machine's nft says."""
        return (await self.vm.must("nft", *arguments)).decode()

    @staticmethod
    def _as(uid: int) -> list[str]:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return [*user, PYTHON, "-I", "-S", "-c"]


@dataclass
class Talk:
    """A connection that stays: who answered it, and whether that one still does."""

    running: "subprocess.Popen[bytes]"

    def __post_init__(self) -> None:
        self.who = str(json.loads(self._line())["who"])

    def is_alive(self) -> bool:
        """Whether a word comes back."""
        assert self.running.stdin is not None
        self.running.stdin.write(b"word\n")
        self.running.stdin.flush()
        return self._line() == "word"

    def _line(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().decode().strip()


@dataclass
class Flows:
    """Connections that talk all the time."""

    running: "subprocess.Popen[bytes]"

    async def alive(self) -> list[str]:
        """Who serves each that lives: a word sent from now on has come back."""
        return await trio.to_thread.run_sync(self._ask)

    def _ask(self) -> list[str]:
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(b"?\n")
        self.running.stdin.flush()
        told: list[str] = json.loads(self.running.stdout.readline())
        return told


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
async def standing(lab: Lab, policy: RedirectPolicy) -> AsyncIterator[None]:
    """The private link, a program in the place of the policy's instance, and the rules."""
    endings = EndingSwitch()
    endings.ask_nowait(Ending.STOP)
    async with open_link(endings), open_table(endings):
        as_proxies(lab, policy.instance)
        await lab.load(policy)
        yield


@contextmanager
def ordinary_programs() -> Iterator[None]:
    """Whoever calls `nft` or `ip` by name here calls the host's."""
    before = os.environ["PATH"]
    os.environ["PATH"] = ORDINARY
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextmanager
def doors_inside(machine: Machine, scratch: Path, *, prefix: str = "") -> Iterator[None]:
    """Whoever calls `nft` or `ip` by name here calls it inside the machine, behind a prefix such as `setpriv …`."""
    folder = scratch / "inside"
    folder.mkdir(exist_ok=True)
    for program in ("nft", "ip"):
        script = folder / program
        real = shutil.which(program, path=ORDINARY)
        home = f"/proc/{machine.pid}/ns/net"  # not to be seen from inside of any machine
        script.write_text(
            f'#!/bin/sh\n[ -e {home} ] || exec {real} "$@"\nexec nsenter --net={home} -- {prefix} {real} "$@"\n'
        )
        script.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{ORDINARY}"
    try:
        with mock.patch("exclave.redirect.reconciler.forget_unanswered", partial(forget_inside, machine)):
            yield
    finally:
        os.environ["PATH"] = before


async def forget_inside(machine: Machine, addresses: Collection[str]) -> None:
    """`forget_unanswered`, by a process inside of the machine."""
    await machine.must(sys.executable, "-c", FORGET, *addresses)


def as_proxies(lab: Lab, *instances: str) -> None:
    """Programs in the places of proxy instances, with the proxy's user id."""
    for instance in instances:
        number = {"a": 1, "b": 2}[instance]
        hosts = (f"169.254.77.{number}", f"fd77:ec1a:7e::{number}")
        lab.listen(
            lab.vm, f"proxy {instance}", *(f"{host}/{port}" for host in hosts for port in (4140, 4143)), uid=PROXY
        )
