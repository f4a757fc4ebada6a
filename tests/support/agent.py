"""An agent of the labs as a program, with real parts and a mesh that it makes: `python agent.py JSON`.

JSON holds `runtime` (folder), `binary`, `user`, `drain` (seconds), and perhaps `policy` (the group's inbound policy).
With `steers` it has link, names, Workload API, proxies, rules and swaps, and JSON also `ports` (of the group), `bound`
(seconds), and perhaps `limit` (bytes of memory) and `die_at`: the step at whose beginning it kills itself with SIGKILL.
Without, it has Workload API and proxies, and `active` is the instance that rules point to, or none.

It prints a JSON line whenever something changes, and reads one word a line: `rotate` (a new certificate), `policy deny`
and `ports 8080,8081` (new settings), `leave`, `stop`, `hand-over`; with `steers` also `swap` and `swap-forced`, without
`rules a`, `standby`, `choose b`, `retire a`, `dismiss a`. It runs in a network namespace of its own.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "agent"), str(TOP / "tests")]

import trio  # noqa: E402

from exclave.api.group import Port  # noqa: E402
from exclave.api.settings import Settings  # noqa: E402
from exclave.config import ProxyConfig, RedirectConfig  # noqa: E402
from exclave.confirm.confirm import open_confirm  # noqa: E402
from exclave.daemon.wanted_rules import open_steering  # noqa: E402
from exclave.data_path.observer import open_data_path  # noqa: E402
from exclave.dns.server import open_dns  # noqa: E402
from exclave.ending import Ending, EndingSwitch  # noqa: E402
from exclave.errors import HostError  # noqa: E402
from exclave.identity.svid import Svid  # noqa: E402
from exclave.kit.tasks.latest import Latest, open_any_change  # noqa: E402
from exclave.link.layout import dns_address, instance_address  # noqa: E402
from exclave.link.link import open_link  # noqa: E402
from exclave.proxy.instance import Proxy, open_proxy  # noqa: E402
from exclave.proxy.probe import leaf_not_after  # noqa: E402
from exclave.proxy.process.binary import find_proxy_user  # noqa: E402
from exclave.redirect.kernel.nft import find_active  # noqa: E402
from exclave.redirect.reconciler import Redirect, open_redirect, open_table  # noqa: E402
from exclave.swap.swap import Swap, SwapPhase, open_swap  # noqa: E402
from exclave.workload_api.server import open_workload_api  # noqa: E402
from support.mesh import ADDRESS, RECORD, SERVERS, VIP, make_settings, stored_mesh  # noqa: E402


def report(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def make_ports(numbers: Iterable[int]) -> tuple[Port, ...]:
    return tuple(Port(f"p{number}", number) for number in numbers)


class LabAgent:
    """What an agent has before its parts: its mesh, its membership, and how it ends."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.runtime = options, Path(options["runtime"])
        limits = options.get("bound", 60.0), options.get("limit", 2**30)
        self.config = ProxyConfig(Path(options["binary"]), options["user"], "info", options["drain"], *limits)
        self.mesh = stored_mesh(self.runtime.parent)
        ports = make_ports(options.get("ports", [8080]))
        made = make_settings(self.mesh.anchor.pem, ports=ports, inbound_policy=options.get("policy"))
        self.settings, self.signed = Latest[Settings](made), 0
        self.svid = Latest[Svid | None](None)
        self.rotate()
        captured = Latest((ADDRESS, VIP))
        self.membership: Any = SimpleNamespace(settings=self.settings, record=RECORD, captured=captured)
        self.identity: Any = SimpleNamespace(svid=self.svid)
        self.endings = EndingSwitch()

    def rotate(self) -> None:
        """Sign a certificate as the controller would; each ends at another second."""
        self.signed += 1
        lifetime = timedelta(seconds=3600 + 60 * self.signed)
        self.svid.set(self.mesh.svid(time.time(), lifetime=lifetime, common_name=RECORD.member))

    def change_group(self, **fields: Any) -> None:
        settings = self.settings.value
        self.settings.set(replace(settings, group=replace(settings.group, **fields)))

    async def run(self) -> None:
        """Run until a word or a signal ends it."""
        uids = frozenset({(await find_proxy_user(self.config.user)).uid})
        async with open_workload_api(self.runtime / "workload.sock", self.svid, lambda: (), uids) as api:
            await (self._run_all(api.path) if self.options.get("steers") else self._run_proxies(api.path))
        report(ended=self.endings.value.value)

    def _open_proxy(self, socket: Path, names: str, active: Any) -> Any:
        door = (self.config, self.runtime, self.membership, self.identity, socket, names, active)
        return open_proxy(*door, self.endings, time.time)

    async def _run_proxies(self, socket: Path) -> None:
        for address in (instance_address("a"), instance_address("b"), dns_address(), ADDRESS):
            subprocess.run(["ip", "address", "replace", f"{address}/32", "dev", "lo"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        async with self._open_proxy(socket, dns_address(), self.options["active"]) as proxy:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report_changes, proxy)
                self.endings.ask_nowait(await self._read_words(nursery, proxy, None))
                nursery.cancel_scope.cancel()

    async def _run_all(self, socket: Path) -> None:
        member, endings, options = self.membership, self.endings, self.options
        async with (
            open_link(endings),
            open_table(endings),
            open_dns(dns_address(), self.settings) as names,
            self._open_proxy(socket, names.address, await find_active()) as proxy,
            open_data_path(member, self.identity, proxy, time.time) as data_path,
            open_confirm(self.runtime, member, None) as confirming,
            open_steering(
                RedirectConfig(), member, proxy, data_path, confirming, SERVERS, await find_active()
            ) as steering,
            open_redirect(steering.policy, self.runtime, endings) as redirect,
            open_swap(self.config, member, proxy, steering.trial, redirect) as swap,
            trio.open_nursery() as nursery,
        ):
            if "die_at" in options:
                die_at(swap, options["die_at"])
            nursery.start_soon(observe_rules, redirect, proxy)
            nursery.start_soon(self._report_changes, proxy, redirect, swap)
            endings.ask_nowait(await self._read_words(nursery, proxy, swap))
            nursery.cancel_scope.cancel()

    async def _report_changes(self, proxy: Proxy, redirect: Redirect | None = None, swap: Swap | None = None) -> None:
        """One line a change; several at once are one."""
        observed: list[Latest[Any]] = [self.svid, proxy.instances, proxy.chosen, proxy.ready, proxy.outdated]
        observed += [proxy.problem] if redirect is None else [redirect.observed, redirect.wanted]
        observed += [] if swap is None else [swap.phase, swap.problem, swap.clients]
        async with open_any_change(*observed) as change:
            async for _ in change.wakes():
                of_rules = {} if redirect is None or swap is None else rules_and_swap(redirect, swap)
                report(**self._proxies(proxy) | of_rules)

    def _proxies(self, proxy: Proxy) -> dict[str, object]:
        assert self.svid.value is not None
        ours = leaf_not_after(self.svid.value)
        instances = {
            name: {
                "state": view.state.word,
                "pid": view.pid,
                "adopted": view.is_adopted,
                "certified": view.certificate_expires == ours,
                "ready": view.is_ready,
                "refused": view.is_admin_denied,
            }
            for name, view in proxy.instances.value.items()
        }
        return {
            "instances": instances,
            "signed": self.signed,
            "ready": proxy.ready.value,
            "chosen": proxy.chosen.value,
            "outdated": sorted(difference.value for difference in proxy.outdated.value),
            "problem": proxy.problem.value,
            "version": proxy.version,
            "starts": sum(proxy.starts.values()),
        }

    async def _read_words(self, nursery: trio.Nursery, proxy: Proxy, swap: Swap | None) -> Ending:
        """Carry out words from standard input until one says how to end."""
        text = ""
        async with trio.lowlevel.FdStream(0) as words:
            async for piece in words:
                *lines, text = (text + piece.decode()).split("\n")
                for line in lines:
                    word, _, argument = line.partition(" ")
                    if word == "rotate":
                        self.rotate()
                    elif word == "policy":
                        self.change_group(inbound_policy=argument)
                    elif word == "ports":
                        self.change_group(ports=make_ports(map(int, argument.split(","))))
                    elif word == "rules":
                        proxy.observe_rules(argument)  # type: ignore[arg-type]
                    elif word == "standby":
                        await start_standby(proxy)
                    elif word in ("choose", "retire", "dismiss"):
                        getattr(proxy, word)(argument)
                    elif word in ("swap", "swap-forced"):
                        assert swap is not None
                        nursery.start_soon(request_swap, swap, word == "swap-forced")
                    else:
                        return Ending(word)
        return Ending.HAND_OVER


def rules_and_swap(redirect: Redirect, swap: Swap) -> dict[str, object]:
    wanted, phase = redirect.wanted.value, swap.phase.value
    return {
        "rules": redirect.observed.value.instance,
        "in_place": redirect.in_place,
        "trial": wanted.trial if wanted else None,
        "ports": wanted.inbound_ports if wanted else None,
        "step": phase.name if phase else None,
        "clients": swap.clients.value,
        "problem": swap.problem.value,
        "results": dict(swap.results),
    }


async def observe_rules(redirect: Redirect, proxy: Proxy) -> None:
    async for observed in redirect.observed.changes():
        proxy.observe_rules(observed.instance)


def die_at(swap: Swap, step: str) -> None:
    """Kill this process as soon as the swap enters the step. A reader of the phase could miss a short one."""
    publish = swap.phase.set

    def publish_or_die(phase: SwapPhase | None) -> None:
        if phase is not None and phase.name == step:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(phase)

    swap.phase.set = publish_or_die  # type: ignore[method-assign]


async def start_standby(proxy: Proxy) -> None:
    try:
        await proxy.start()
    except HostError as problem:
        report(refused=problem.message)


async def request_swap(swap: Swap, forced: bool) -> None:
    outcome = await swap.request(forced=forced)
    error = outcome.error
    report(
        outcome={"from": outcome.old, "to": outcome.new, "reason": outcome.reason.value, "took": outcome.took},
        error=None if error is None else {"word": error.fault.word, "message": error.message},
    )


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        trio.run(LabAgent(json.loads(sys.argv[1])).run, strict_exception_groups=True)
    except HostError as problem:
        report(error=problem.fault.word, message=problem.message, hint=problem.hint)
        return problem.fault.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
