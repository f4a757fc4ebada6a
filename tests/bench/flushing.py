"""Traffic during flushes by others, a leave, and rules set one by one: connections reset, or bypassing the proxy."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from tests.bench.figures import heading, row

from exclave.redirect.keepalive import remove_keepalive
from exclave.redirect.rules.ruleset import render_drain, render_ruleset
from exclave_sandbox.stage.namespaces import Machine
from redirect.agent_process import TOP, start_agent
from redirect.lab import CLUSTER4, CLUSTER6, VM4, Flows, Lab, as_proxies, open_lab
from redirect.policies import PLAIN, PROXY

FLUSHES = 8
EACH = 10
"""Open connections: inbound, and the same number outbound of each family."""

POLICY = replace(PLAIN, networks=("10.42.0.0/16", "fd00:42::/32"), families=(4, 6))

PROGRAMS = Path(__file__).with_name("programs")


def read_program(name: str) -> str:
    return (PROGRAMS / f"{name}.py").read_text()


INIT = [
    "-t nat -N PROXY_INIT_REDIRECT",
    "-t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,4567,4568 -j RETURN",
    "-t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 22 -j RETURN",
    "-t nat -A PROXY_INIT_REDIRECT -p tcp --dport 8080 -j DNAT --to-destination 169.254.77.1:4143",
    "-t nat -A PREROUTING -j PROXY_INIT_REDIRECT",
    "-t nat -N PROXY_INIT_OUTPUT",
    f"-t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner {PROXY} -j RETURN",
    "-t nat -A PROXY_INIT_OUTPUT -o lo -j RETURN",
    "-t nat -A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567,4568 -j RETURN",
    "-t nat -A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 22 -j RETURN",
    "-t nat -A PROXY_INIT_OUTPUT -p tcp -d 10.42.0.0/16 -j DNAT --to-destination 169.254.77.1:4140",
    "-t nat -A OUTPUT -j PROXY_INIT_OUTPUT",
]
"""The commands of Linkerd's init program for one family, one process each, after as many that list and clean up."""


@dataclass
class Outcome:
    """Seconds without rules, connections that were reset, and new ones that bypassed the proxy."""

    away: list[float]
    reset: int
    bypassed: int
    captured: int


async def line(running: "subprocess.Popen[bytes]") -> bytes:
    assert running.stdout is not None
    return await trio.to_thread.run_sync(running.stdout.readline)


def watch(lab: Lab) -> "subprocess.Popen[bytes]":
    command = ["nsenter", f"--net=/proc/{lab.vm.pid}/ns/net", "--", sys.executable, str(PROGRAMS / "watch_table.py")]
    environment = os.environ | {"PYTHONPATH": str(TOP / "agent")}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


@asynccontextmanager
async def calling(lab: Lab) -> AsyncIterator[dict[str, int]]:
    """New connections in both directions while open; afterwards, which server answered them."""
    answered: dict[str, int] = {}
    callers = [
        lab.start(lab.peer, read_program("open_connections"), f"{VM4}/8080", expecting="up"),
        lab.start(lab.vm, read_program("open_connections"), f"{CLUSTER4}/80", f"{CLUSTER6}/80", expecting="up"),
    ]
    yield answered
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write(b"\n")
        caller.stdin.flush()
        for who, count in json.loads(await line(caller)).items():
            answered[who] = answered.get(who, 0) + count


def talk(lab: Lab) -> tuple[Flows, Flows]:
    return (
        lab.flows(lab.peer, EACH, f"{VM4}/8080"),
        lab.flows(lab.vm, EACH, f"{CLUSTER4}/80", f"{CLUSTER6}/80"),
    )


async def alive(flows: tuple[Flows, ...]) -> int:
    return sum([len(await each.alive()) for each in flows])


def applications(lab: Lab) -> None:
    lab.listen(lab.vm, "application", f"{VM4}/8080")
    lab.listen(lab.peer, "application", f"{CLUSTER4}/80", f"{CLUSTER6}/80")


async def flushed(runtime: Path, flushes: int) -> Outcome:
    """Flush all rules, again and again, under load. Where `runtime` is absent there is no keepalive table."""
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, runtime, POLICY)
        try:
            as_proxies(lab, "a")
            applications(lab)
            watcher = watch(lab)
            await line(watcher)
            flows, reset, away = talk(lab), 0, []
            async with calling(lab) as answered:
                for _ in range(flushes):
                    await lab.nft("flush", "ruleset")
                    away.append(float(await line(watcher)))
                    living = await alive(flows)
                    reset += 3 * EACH - living
                    if living < 3 * EACH:
                        for each in flows:
                            lab.end(each.running)
                        flows = talk(lab)
                    await trio.sleep(1.0)  # a flush a second: more are taken for a fight
            watcher.kill()
            return Outcome(away, reset, answered.get("application", 0), answered.get("proxy a", 0))
        finally:
            agent.kill()
            await remove_keepalive(runtime)


