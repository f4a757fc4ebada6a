"""The demo's last scenes: leaving in order, without a trace, and with nobody there to hear it.

The order is checked as causes, not as times: when a thing is seen to have happened, everything that has to come before
it must be so already, and what has to come after it must not.
"""

import sys
from dataclasses import dataclass

import trio

from exclave.api.names import accounts_namespace
from exclave.api.requests import EXTERNAL_WORKLOADS, LEASES, MEMBERS, SERVICE_ACCOUNTS, list_all
from exclave.cluster.watch_events import Upserted
from exclave.link.layout import LINK, TABLE
from exclave_sandbox.demo.joining import BY_ADDRESS, Joining, expect, find, ready_of
from exclave_sandbox.expect import UnexpectedError, eventually
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.compare import differences
from exclave_sandbox.stage.stage import Stage
from exclave_sandbox.stage.vm import fetch


@dataclass
class Leaving:
    """The machine's way out. `before` is how the machine looked before it joined."""

    stage: Stage
    joining: Joining
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
            expect("the Member's deletion was asked for", await self._is_going(member), True)
        left = [await self._has("ip", "link", "show", LINK), await self._has("nft", "list", "table", "inet", TABLE)]
        trace.append("RULES OR LINK STILL THERE" if any(left) else "rules and link gone")
        expect("trace", trace, list(LEAVING))
        return " → ".join(trace)

    async def _watch_workload(self, member: str, trace: list[str], *, task_status: "trio.TaskStatus[None]") -> None:
        """Until the ports are gone: what pods are told, and that the machine still serves while they are told."""
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
        """Until the proxy has ended: no rule may hand it anything by then; those that hold what it served still may."""
        await self.stage.vm.machine.run(sys.executable, "-I", "-c", _WAIT, str(pid), timeout=60.0)
        is_redirected = await self._has("nft", "list", "chain", "inet", TABLE, "inbound")
        trace.extend(
            ["PROXY ENDED WHILE RULES POINT TO IT"] if is_redirected else ["nothing new captured", "proxy ended"]
        )

    async def _has(self, *command: str) -> bool:
        return (await self.stage.vm.machine.run(*command)).status == 0

    async def _is_going(self, member: str) -> bool:
        found = await find(self.stage, "Member", member)
        return not found or "deletionTimestamp" in found["metadata"]

    async def no_trace(self) -> str:
        """The machine as it was."""
        found = differences(self.before, await self.stage.vm.look())
        if found:
            raise UnexpectedError("\n".join(found))
        return f"{', '.join(sorted(self.before))}: as before"

    async def outside_again(self) -> str:
        """After: the pod reaches the application, as nobody."""
        answer = await fetch(self.stage.pod, BY_ADDRESS)
        expect("client_id", answer["client_id"], None)
        return "the pod's request arrives in plaintext, from nobody"

    async def unheard(self) -> str:
        """Join again, and leave while the controller is away."""
        stage = self.stage
        await self.joining.join()
        await stage.controller.end()
        began = trio.current_time()
        done = await stage.vm.command("leave", timeout=90.0)
        expect("exit status", done.status, 0)
        found = differences(self.before, await stage.vm.look())
        if found:
            raise UnexpectedError("\n".join(found))
        return f"{self.joining.member}: after {trio.current_time() - began:.1f} s no trace on the machine, either"

    async def nothing_remains(self) -> str:
        """The controller comes back and tidies up."""
        self.stage.start_controller()
        await eventually("an empty cluster", self._remains, lambda remains: not remains)
        return "no Member, ExternalWorkload, Lease or account of a machine in the cluster"

    async def _remains(self) -> list[str]:
        found = []
        for resource in (MEMBERS, EXTERNAL_WORKLOADS, LEASES, SERVICE_ACCOUNTS):
            is_account = resource is SERVICE_ACCOUNTS
            namespace = accounts_namespace(mesh.NAMESPACE) if is_account else mesh.NAMESPACE
            listed = await self.stage.admin.send(list_all(resource, namespace))
            names = [item["metadata"]["name"] for item in listed["items"]]
            found += [f"{resource.kind} {name}" for name in names if not is_account or ".vm." in name]
        return found


_WAIT = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[1]))], [], [])"

LEAVING = ("Ready=False", "ports withdrawn", "nothing new captured", "proxy ended", "rules and link gone")
"""The one order."""
