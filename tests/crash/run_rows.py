"""Runs rows of the crash matrix on one stage: python run_rows.py NUMBER …, in network and mount namespaces of its own.

It prints one JSON line a row; see `Outcome`. Rows share the stage. Each ends with a check that the machine has
recovered, so the next one starts from a known state.
"""

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import trio  # noqa: E402

from crash.rows import ROWS, Row, Scene  # noqa: E402
from exclave.api.requests import EXTERNAL_WORKLOADS, MEMBERS, list_all  # noqa: E402
from exclave.control.client import NoAgent, send_command  # noqa: E402
from exclave.kit.host.command import Finished  # noqa: E402
from exclave.kit.tasks.nursery import shielded  # noqa: E402
from exclave.link.layout import LINK  # noqa: E402
from exclave.milestones import Renewing, milestone_line  # noqa: E402
from exclave_sandbox.demo.membership import find, issue_token, ready_of  # noqa: E402
from exclave_sandbox.expect import differences  # noqa: E402
from exclave_sandbox.stage import mesh  # noqa: E402
from exclave_sandbox.stage.namespaces import Machine  # noqa: E402
from exclave_sandbox.stage.programs import StageProgram, start  # noqa: E402
from exclave_sandbox.stage.stage import DemoStage, open_stage  # noqa: E402

HERE = Path(__file__).parent
PAUSE, PATIENCE = "0.1", "3"
"""Seconds between new connections each way, and for one."""

RECOVERY = 60.0
"""Seconds for the machine to recover."""

OTHER = "10.77.0.99"
"""Another address that the group allows to the machine."""

STATE_FILES = {"membership.json", "credential.json", "svid.json", "settings.json", "last-answer.json"}
"""The state folder of a member while no change is under way."""


@dataclass
class Outcome:
    """The result of a row. `away` is seconds without mesh, None if the machine is outside of it afterwards."""

    row: int
    failed: int = 0
    connections: int = 0
    away: float | None = None
    took: float = 0.0
    repaired: str = ""
    failures: list[str] = field(default_factory=list)
    problem: str = ""


class Sampler:
    """Opens connections from a machine to a server, all the time; see `sample_connections.py`."""

    def __init__(self, started: trio.Process) -> None:
        self._started = started
        self.samples: list[tuple[float, float, str]] = []

    async def read(self) -> None:
        """Read the results of the connections that have ended."""
        stdin, stdout = self._started.stdin, self._started.stdout
        assert stdin is not None and stdout is not None
        await stdin.send_all(b"\n")
        text = b""
        while not text.endswith(b"\n"):
            text += await stdout.receive_some()
        self.samples += json.loads(text)


@asynccontextmanager
async def open_sampler(machine: Machine, host: str, port: int) -> AsyncIterator[Sampler]:
    words = [sys.executable, "-I", str(HERE / "sample_connections.py"), host, str(port), PAUSE, PATIENCE]
    started = await trio.lowlevel.open_process(machine.command(*words), stdin=PIPE, stdout=PIPE)
    try:
        yield Sampler(started)
    finally:
        with shielded(60.0):
            assert started.stdin is not None
            await started.stdin.aclose()
            await started.wait()