async def withdrawn(way: Callable[[Lab], Awaitable[object]]) -> int:
    """The number of connections that are reset when rules are withdrawn before the proxy has ended."""
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, Path("/nowhere"), POLICY)
        agent.kill()
        as_proxies(lab, "a")
        flows = talk(lab)
        await way(lab)
        return 3 * EACH - await alive(flows)


async def load(machine: Machine, rules: str) -> None:
    done = await machine.run("nft", "-f", "-", stdin=rules.encode())
    assert done.status == 0, done.errors


async def by_transaction(lab: Lab) -> int:
    await load(lab.vm, render_ruleset(POLICY))
    return 1


async def rule_by_rule(lab: Lab) -> int:
    commands = [command for command in INIT for _ in (4, 6)]
    for number, command in enumerate(commands):
        program = "ip6tables-nft" if number % 2 else "iptables-nft"
        words = command.replace("169.254.77.1:", "[fd77:ec1a:7e::1]:") if number % 2 else command
        words = words.replace("10.42.0.0/16", "fd00:42::/32") if number % 2 else words
        done = await lab.vm.run(program, "-w", *words.split())
        assert done.status == 0, done.errors
    return len(commands)


async def applied(way: Callable[[Lab], Awaitable[int]]) -> tuple[float, int, int, int]:
    """Seconds and processes; the triples sampled meanwhile, and those that saw half of the rules."""
    async with open_lab() as lab:
        agent = await start_agent(lab.vm, Path("/nowhere"), POLICY)
        agent.kill()
        await lab.nft("delete", "table", "inet", "exclave")
        as_proxies(lab, "a")
        applications(lab)
        sampler = lab.start(lab.vm, read_program("sample_families"), f"{CLUSTER4}/80", f"{CLUSTER6}/80", expecting="up")
        began = time.perf_counter()
        processes = await way(lab)
        took = time.perf_counter() - began
        assert sampler.stdin is not None
        sampler.stdin.write(b"\n")
        sampler.stdin.flush()
        halves, triples = json.loads(await line(sampler))
        return took, processes, triples, halves


async def measure() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        ours = await flushed(Path(folder), FLUSHES)
    bare = await flushed(Path("/nowhere"), FLUSHES)
    heading(f"Others flush all rules, {FLUSHES} times, under load (peer: the same without the keepalive table)")
    row(
        "our rules are back after, median",
        1000 * statistics.median(ours.away),
        "ms",
        1000 * statistics.median(bare.away),
    )
    row("our rules are back after, most", 1000 * max(ours.away), "ms", 1000 * max(bare.away))
    row(f"connections reset, of {3 * EACH * FLUSHES}", ours.reset, "", bare.reset)
    row("new connections meanwhile that passed by the proxy", ours.bypassed, "", bare.bypassed)
    row("new connections that it got", ours.captured, "", bare.captured)
    heading("Rules withdrawn while the proxy drains (peer: the table is deleted at once)")
    held = await withdrawn(lambda lab: load(lab.vm, render_drain()))
    deleted = await withdrawn(lambda lab: lab.nft("delete", "table", "inet", "exclave"))
    row(f"connections reset, of {3 * EACH}", held, "", deleted)
    heading("Rules put in (peer: what Linkerd's init program runs, by iptables, for both families)")
    whole, one_by_one = await applied(by_transaction), await applied(rule_by_rule)
    row("time, with the way into the machine", 1000 * whole[0], "ms", 1000 * one_by_one[0])
    row("processes", whole[1], "", one_by_one[1])
    row("triples of connections meanwhile", whole[2], "", one_by_one[2])
    row("of these, met by half a set of rules", whole[3], "", one_by_one[3])


def main() -> None:
    """Print the figures in a child: the first process of a namespace has to reap orphans."""
    if os.getpid() == 1 and (child := os.fork()):
        while (ended := os.wait())[0] != child:
            pass
        sys.exit(os.waitstatus_to_exitcode(ended[1]))
    trio.run(measure, strict_exception_groups=True)


if __name__ == "__main__":
    main()
