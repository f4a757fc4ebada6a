"""The demo's last scenes: leaving in order, without a trace, and while the controller is down.

The order is checked by state, not by time: when one step is observed, the steps before it must be done already and
those after it must not.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from exclave.api.names import accounts_namespace
from exclave.api.requests import EXTERNAL_WORKLOADS, LEASES, MEMBERS, SERVICE_ACCOUNTS, list_all
from exclave.cluster.watch import Upserted
from exclave.link.layout import LINK, TABLE
from exclave_sandbox.demo.joining import BY_ADDRESS, PLAINTEXT, JoinScenes, find, ready_of
from exclave_sandbox.expect import UnexpectedError, eventually, expect
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.compare import differences
from exclave_sandbox.stage.stage import DemoStage
from exclave_sandbox.stage.vm import fetch


@dataclass
class LeaveScenes:
    """The VM leaves. `before` is its snapshot from before it joined."""

    stage: DemoStage
    joining: JoinScenes
    before: dict[str, str]

    async def in_order(self) -> str:
        """`exclave leave`, watched from outside."""
        stage, member = self.stage, self.joining.member
        pid = (await stage.vm.active_proxy())["pid"]
        trace: list[str] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_workload, member, trace)
            nursery.start_soon(self._watch_proxy, pid, trace)
            done = await stage.vm.command("leave")
            expect("exit status", done.status, 0)
            expect("the Member is being deleted", await self._is_deleted(member), True)
        left = [await self._has("ip", "link", "show", LINK), await self._has("nft", "list", "table", "inet", TABLE)]
        trace.append("RULES OR LINK STILL THERE" if any(left) else "rules and link gone")
        expect("trace", trace, list(LEAVING))
        return " → ".join(trace)

    async def _watch_workload(self, member: str, trace: list[str], *, task_status: "trio.TaskStatus[None]") -> None:
        """Until the ports are withdrawn: check that the VM still serves while pods may still send traffic."""
        has_begun = False
        async with self.stage.admin.watch(EXTERNAL_WORKLOADS, mesh.NAMESPACE, member) as events:
            async for event in events:
                if not has_begun:
                    task_status.started()
                    has_begun = True
                if not isinstance(event, Upserted):
                    raise UnexpectedError("the ExternalWorkload went before its ports")
                ready, ports = ready_of(event.object), event.object["spec"].get("ports")
                if ready == "False" and ports and not trace:
                    trace.append("Ready=False")
                if not ports:
                    serves = await self._has("nft", "list", "table", "inet", TABLE)
                    trace.append("ports withdrawn" if serves else "RULES WENT BEFORE THE PORTS")
                    return

    async def _watch_proxy(self, pid: int, trace: list[str]) -> None:
        """Until the proxy has ended: no rule may redirect new connections to it by then.

        Rules that hold the connections it served may still stand.
        """
        await self.stage.vm.machine.run(sys.executable, "-I", "-c", _WAIT, str(pid), timeout=60.0)
        is_redirected = await self._has("nft", "list", "chain", "inet", TABLE, "inbound")
        trace.extend(
            ["PROXY ENDED WHILE RULES POINT TO IT"] if is_redirected else ["nothing new captured", "proxy ended"]
        )

    async def _has(self, *command: str) -> bool:
        return (await self.stage.vm.machine.run(*command)).status == 0

    async def _is_deleted(self, member: str) -> bool:
        found = await find(self.stage, "Member", member)
        return not found or "deletionTimestamp" in found["metadata"]

    async def no_trace(self) -> str:
        """The VM as it was before it joined."""
        return await compare(self.before, self.stage.vm.snapshot)

    async def outside_again(self) -> str:
        """After: the pod reaches the application, without an identity."""
        answer = await fetch(self.stage.pod, BY_ADDRESS)
        expect("client_id", answer["client_id"], None)
        return PLAINTEXT

    async def without_controller(self) -> str:
        """Join again, and leave while the controller is down."""
        stage = self.stage
        await self.joining.join()
        await stage.controller.end()
        began = trio.current_time()
        done = await stage.vm.command("leave", timeout=90.0)
        expect("exit status", done.status, 0)
        await compare(self.before, stage.vm.snapshot)
        return f"{self.joining.member}: no trace on the VM after {trio.current_time() - began:.1f} s"

    async def nothing_remains(self) -> str:
        """The controller comes back and removes what is left."""
        self.stage.start_controller()
        await eventually("an empty cluster", self._remains, lambda remains: not remains)
        return "no Member, ExternalWorkload, Lease or account of a VM is left in the cluster"

    async def _remains(self) -> list[str]:
        found = []
        for resource in (MEMBERS, EXTERNAL_WORKLOADS, LEASES, SERVICE_ACCOUNTS):
            is_account = resource is SERVICE_ACCOUNTS
            namespace = accounts_namespace(mesh.NAMESPACE) if is_account else mesh.NAMESPACE
            listed = await self.stage.admin.send(list_all(resource, namespace))
            names = [item["metadata"]["name"] for item in listed["items"]]
            found += [f"{resource.kind} {name}" for name in names if not is_account or ".vm." in name]
        return found


async def compare(before: dict[str, str], snapshot: Callable[[], Awaitable[dict[str, str]]]) -> str:
    """The subjects that are as before. Raises UnexpectedError with each difference."""
    found = differences(before, await snapshot())
    if found:
        raise UnexpectedError("\n".join(found))
    return f"unchanged: {', '.join(sorted(before))}"


_WAIT = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[1]))], [], [])"

LEAVING = ("Ready=False", "ports withdrawn", "nothing new captured", "proxy ended", "rules and link gone")
"""The only right order."""
