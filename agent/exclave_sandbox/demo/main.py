"""`exclave demo`: a VM joins a mesh, serves in it and leaves it, all on one host. Composition root of the demo.

A second process runs it in a network namespace, the cluster's machine. However it ends, its stage is removed first.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.command import run_command
from exclave_sandbox.demo.membership import JoinScenes, LeaveScenes, compare
from exclave_sandbox.demo.traffic import TrafficScenes
from exclave_sandbox.expect import FILES, SUBJECTS, UnexpectedError
from exclave_sandbox.linkerd.release import LinkerdBinaries, find_linkerd
from exclave_sandbox.stage.kubernetes import Binaries, Kubernetes, find_binaries
from exclave_sandbox.stage.programs import module
from exclave_sandbox.stage.stage import DemoStage, open_stage


@dataclass(frozen=True)
class StepResult:
    """One step that was tried. `at` and `took` are seconds: since the demo began, and of the step itself."""

    title: str
    passed: bool
    at: float
    took: float
    detail: str


class Reporter:
    """Collects the steps, and prints them unless `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self.steps: list[StepResult] = []
        self._quiet = quiet
        self._began = trio.current_time()

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._print(f"\n{title}\n")

    async def step(self, title: str, work: Callable[[], Awaitable[str]], limit: float = 30.0) -> bool:
        """Try a step for at most `limit` seconds; whether it passed. `work` returns the detail."""
        began = trio.current_time()
        if sys.stdout.isatty():
            self._print(render_running(title) + "\r")  # overwritten by the result
        passed, detail = False, f"not done within {limit:.0f} s"
        with trio.move_on_after(limit):
            try:
                detail = await work()
                passed = True
            except Exception as problem:
                detail = _problem_text(problem)
        now = trio.current_time()
        self.steps.append(StepResult(title, passed, now - self._began, now - began, detail))
        self._print(render_step(self.steps[-1]) + "\n")
        return passed

    def report_broken_stage(self, problem: Exception) -> None:
        """Report that the stage could not be built, as a step that failed. Raises `problem` if it is a bug."""
        if (unexpected := _find_unexpected(problem)) is None:
            raise problem
        at = trio.current_time() - self._began
        self.steps.append(StepResult("the demo's machines are set up", False, at, at, str(unexpected)))
        self._print(render_step(self.steps[-1]) + "\n")

    def _print(self, text: str) -> None:
        if not self._quiet:
            sys.stdout.write(text)
            sys.stdout.flush()


def _find_unexpected(problem: BaseException) -> UnexpectedError | None:
    """The first UnexpectedError in an exception or in a group of exceptions; None if there is none."""
    if isinstance(problem, UnexpectedError):
        return problem
    found = (_find_unexpected(inner) for inner in getattr(problem, "exceptions", ()))
    return next((one for one in found if one is not None), None)


def _problem_text(problem: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(problem, "exceptions", ())
    if len(inner) == 1:
        return _problem_text(inner[0])
    if isinstance(problem, UnexpectedError):
        return str(problem)
    where = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem}\n({where.name}, line {where.lineno})"


def render_step(step: StepResult) -> str:
    """A step as text: its title, and its detail below."""
    mark = "ok  " if step.passed else "FAIL"
    lines = [f"  {step.at:6.1f} s  {mark}  {step.title}", *(f"{'':18}{line}" for line in step.detail.splitlines())]
    return "\n".join(line.rstrip() for line in lines)


def render_running(title: str) -> str:
    """The line of a step that is being tried."""
    return f"  {'...':>6} s        {title}"


def render_total(steps: Sequence[StepResult]) -> str:
    """The last line."""
    passed = sum(step.passed for step in steps)
    return f"{passed} passed, {len(steps) - passed} failed"


def as_json(steps: Sequence[StepResult]) -> dict[str, Any]:
    """All steps and their counts, for programs."""
    passed = sum(step.passed for step in steps)
    return {"steps": [asdict(step) for step in steps], "passed": passed, "failed": len(steps) - passed}


def exit_status(steps: Sequence[StepResult]) -> int:
    """0 if every step passed, else 1; also 1 without any step."""
    return 0 if steps and all(step.passed for step in steps) else 1


SHORT_LIFE = "10s"  # lifetime of the first certificates, which are renewed at half of it

DESCRIPTION = """\
Shows all of exclave on one machine: a cluster with a small API server, the real controller, a meshed pod, and a virtual
machine with the real agent, each in network namespaces that are removed with it. Needs root, nft and iproute2, and
takes about two minutes. Ctrl-C ends it at any time and leaves nothing behind.

Three parts are stand-ins: the API server (admission policies are not enforced), Linkerd's destination controller, and
the proxy (linkerd2-proxy's environment, Workload API, names and ports; HTTP/1.1 only).
With --kubernetes the API server is a real one: kube-apiserver with its etcd and controllers, built once.
With --linkerd FOLDER all three are real: the folder has linkerd, linkerd-controller, linkerd-policy-controller and
linkerd2-proxy of one release. kubectl is needed, too.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit code: 0 if every step passed, 1 if not, 130 after Ctrl-C. Raises HostError."""
    options = _parser().parse_args(arguments)
    binaries = find_binaries() if options.kubernetes or options.linkerd else None
    release = find_linkerd(options.linkerd) if options.linkerd else None
    if options.host is not None:
        return trio.run(_run, options.host, options.json, binaries, release, strict_exception_groups=True)
    if os.geteuid() != 0:
        raise HostError(
            Fault.NO_PRIVILEGE, "the demo makes network namespaces and needs root", "run it as root: sudo exclave demo"
        )
    return _run_inside(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exclave demo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing before")
    parser.add_argument("--kubernetes", action="store_true", help="on a real kube-apiserver, with its etcd")
    parser.add_argument("--linkerd", type=Path, metavar="FOLDER", help="with the programs of a Linkerd release")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)  # whose network namespace is the host's
    return parser


def _run_inside(options: Sequence[str]) -> int:
    """Run this program again in new namespaces; it gets SIGINT when this process dies."""
    apart = ("setpriv", "--pdeathsig=INT", "unshare", "--net", "--mount", "--")
    command = [*apart, *module("exclave", "demo", f"--host={os.getpid()}", *options)]
    # A session of its own: Ctrl-C reaches only this process, which passes it on once.
    inside = subprocess.Popen(command, start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        inside.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return inside.wait()


async def _run(host: int, in_json: bool, binaries: Binaries | None, release: LinkerdBinaries | None) -> int:
    """Run the demo inside of the namespaces; the exit code."""
    reporter = Reporter(quiet=in_json)
    was_ended = False
    # Opened now: the host must be readable at the end even if the process outside has been killed.
    network = os.open(f"/proc/{host}/ns/net", os.O_RDONLY)

    async def end_on_signal(*, task_status: "trio.TaskStatus[None]") -> None:
        nonlocal was_ended
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await anext(aiter(signals))
            was_ended = True
            sys.stderr.write("\nending: the demo's machines are removed\n")
            steps.cancel()
            await trio.sleep_forever()  # a second Ctrl-C must not interrupt the removal

    async with trio.open_nursery() as nursery:
        await nursery.start(end_on_signal)
        with trio.CancelScope() as steps:
            before = await snapshot(network)
            try:
                async with open_stage(SHORT_LIFE, binaries, release) as stage:
                    await _run_steps(reporter, stage)
            except Exception as problem:  # not of a step, which reports its own
                reporter.report_broken_stage(problem)
        after = await snapshot(network)
        nursery.cancel_scope.cancel()

    async def read() -> dict[str, str]:
        return after

    await reporter.step("the host is as before", lambda: compare(before, read))
    sys.stdout.write(json.dumps(as_json(reporter.steps), indent=2) if in_json else render_total(reporter.steps))
    sys.stdout.write("\n")
    return 130 if was_ended else exit_status(reporter.steps)


async def _run_steps(reporter: Reporter, stage: DemoStage) -> None:
    step = reporter.step
    joining, serving = JoinScenes(stage), TrafficScenes(stage)
    reporter.chapter("A cluster with Linkerd, and a VM outside of its mesh")
    await step("a pod sends a request to the VM", joining.outside)
    await step("an admin makes a join token", joining.make_token)
    if isinstance(stage.api, Kubernetes):
        await step(f"Kubernetes {stage.api.version} refuses a thief of the token", joining.token_thief)
    stage.vm.start_agent()
    await stage.vm.wait_idle()
    leaving = LeaveScenes(stage, joining, await stage.vm.snapshot())

    reporter.chapter("The VM joins, with one line")
    if not await step("joined", joining.join, 60):
        return
    await step("admitted and registered", joining.admitted)
    await step("certified", joining.certified)
    await step("proxy ready", joining.proxy_ready)
    await step("traffic redirected", joining.redirected)
    await step("listed and Ready", joining.listed)
    await step("exclave status", joining.status)

    reporter.chapter("Both sides prove their identities, by mutual TLS")
    await step("pod → VM, by its address", serving.pod_to_vm)
    await step("pod → VM, by a Service", serving.pod_to_service)
    await step("VM → pod, by a Service", serving.vm_to_service)

    reporter.chapter("Steady traffic both ways during changes and failures")
    await step("certificates of 10 s are renewed for 30 s", serving.renewals, 60)
    await step("the group gets certificates of 24 h", serving.longer_life)
    await step("another program flushes all rules", serving.rules_flushed)
    await step("API server and controller are down", serving.control_plane_down, 60)
    await step("the agent is killed by SIGKILL", serving.agent_killed)
    await step("the proxy is swapped", serving.proxy_swapped, 60)

    reporter.chapter("The VM leaves")
    await step("left in order", leaving.in_order, 60)
    await step("the VM is as before", leaving.no_trace)
    await step("a pod sends a request to the VM", leaving.outside_again)
    await step("joins again, leaves while the controller is down", leaving.without_controller, 120)
    await step("the controller comes back", leaving.nothing_remains, 60)

    reporter.chapter("The demo's machines are removed")


async def snapshot(network: int) -> dict[str, str]:
    """A snapshot of the host; `network` is a descriptor of its network namespace."""
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{network}", "--")
    found = {"files": (await run_command(FILES)).output.decode()}
    for subject, command in SUBJECTS.items():
        found[subject] = (await run_command([*inside, *command])).output.decode()
    return found
