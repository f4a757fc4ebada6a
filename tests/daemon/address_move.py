"""A machine whose own address changes under load, as a program: python address_move.py beside|instead.

The demo's stage: real agent, controller, rules and swap, a stand-in proxy. `beside`: another address comes, routes use
it, and the old one goes later; `instead`: it comes as the old one goes, as with DHCP. The machine has one more address,
which does not change, and is what its routes to the pod use. It prints one JSON line: what each load has seen, how
condition Ready went, what was listed and not served, and seconds until pods reach the new address, and until all is
over. It runs in network and mount namespaces of its own.
"""

import json
import re
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import trio  # noqa: E402

from exclave.api.requests import EXTERNAL_WORKLOADS, list_all  # noqa: E402
from exclave.kit.tasks.nursery import shielded  # noqa: E402
from exclave_sandbox.demo.membership import issue_token, ready_of  # noqa: E402
from exclave_sandbox.demo.traffic import BY_GROUP  # noqa: E402
from exclave_sandbox.expect import UnexpectedError, eventually  # noqa: E402
from exclave_sandbox.stage import mesh  # noqa: E402
from exclave_sandbox.stage.stage import (  # noqa: E402
    DemoStage,
    fetch,
    open_stage,
)
from support.agent_program import PATIENCE  # noqa: E402
from support.swap_lab import Load, open_load  # noqa: E402

NEW, STAYS, BESIDE_POD = "10.77.0.99", "10.78.0.20", "10.78.0.30"
LOADS = 2, 1, 20.0
"""Workers with new connections, with kept ones, and requests of each a second."""

LOOK_EVERY = 0.05
AROUND = 2.0
RENEW_EVERY = 1.0
LONGEST = 100.0


class AddressMover:
    """The stage, and what is seen meanwhile."""

    def __init__(self, stage: DemoStage) -> None:
        self.stage, self.vm = stage, stage.vm
        self.ready: list[str] = []
        self.unserved: set[str] = set()
        self.listed = ""
        self.served: set[str] = set()

    async def join(self) -> None:
        stage, vm = self.stage, self.vm
        await vm.machine.add_address(f"{STAYS}/24")
        await stage.pod.add_address(f"{BESIDE_POD}/24")
        await vm.machine.must("ip", "route", "add", f"{mesh.POD}/32", "dev", "eth0", "src", STAYS)
        text = vm.config.read_text() + f'\n[member]\ncaptured_addresses = ["{STAYS}"]\n'
        vm.config.write_text(text)
        token = await issue_token(stage, 1)
        vm.start_agent()
        await vm.wait_idle()
        done = await vm.command("join", "--token-file", "-", stdin=token.encode())
        assert done.status == 0, done.errors

    async def workload(self) -> dict[str, Any]:
        (found,) = (await self.stage.admin.send(list_all(EXTERNAL_WORKLOADS, mesh.NAMESPACE)))["items"]
        return dict(found)

    async def watch(self) -> None:
        """What is listed must be served: look at the one, then at the other."""
        while True:
            found = await self.workload()
            (address,) = (one["ip"] for one in found["spec"]["workloadIPs"])
            self.listed = address
            if [str(ready_of(found))] != self.ready[-1:]:
                self.ready.append(str(ready_of(found)))
            rules = (await self.vm.machine.must("nft", "list", "table", "inet", "exclave")).decode()
            rules = rules[rules.index("chain inbound") :].split("}\n\n")[0]
            self.served = {
                one for match in re.findall(r"ip daddr ({[^}]*}|\S+) tcp dport", rules) for one in _words(match)
            }
            if found["spec"].get("ports") and address not in self.served:
                self.unserved.add(address)
            await trio.sleep(LOOK_EVERY)

    async def change(self, how: str) -> None:
        ip, must = "ip", self.vm.machine.must
        if how == "instead":
            await must(ip, "address", "del", f"{mesh.VM}/24", "dev", "eth0")
            await must(ip, "address", "add", f"{NEW}/24", "dev", "eth0")
        else:
            # With /24 it would be a secondary one: the kernel would let local connections to it come from the old one.
            await must(ip, "address", "add", f"{NEW}/32", "dev", "eth0")
            await must(ip, "route", "change", mesh.VM_NETWORK, "dev", "eth0", "proto", "kernel", "src", NEW)
        for network in mesh.CLUSTER_NETWORKS:
            await must(ip, "route", "replace", network, "dev", "eth0", "src", NEW)

    async def move(self, how: str) -> tuple[float, float]:
        """Change the address. Returns seconds until pods reach the new one, and until all is over."""
        began = time.monotonic()
        await self.change(how)
        await self.until_listed()
        await self.until_reached()
        reached = time.monotonic() - began
        await self.until_left()
        await self.until_over()
        over = time.monotonic() - began
        if how == "beside":
            await self.vm.machine.must("ip", "address", "del", f"{mesh.VM}/24", "dev", "eth0")
        return reached, over

    async def until_listed(self) -> None:
        async def look() -> object:
            return self.listed

        await eventually("the new address", look, lambda listed: listed == NEW)

    async def until_reached(self) -> None:
        async def look() -> object:
            try:
                return (await fetch(self.stage.pod, BY_GROUP))["server"]
            except UnexpectedError:
                return None

        await eventually("the machine, from the pod", look, lambda server: server == mesh.GROUP)

    async def until_left(self) -> None:
        async def look() -> object:
            return self.served

        await eventually("the old address to be left", look, lambda served: served == {NEW, STAYS})

    async def until_over(self) -> None:
        """Until the old address is left behind and one proxy runs."""

        async def look() -> object:
            kept = json.loads((self.vm.folder / "var/lib/exclave/membership.json").read_text())
            instances = (await self.vm.status())["proxy"]["instances"].values()
            state = (await self.vm.status())["state"]
            return (kept["address"], kept.get("former"), sum(one is not None for one in instances), state)

        await eventually("the end of it", look, lambda seen: seen == (NEW, None, 1, "ready"))