class RowRunner:
    """Runs rows. `state` is that of the machine: outside, ready or stopped."""

    def __init__(self, stage: DemoStage, samplers: dict[str, Sampler]) -> None:
        self._stage = stage
        self._vm = stage.vm
        self._samplers = samplers
        self._armed = stage.scratch / "armed"
        self._token = ""
        self._before: dict[str, str] = {}
        self._repaired = ""
        self.state = "outside"

    async def prepare(self) -> None:
        """Make a token for more machines than there are rows, and a snapshot of the machine with an idle agent."""
        self._token = await issue_token(self._stage, 200)
        self._vm.config.write_text(self._vm.config.read_text().replace('"2s"', '"1s"'))
        self._start()
        await self._vm.wait_idle()
        self._before = await self._vm.snapshot()

    # Commands and processes.

    def _start(self) -> None:
        words = self._words("run")
        self._vm.agent = start(self._vm.machine.command(*words), self._stage.scratch / "agent.log")

    def _words(self, *arguments: str) -> list[str]:
        program = [sys.executable, str(HERE / "kill_at_milestone.py"), str(self._armed)]
        return [*program, *arguments, "--config", str(self._vm.config)]

    async def _command(self, *arguments: str) -> Finished:
        stdin = self._token.encode() if arguments[0] == "join" else b""
        return await self._vm.machine.run(*self._words(*arguments), stdin=stdin, timeout=RECOVERY)

    async def _must(self, *arguments: str) -> None:
        done = await self._command(*arguments)
        assert done.status == 0, f"exclave {' '.join(arguments)}: status {done.status}: {done.errors}"

    async def _join(self) -> None:
        await self._must("join", "--token-file", "-")

    async def _wait_killed(self) -> None:
        """Wait until the agent has been killed at its milestone."""
        agent = self._agent
        with trio.fail_after(RECOVERY):
            status = await agent.wait()
        assert not self._armed.exists(), f"it ended with status {status}, and not at its milestone:\n{agent.log_tail()}"

    async def _wait_stopped(self) -> None:
        with trio.fail_after(RECOVERY):
            status = await self._agent.wait()
        assert status == 0, f"status {status}:\n{self._agent.log_tail(30)}"

    @property
    def _agent(self) -> StageProgram:
        assert self._vm.agent is not None
        return self._vm.agent

    def _stop(self) -> None:
        self._agent.send(signal.SIGTERM)

    async def _request_leave(self) -> None:
        """Send the agent the command to leave, and ignore its death."""

        def send() -> None:
            with suppress(NoAgent):
                for _ in send_command(self._vm.runtime, "leave", RECOVERY):
                    pass

        await trio.to_thread.run_sync(send)

    def _make_due(self) -> None:
        path = self._vm.folder / "var/lib/exclave/svid.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "renewAt": 0}))

    # Scenes: the actions of a row, up to the point from where the machine recovers by itself.

    async def _run_join(self, row: Row) -> None:
        await self._run_to_its_death("join", "--token-file", "-")
        await self._join()
        self._repaired = "the same command again"

    async def _run_start(self, row: Row) -> None:
        self._start()
        await self._start_again(row)

    async def _start_again(self, row: Row) -> None:
        if row.victim == "agent":
            await self._wait_killed()
            self._start()
            self._repaired = "the next start"
        else:
            self._repaired = "the agent"

    async def _run_renew(self, row: Row) -> None:
        log = self._stage.scratch / "agent.log"
        size = log.stat().st_size
        self._start()
        await self._start_again(row)
        proven = milestone_line(Renewing.PROVEN)

        async def not_renewed() -> str:
            is_due = '"renewAt": 0' in (self._vm.folder / "var/lib/exclave/svid.json").read_text()
            text = log.read_text()[size:]
            return "" if not is_due and not self._armed.exists() and proven in text else "not renewed"

        await eventually(not_renewed)

    async def _run_move(self, row: Row) -> None:
        await self._vm.machine.add_address(f"{OTHER}/32")
        await self._route_from(OTHER)
        await self._wait_killed()
        self._start()
        self._repaired = "the next start"
        await eventually(partial(self._not_moved, OTHER))
        await self._route_as_before()
        await eventually(partial(self._not_moved, mesh.VM))
        await self._vm.machine.must("ip", "address", "del", f"{OTHER}/32", "dev", "eth0")

    async def _route_from(self, address: str) -> None:
        for network in (mesh.VM_NETWORK, *mesh.CLUSTER_NETWORKS):
            await self._vm.machine.must("ip", "route", "replace", network, "dev", "eth0", "src", address)

    async def _route_as_before(self) -> None:
        route = ("ip", "route", "replace")
        await self._vm.machine.must(*route, mesh.VM_NETWORK, "dev", "eth0", "proto", "kernel", "src", mesh.VM)
        for network in mesh.CLUSTER_NETWORKS:
            await self._vm.machine.must(*route, network, "dev", "eth0")

    async def _not_moved(self, address: str) -> str:
        """What differs from a machine that is at this address and at no other."""
        stored = json.loads((self._vm.folder / "var/lib/exclave/membership.json").read_text())
        if stored["address"] != address or "former" in stored:
            return f"membership: {stored['address']} {stored.get('former')}"
        (member,) = await self._members()
        workload = await find(self._stage, "ExternalWorkload", member)
        listed = [one["ip"] for one in workload["spec"]["workloadIPs"]] if workload else []
        rules = (await self._vm.machine.must("nft", "list", "chain", "inet", "exclave", "inbound")).decode()
        if listed != [address] or f"daddr {address} " not in rules or self._count() != (1, 1):
            return f"listed: {listed}, proxies and keepalive processes: {self._count()}, rules: {rules}"
        return ""

    async def _run_stop(self, row: Row) -> None:
        self._stop()
        if row.victim == "agent":
            await self._wait_killed()
            self._start()
            self._repaired = "the next start"
            self.state = "ready"
        else:
            await self._wait_stopped()
            self._repaired = "nothing to repair"

    async def _run_clean_up(self, row: Row) -> None:
        await self._run_to_its_death("cleanup")
        await self._must("cleanup")
        self._repaired = "the same command again"

    async def _run_leave(self, row: Row) -> None:
        if row.victim == "agent":
            await self._request_leave()
            await self._wait_killed()
            self._start()
            self._repaired = "the next start"
        else:
            await self._must("leave")
            self._repaired = "nothing to repair"

    async def _run_leave_cold(self, row: Row) -> None:
        await self._run_to_its_death("leave")
        await self._must("leave")
        self._repaired = "the same command again"
        found = differences(self._before, await self._vm.snapshot())
        gone = ("files: -run/exclave/control.sock ", "files: -run/exclave/agent.lock ")  # an idle agent has them
        left = [line for line in found if not line.startswith(gone)]
        assert not left, left
        self._start()

    async def _run_to_its_death(self, *arguments: str) -> None:
        done = await self._command(*arguments)
        assert not self._armed.exists(), f"status {done.status}, and not killed: {done.errors[-2000:]}"

    # From one row to the next.

    async def bring_to(self, state: str) -> None:
        if state == self.state:
            return
        if state == "outside":
            await self.bring_to("ready")
            await self._must("leave")
        elif state == "stopped":
            await self.bring_to("ready")
            self._stop()
            await self._wait_stopped()
        elif self.state in ("stopped", "cleaned up"):
            self._start()
        else:
            await self._join()
        self.state = state
        await self._wait_recovered()

    async def recover(self) -> None:
        """Restore the machine after a row that failed."""
        self._armed.unlink(missing_ok=True)
        if self._agent.started.poll() is None:
            await self._vm.kill_agent()
        await self._command("leave")
        await self._command("cleanup")
        self._start()
        await self._vm.wait_idle()
        self.state = "outside"

    async def run(self, number: int) -> Outcome:
        row, outcome = ROWS[number], Outcome(number)
        run = {scene: getattr(self, f"_run_{scene.name.lower()}") for scene in Scene}
        try:
            await self.bring_to(row.scene.before)
            if row.scene in (Scene.RENEW, Scene.CLEAN_UP, Scene.LEAVE_COLD):
                await self._vm.kill_agent()
            if row.scene is Scene.RENEW:
                self._make_due()
            self._armed.write_text(f"{row.victim} {milestone_line(row.milestone)}")
            self.state = row.scene.after
            began = time.monotonic()
            await run[row.scene](row)
            await self._wait_recovered()
            outcome.took = time.monotonic() - began
            outcome.repaired = self._repaired
            await self._measure(outcome)
        except Exception as problem:
            outcome.problem = f"{type(problem).__name__}: {problem}"
            log = (self._stage.scratch / "agent.log").read_text()
            sys.stderr.write(f"== {row.name}\n{log[-5000:]}\n{outcome.problem}\n")
            await self.recover()
        return outcome

    # Whether the machine has recovered. An empty text means that nothing differs.

    async def _wait_recovered(self) -> None:
        check: Callable[[], Awaitable[str]] = {
            "ready": self._not_ready,
            "stopped": self._not_stopped,
            "cleaned up": self._not_stopped,
            "outside": self._not_outside,
        }[self.state]
        await eventually(check)

    async def _not_ready(self) -> str:
        """What differs from a machine in the mesh."""
        status = await self._vm.status()
        if status.get("state") != "ready" or status["problems"]:
            return f"status: {status.get('state')} {status.get('waiting')} {status.get('problems')}"
        members = await self._members()
        if len(members) != 1:
            return f"Members: {members}"
        workload = await find(self._stage, "ExternalWorkload", members[0])
        if not workload or len(workload["spec"].get("ports", ())) != 1 or ready_of(workload) != "True":
            return f"its ExternalWorkload: {workload}"
        state = {path.name for path in (self._vm.folder / "var/lib/exclave").iterdir()}
        if state != STATE_FILES:
            return f"state folder: {sorted(state ^ STATE_FILES)}"
        if (counted := self._count()) != (1, 1):
            return f"proxies and keepalive processes: {counted}"
        for way, sampler in self._samplers.items():
            await sampler.read()
            if [outcome for _, _, outcome in sampler.samples[-3:]] != ["meshed"] * 3:
                return f"{way}: {sampler.samples[-3:]}"
        return ""

    async def _not_stopped(self) -> str:
        """What is left on a machine whose agent was stopped."""
        rules = (await self._vm.machine.must("nft", "list", "tables")).decode()
        links = (await self._vm.machine.must("ip", "-brief", "link")).decode()
        left = [what for what in (rules, LINK if LINK in links else "") if "exclave" in what]
        return (
            f"{left}, proxies and keepalive processes: {counted}"
            if (counted := self._count()) != (0, 0) or left
            else ""
        )

    async def _not_outside(self) -> str:
        """What is left on a machine that has left."""
        if not await self._vm.status():
            if self._agent.started.poll() is not None:
                return f"the agent has ended: {self._agent.log_tail(30)}"
            return "no answer from the agent"
        found = differences(self._before, await self._vm.snapshot())
        found += [f"Member {name}" for name in await self._members()]
        return f"{found} {counted}" if (counted := self._count()) != (0, 0) or found else ""

    async def not_empty(self) -> str:
        """What is left in the cluster of machines that have left. The controller removes it a little later."""
        found = []
        for resource in (MEMBERS, EXTERNAL_WORKLOADS):
            listed = await self._stage.admin.send(list_all(resource, mesh.NAMESPACE))
            found += [f"{resource.kind} {item['metadata']['name']}" for item in listed["items"]]
        return ", ".join(found)

    async def _members(self) -> list[str]:
        """The Members that are not being deleted."""
        listed = await self._stage.admin.send(list_all(MEMBERS, mesh.NAMESPACE))
        return [
            str(item["metadata"]["name"]) for item in listed["items"] if "deletionTimestamp" not in item["metadata"]
        ]

    def _count(self) -> tuple[int, int]:
        """Proxies of the machine, by their environment, and keepalive processes, also before they have their table."""
        inside = os.readlink(f"/proc/{self._vm.machine.pid}/ns/pid")
        proxies = keepalives = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns/pid") == inside:
                    words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
                    proxies += b"LINKERD2_PROXY_" in (folder / "environ").read_bytes()
                    keepalives += words[-1:] == [b"-i"] or (words[:1] == [b"sh"] and words[-1].endswith(b"/nft"))
            except OSError:
                continue  # it has ended
        return proxies, keepalives

    async def _measure(self, outcome: Outcome) -> None:
        killed_at = float(self._armed.with_suffix(".at").read_text())
        away = []
        for way, sampler in self._samplers.items():
            await sampler.read()
            since = sorted(tuple(sample) for sample in sampler.samples if sample[1] >= killed_at)
            outcome.connections += len(since)
            failures: dict[str, list[float]] = {}
            for begun, ended, what in since:
                if what not in ("meshed", "plain"):
                    failures.setdefault(what, []).extend((begun - killed_at, ended - killed_at))
            for what, times in failures.items():
                outcome.failed += len(times) // 2
                span = f"{min(times):+.2f} s to {max(times):+.2f} s from the kill"
                outcome.failures.append(f"{way}: {what}: {len(times) // 2}, {span}")
            following = [*since[1:], (time.monotonic(), 0.0, "")]
            away.append(
                sum(
                    max(0.0, after[0] - max(before[0], killed_at))
                    for before, after in zip(since, following, strict=True)
                    if before[2] != "meshed"
                )
            )
            sampler.samples = sampler.samples[-3:]
        # After a move pods do not learn that the old address is gone.
        if self.state == "ready" and ROWS[outcome.row].scene is not Scene.MOVE:
            outcome.away = max(away)


async def eventually(check: Callable[[], Awaitable[str]]) -> None:
    """Check until nothing is wrong. Raises AssertionError with the last text."""
    wrong = ""
    with trio.move_on_after(RECOVERY):
        while True:
            wrong = await check()
            if not wrong:
                return
            await trio.sleep(0.15)
    raise AssertionError(wrong)


async def main(numbers: list[int]) -> None:
    async with open_stage("24h") as stage:
        async with open_sampler(stage.pod, mesh.VM, mesh.GROUP_PORT) as inbound:
            async with open_sampler(stage.vm.machine, mesh.POD, mesh.POD_PORT) as outbound:
                runner = RowRunner(stage, {"pod to machine": inbound, "machine to pod": outbound})
                await runner.prepare()
                waiting = list(numbers)
                while waiting:  # first the rows that start from the present state
                    number = next((n for n in waiting if ROWS[n].scene.before == runner.state), waiting[0])
                    waiting.remove(number)
                    outcome: dict[str, Any] = asdict(await runner.run(number))
                    print(json.dumps(outcome), flush=True)
                await runner.bring_to("outside")
                await eventually(runner.not_empty)


if __name__ == "__main__":
    trio.run(main, [int(word) for word in sys.argv[1:]], strict_exception_groups=True)
