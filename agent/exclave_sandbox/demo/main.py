"""`exclave demo`: a machine joins a mesh, lives in it and leaves it, all on one host. Composition root of the demo.

Rules: the host's own network is only looked at. The story is told by a second process in a network namespace of its
own, which is the cluster's machine; this one starts it, hands signals on, and passes its exit status back. Whatever
ends the story, by its end, a signal or our death, the stage is taken down first.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from types import FrameType

import trio

from exclave.errors import Fault, HostError
from exclave.kit.host.command import run_command
from exclave_sandbox.demo.joining import Joining
from exclave_sandbox.demo.leaving import Leaving
from exclave_sandbox.demo.report import as_json, exit_status, tell_end
from exclave_sandbox.demo.reporter import Teller
from exclave_sandbox.demo.traffic import UnderTraffic
from exclave_sandbox.expect import UnexpectedError
from exclave_sandbox.stage.compare import FILES, SUBJECTS, differences
from exclave_sandbox.stage.control_plane import Binaries
from exclave_sandbox.stage.kubernetes import Kubernetes, find_binaries
from exclave_sandbox.stage.programs import module
from exclave_sandbox.stage.stage import Stage, open_stage

SHORT_LIFE = "10s"
"""how long the first certificates live: they are renewed at half of it."""

DESCRIPTION = """\
Shows exclave whole on one machine: a cluster with a small API server, the real controller, a meshed pod, and a virtual
machine with the real agent, each in network namespaces that go away with it. Needs root, nft and iproute2; takes under
two minutes. Ctrl-C ends it at any time and leaves nothing.

Stand-ins, since the real ones cannot be shipped here: the API server (admission policies are not enforced), Linkerd's
destination controller, and the proxy (linkerd2-proxy's environment, Workload API, names and ports; HTTP/1.1 only).
With --kubernetes the API server is a real one: kube-apiserver with its etcd and controllers, built once.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit code: 0 if every step passed, 1 if not, 130 after Ctrl-C. Raises HostError."""
    options = _parser().parse_args(arguments)
    binaries = find_binaries() if options.kubernetes else None
    if options.host is not None:
        return trio.run(_tell, options.host, options.json, binaries, strict_exception_groups=True)
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
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)  # whose network namespace is the host's
    return parser


def _run_inside(options: Sequence[str]) -> int:
    """Run ourselves in new namespaces, with our own death as a signal to end."""
    apart = ("setpriv", "--pdeathsig=INT", "unshare", "--net", "--mount", "--")
    command = [*apart, *module("exclave", "demo", f"--host={os.getpid()}", *options)]
    # A session of its own: Ctrl-C reaches us alone, and is handed on once.
    teller = subprocess.Popen(command, start_new_session=True)

    def hand_on(number: int, _: FrameType | None) -> None:
        teller.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    return teller.wait()


async def _tell(host: int, in_json: bool, binaries: Binaries | None) -> int:
    """Tell the story; the exit code."""
    teller = Teller(quiet=in_json)
    was_ended = False
    # Kept open, so that the host can be looked at even if whoever started us is killed.
    network = os.open(f"/proc/{host}/ns/net", os.O_RDONLY)

    async def end_on_signal(*, task_status: "trio.TaskStatus[None]") -> None:
        nonlocal was_ended
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await _first(signals)
            was_ended = True
            sys.stderr.write("\nending: the stage is taken down\n")
            story.cancel()
            await trio.sleep_forever()  # another Ctrl-C must not leave the stage half standing

    async with trio.open_nursery() as nursery:
        await nursery.start(end_on_signal)
        with trio.CancelScope() as story:
            before = await look(network)
            async with open_stage(SHORT_LIFE, binaries) as stage:
                await _play(teller, stage)
        after = await look(network)
        nursery.cancel_scope.cancel()
    await teller.step("the host is as it was", lambda: _compare(before, after))
    sys.stdout.write(json.dumps(as_json(teller.steps), indent=2) if in_json else tell_end(teller.steps))
    sys.stdout.write("\n")
    return 130 if was_ended else exit_status(teller.steps)


async def _first(signals: AsyncIterator[int]) -> None:
    async for _ in signals:
        return


async def _play(teller: Teller, stage: Stage) -> None:
    """The story, chapter by chapter."""
    step = teller.step
    joining, serving = Joining(stage), UnderTraffic(stage)
    teller.chapter("A cluster with Linkerd, and a machine that is not in its mesh")
    await step("the pod asks the machine", joining.outside)
    await step("an admin makes a join token", joining.make_token)
    if isinstance(stage.api, Kubernetes):
        await step(f"Kubernetes {stage.api.version} guards it", joining.guarded)
    stage.vm.start_agent()
    await stage.vm.wait_idle()
    leaving = Leaving(stage, joining, await stage.vm.look())

    teller.chapter("The machine joins, with one line")
    if not await step("joined", joining.join, 60):
        return
    await step("admitted and registered", joining.admitted)
    await step("certified", joining.certified)
    await step("proxy ready", joining.proxy_ready)
    await step("redirected", joining.redirected)
    await step("listed and Ready", joining.listed)
    await step("exclave status", joining.status)

    teller.chapter("Both sides know each other, by mutual TLS")
    await step("pod → machine, by its address", serving.pod_to_machine)
    await step("pod → machine, by a Service", serving.pod_to_service)
    await step("machine → pod, by a Service", serving.machine_to_service)

    teller.chapter("Steady traffic both ways, while things happen")
    await step("certificates of 10 s are renewed for 30 s", serving.renewals, 60)
    await step("the group gets certificates of 24 h", serving.longer_life)
    await step("others flush all rules", serving.rules_flushed)
    await step("API server and controller go away", serving.control_plane_away, 60)
    await step("the agent is killed with -9", serving.agent_killed)
    await step("the proxy is swapped", serving.proxy_swapped, 60)

    teller.chapter("The machine leaves")
    await step("left in order", leaving.in_order, 60)
    await step("the machine is as it was", leaving.no_trace)
    await step("the pod asks the machine", leaving.outside_again)
    await step("joins again, leaves without a controller", leaving.unheard, 120)
    await step("the controller comes back", leaving.nothing_remains, 60)

    teller.chapter("The stage is taken down")


async def look(network: int) -> dict[str, str]:
    """A snapshot of the host; `network` is a descriptor of its network namespace."""
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{network}", "--")
    found = {"files": (await run_command(FILES)).output.decode()}
    for subject, command in SUBJECTS.items():
        found[subject] = (await run_command([*inside, *command])).output.decode()
    return found


async def _compare(before: dict[str, str], after: dict[str, str]) -> str:
    found = differences(before, after)
    if found:
        raise UnexpectedError("\n".join(found))
    return f"{', '.join(sorted(before))}: as before"
