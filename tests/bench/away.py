"""A table of outcomes while Linkerd's controllers are away: which calls arrive, how and when; with the stand-in, and
with the real proxy where EXCLAVE_LINKERD2_PROXY names one.

This process is the machine: real link, names, Workload API, proxy, judgement and rules; the rest is beside it.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import psutil
import trio
from tests.bench.figures import note

from exclave.api.group import FailurePolicy, Port
from exclave.config import ProxyConfig, RedirectConfig
from exclave.confirm.confirm import open_confirm
from exclave.daemon.wanted_rules import open_steering
from exclave.data_path.observer import DataPathObserver, open_data_path
from exclave.dns.server import open_dns
from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.link.layout import dns_address
from exclave.link.link import open_link
from exclave.proxy.instance import open_proxy
from exclave.redirect.kernel.nft import find_active, find_armed
from exclave.redirect.reconciler import Redirect, open_redirect, open_table
from exclave.swap.swap import Swap, open_swap
from exclave.workload_api.server import open_workload_api
from exclave_sandbox.stage.namespaces import Machine, Network, open_network
from exclave_sandbox.stage.stage import share_stand_in
from support.agent import observe_rules
from support.linkerd_controllers import controllers_command, write_certificate
from support.mesh import ADDRESS, RECORD, SERVERS, make_settings, mesh

AFTER = 3.0
"""Seconds that the controllers may be away before the group's policy decides."""

PATIENCE = 1.5
"""Seconds after which a connection hangs, for the table."""

POLICY = "all-unauthenticated"
CONTROLLERS, KNOWN, OUTSIDE = "10.42.0.2", "10.42.0.50", "10.77.0.30"
NEW = [f"10.42.0.{number}" for number in range(100, 130)]
APPLICATION = (ADDRESS, 8080)
NOBODY = 65534

SHARED = Path("/mnt")
"""A folder that every user of this machine reaches; the machine has mounts of its own."""

COLUMNS = (
    "there",
    "away",
    "away, long",
    "swap refused",
    "back",
    "swap forced",
    "forced, open",
    "reboot",
    "reboot, open",
)
WIDTH = 14

PROGRAMS = Path(__file__).with_name("programs")


@dataclass
class World:
    """The machine and its neighbours. `cells` are outcomes by row and column."""

    network: Network
    beside: Machine
    binary: Path
    is_real: bool
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    _fresh: list[str] = field(default_factory=lambda: list(NEW))
    _controllers: trio.Process | None = None

    async def start_controllers(self) -> None:
        """Start both controllers."""
        certificate = write_certificate(mesh().issuer, self.network.scratch) if self.is_real else ()
        self._controllers = await started(self.beside.command(*controllers_command(CONTROLLERS, POLICY, *certificate)))

    async def end_controllers(self) -> None:
        """Stop both without closing connections."""
        assert self._controllers is not None
        await end(self._controllers)

    async def look(self, column: str) -> None:
        """Fill a column."""
        new, comer = self._fresh.pop(), self._fresh.pop()
        for row, machine, source, target in (
            ("outbound: a destination that was used before", None, ADDRESS, (KNOWN, 80)),
            ("outbound: a new destination in the cluster", None, ADDRESS, (new, 80)),
            ("outbound: outside of the cluster's networks", None, ADDRESS, (OUTSIDE, 80)),
            ("inbound: from an address that came before", self.beside, KNOWN, APPLICATION),
            ("inbound: from a new address of the cluster", self.beside, comer, APPLICATION),
            ("inbound: from outside of the cluster's networks", self.beside, OUTSIDE, APPLICATION),
        ):
            self.cells[row, column] = await call(machine, source, target)


async def call(machine: Machine | None, source: str, target: tuple[str, int]) -> str:
    """The outcome of a call, in a word or two."""
    words = [sys.executable, "-I", "-S", str(PROGRAMS / "call.py"), source, target[0], str(target[1]), str(PATIENCE)]
    done = await trio.run_process(words if machine is None else machine.command(*words), capture_stdout=True)
    how, milliseconds = json.loads(done.stdout)
    return how if how == "hangs" else f"{how} {milliseconds:.0f} ms"