def _words(match: str) -> list[str]:
    return re.findall(r"[0-9a-f.:]+", match)


async def renew_often(loads: dict[str, Load]) -> None:
    """Have clients open their reused connections anew. None is so old that a proxy which drains must end it."""
    while True:
        with shielded(PATIENCE):  # half a request would confuse the next one
            for load in loads.values():
                await load.renew()
        await trio.sleep(RENEW_EVERY)


async def main(how: str) -> None:
    async with open_stage("24h") as stage:
        mover = AddressMover(stage)
        try:
            with trio.fail_after(LONGEST):
                print(json.dumps(await play(mover, how)), flush=True)
        except BaseException:
            sys.stderr.write((stage.scratch / "agent.log").read_text()[-20000:])
            raise


async def play(mover: AddressMover, how: str) -> dict[str, Any]:
    stage = mover.stage
    await mover.join()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mover.watch)
        pod, vm = stage.pod, stage.vm.machine
        wanted = {
            "in by the service": (pod, BY_GROUP),
            "in by an address that stays": (pod, f"http://{STAYS}:{mesh.GROUP_PORT}/"),
            "out of an address that stays": (vm, f"http://{mesh.POD}:{mesh.POD_PORT}/", STAYS),
        }
        if how == "instead":
            del wanted["in by the service"]
        loads = {}
        async with AsyncExitStack() as under_load:
            for name, (machine, url, *source) in wanted.items():
                loads[name] = await under_load.enter_async_context(open_load(machine, url, *LOADS, *source))
            await trio.sleep(AROUND)
            async with trio.open_nursery() as beside:
                beside.start_soon(renew_often, loads)
                reached, over = await mover.move(how)
                await trio.sleep(AROUND)
                beside.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    told = {
        name: {"new": len(load.figures["samples"]), "reused": load.reused, "failures": load.failures}
        for name, load in loads.items()
    }
    seen = {"ready": mover.ready, "unserved": sorted(mover.unserved)}
    log = (stage.scratch / "agent.log").read_text()
    swaps = re.findall(r"swap: \[from=(\w) to=(\w) reason=([^\]]*?) took", log)
    return {**seen, "loads": told, "reached": reached, "over": over, "swaps": swaps}


if __name__ == "__main__":
    trio.run(main, sys.argv[1], strict_exception_groups=True)