async def started(command: list[str]) -> trio.Process:
    """Start a program and wait until it prints that it is up."""
    program = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
    assert program.stdout is not None
    assert await program.stdout.receive_some(), command
    return program


async def end(program: trio.Process) -> None:
    """End a program: the one below nsenter, if it is in a machine, since nobody here would reap that one."""
    for inside in psutil.Process(program.pid).children():
        inside.kill()
    if program.args[0] != "nsenter":
        program.kill()
    await program.wait()


@dataclass(frozen=True)
class Parts:
    """The parts of the agent that the benchmark reads and controls."""

    settings: Latest[Any]
    data_path: DataPathObserver
    redirect: Redirect
    swap: Swap

    def hold_outbound(self, held: bool) -> None:
        """Have the group hold outbound traffic while the data path has failed, or let it pass by the proxy."""
        group = self.settings.value.group
        failure = replace(group.failure, outbound="closed" if held else "open")
        self.settings.set(replace(self.settings.value, group=replace(group, failure=failure)))


@asynccontextmanager
async def open_machine(world: World, ending: Ending) -> AsyncIterator[Parts]:
    """All of an agent that traffic depends on, until its rules point to a proxy; `ending` is how it closes."""
    runtime = world.network.scratch / "run"
    runtime.mkdir(exist_ok=True)
    runtime.chmod(0o755)
    settings = make_settings(mesh().anchor.pem, failure=FailurePolicy(AFTER), ports=(Port("http", APPLICATION[1]),))
    member: Any = SimpleNamespace(
        settings=Latest(settings),
        record=RECORD,
        captured=Latest((ADDRESS,)),
        view=Latest(None),
    )
    identity: Any = SimpleNamespace(svid=Latest(mesh().svid(time.time())))
    endings = EndingSwitch()
    endings.ask_nowait(ending)
    config = ProxyConfig(world.binary, "nobody", "info", 1.0)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        api = await enter(open_workload_api(runtime / "w.sock", identity.svid, lambda: (), frozenset({NOBODY})))
        await enter(open_link(endings))
        await enter(open_table(endings))
        names = await enter(open_dns(dns_address(), member.settings))
        given = (member, identity, api.path, names.address, await find_active(), endings, time.time)
        proxy = await enter(open_proxy(config, runtime, *given))
        data_path = await enter(open_data_path(member, identity, proxy, time.time))
        confirming = await enter(open_confirm(runtime, member, await find_armed()))
        active = await find_active()
        steering = await enter(open_steering(RedirectConfig(), member, proxy, data_path, confirming, SERVERS, active))
        redirect = await enter(open_redirect(steering.policy, runtime, endings))
        swap = await enter(open_swap(config, member, proxy, steering.trial, redirect))
        nursery = await enter(open_bare_nursery())
        nursery.start_soon(observe_rules, redirect, proxy)
        await redirect.observed.wait_for(lambda seen: seen.instance is not None)
        yield Parts(member.settings, data_path, redirect, swap)
        nursery.cancel_scope.cancel()


async def wait_open(redirect: Redirect, *, is_open: bool) -> float:
    """Wait until the kernel's rules let outbound pass, or no longer; seconds."""
    began = trio.current_time()
    while (redirect.wanted.value is None) or redirect.wanted.value.outbound == is_open or not redirect.in_place:
        with trio.move_on_after(0.1):
            await redirect.observed.wait_change()
    return trio.current_time() - began


async def play(world: World) -> dict[str, float]:
    """Fill the table; seconds from the controllers' end and return to the rules, and that swaps took."""
    took: dict[str, float] = {}
    await world.start_controllers()
    async with open_machine(world, Ending.STOP) as parts:
        data_path, redirect = parts.data_path, parts.redirect
        await data_path.lookups.wait_for(bool)
        await world.look("there")
        await world.end_controllers()
        away = trio.current_time()
        await data_path.lookups.wait_for(lambda found: found is False)
        took["noticed"] = trio.current_time() - away
        await world.look("away")
        await data_path.assessment.wait_for(lambda found: found.outside_open)
        took["long"] = trio.current_time() - away
        await world.look("away, long")
        took["refused"] = await swap(parts.swap, forced=False)
        await world.look("swap refused")
        await world.start_controllers()
        began = trio.current_time()
        await data_path.lookups.wait_for(bool)
        took["back"] = trio.current_time() - began
        await world.look("back")
        parts.hold_outbound(True)
        await world.end_controllers()
        await data_path.lookups.wait_for(lambda found: found is False)
        took["forced"] = await swap(parts.swap, forced=True)
        await world.look("swap forced")
        parts.hold_outbound(False)
        await wait_open(redirect, is_open=True)
        await world.look("forced, open")
    async with open_machine(world, Ending.STOP) as parts:
        began = trio.current_time()
        await world.look("reboot")
        await wait_open(parts.redirect, is_open=True)
        took["reboot"] = trio.current_time() - began
        await world.look("reboot, open")
    return took


async def swap(swap: Swap, *, forced: bool) -> float:
    """Request a swap, which succeeds only if it is forced; seconds."""
    outcome = await swap.request(forced=forced)
    assert (outcome.error is None) == forced, outcome
    return outcome.took


async def measure(binary: str | None) -> None:
    """Print the table for one proxy."""
    async with open_network() as network:
        await network.join(f"{ADDRESS}/24")
        beside = await network.add("beside", f"{OUTSIDE}/24", *(f"{one}/16" for one in (CONTROLLERS, KNOWN, *NEW)))
        await trio.run_process(["ip", "route", "add", "10.42.0.0/16", "dev", "eth0"])
        # Never in the scratch folder: that is removed in the end, with all that is found in it.
        await trio.run_process(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(SHARED)])
        proxy = await share_stand_in(SHARED, Machine("here", os.getpid()))
        if binary is not None:
            proxy = Path(shutil.copy(binary, network.scratch / "linkerd2-proxy"))
            proxy.chmod(0o755)
        echo_command = [sys.executable, "-I", "-S", str(PROGRAMS / "echo.py")]
        echo = await started(beside.command(*echo_command, "80"))
        application = await started([*echo_command, str(APPLICATION[1])])
        world = World(network, beside, proxy, binary is not None)
        took = await play(world)
        for program in (echo, application):
            await end(program)
    show("the real linkerd2-proxy" if binary else "the stand-in proxy", world.cells, took)


def show(who: str, cells: dict[tuple[str, str], str], took: dict[str, float]) -> None:
    """Print a table."""
    print(f"\nLinkerd's controllers away, with {who}\n{'':50}" + "".join(f"{column:>{WIDTH}}" for column in COLUMNS))
    for row in dict.fromkeys(row for row, _ in cells):
        print(f"  {row:<48}" + "".join(f"{cells.get((row, column), '-'):>{WIDTH}}" for column in COLUMNS))
    note("proxy, bare: called by a proxy, by the caller itself; hangs: nothing within " + f"{PATIENCE} s")
    note(f"away: noticed after {took['noticed']:.1f} s; allowed for {AFTER:.0f} s; long after {took['long']:.1f} s")
    note(f"swap refused: given up after {took['refused']:.1f} s; destinations that were used before still work")
    note(f"swap forced: made after {took['forced']:.1f} s, in a group that holds outbound; open: in one that does not")
    note(f"back: noticed {took['back']:.1f} s after their return; reboot: open after {took['reboot']:.1f} s")
    sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    logging.basicConfig(level=logging.ERROR)
    trio.run(measure, sys.argv[1] if len(sys.argv) > 1 else None)


if __name__ == "__main__":
    main()
