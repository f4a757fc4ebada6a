"""A machine joins and goes, in four ways. After each it prints a JSON line with the differences from before.

unshare --net --mount python -m uninstall.run_ways
"""

import json
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from exclave.kit.host.command import Finished
from exclave_sandbox.demo.membership import BY_ADDRESS, JoinScenes
from exclave_sandbox.demo.traffic import BY_POD_SERVICE
from exclave_sandbox.expect import differences, eventually
from exclave_sandbox.stage.programs import StageProgram, module, start
from exclave_sandbox.stage.stage import DemoStage, fetch, open_stage
from uninstall.prepare_machine import LAYERS, prepare_machine

SNAPSHOT = Path(__file__).with_name("snapshot.py").read_text()

CONFIG = """\
[proxy]
binary = "{proxy}"
user = "nobody"
drain = "3s"

[listing]
drain = "1s"
"""


CHANGES = {
    "processes": "sleep 1000 >/dev/null 2>&1 &",
    "nftables": "nft insert rule inet firewall first accept",
    "tables": "nft add element inet firewall blocked { 203.0.113.7 }",
    "links": "ip link set own0 mtu 1400",
    "addresses": "ip address add 10.99.0.2/32 dev own0",
    "routes": "ip route add 203.0.113.128/25 dev own0 table 177",
    "routes of IPv6": "ip -6 route add fd96::/64 dev own0 table 178",
    "rules": "ip rule add fwmark 0x78 lookup 178",
    "rules of IPv6": "ip -6 rule add fwmark 0x78 lookup 178",
    "neighbours": "ip neighbour add 10.99.0.8 lladdr 02:00:00:00:00:88 nud permanent dev own0",
    "neighbours of IPv6": "ip neighbour add fd99::8 lladdr 02:00:00:00:00:88 nud permanent dev own0",
    "iptables-legacy": "iptables-legacy -t nat -I DOCKER -j RETURN",
    "ip6tables-legacy": "ip6tables-legacy -A OURS -j RETURN",
    "sockets that listen": f"{shlex.quote(sys.executable)} -m http.server 8077 >/dev/null 2>&1 & sleep 1",
    "settings": "echo 4000 >/proc/sys/net/ipv4/tcp_keepalive_time",
    "files": "echo >>/etc/resolv.conf",
    "mounts": "mount -n -t tmpfs more /mnt/var",
}
"""A change of each kind, to prove that a snapshot shows it."""


@dataclass
class Installation:
    """exclave on that machine, with all files in their default folders."""

    stage: DemoStage
    joining: JoinScenes
    agent: StageProgram | None = None

    async def exclave(self, *arguments: str, stdin: bytes = b"") -> Finished:
        done = await self.stage.vm.machine.run(*module("exclave", *arguments), stdin=stdin, timeout=120.0)
        assert done.status == 0, (arguments, done.status, done.output, done.errors)
        return done

    async def status(self) -> dict[str, Any]:
        done = await self.stage.vm.machine.run(*module("exclave", "status", "--json"))
        found: dict[str, Any] = json.loads(done.output or b"{}")
        return found

    async def run(self) -> None:
        """Start the agent; wait until it answers."""
        command = self.stage.vm.machine.command(*module("exclave", "run"))
        self.agent = start(command, self.stage.scratch / "agent.log")
        await eventually("the agent's answer", self._state, bool)

    async def join(self) -> None:
        await self.exclave("join", "--token-file", "-", stdin=self.joining._token.encode())
        await self.serve()

    async def serve(self) -> None:
        """Wait until the machine is ready, and send a request in each direction."""
        await eventually("ready", self._state, lambda state: state == "ready")
        machine = self.stage.vm.machine
        assert (await fetch(self.stage.pod, BY_ADDRESS))["client_id"]
        assert (await fetch(machine, BY_POD_SERVICE))["client_id"]

    async def _state(self) -> object:
        return (await self.status()).get("state")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.agent is not None
        self.agent.send(number)
        await self.agent.wait()

    async def snapshot(self) -> dict[str, str]:
        done = await self.stage.vm.machine.run(sys.executable, "-I", "-S", "-c", SNAPSHOT, LAYERS)
        assert done.status == 0, done.errors
        found: dict[str, str] = json.loads(done.output)
        return found

    # The ways to go.

    async def leave(self) -> None:
        await self.run()
        await self.join()
        await self._preview()
        await self.exclave("leave")
        await self.end()

    async def _preview(self) -> None:
        """Print what `leave --dry-run` changes and prints, and what is there."""
        before = await self.snapshot()
        done = await self.exclave("leave", "--dry-run", "--json")
        changed = differences(before, await self.snapshot())
        folders = "/var/lib/exclave", "/run/exclave"
        found = await self.stage.vm.machine.run("find", *folders, "-mindepth", "1", "-maxdepth", "1")
        preview = json.loads(done.output)["dryRun"]
        there = {"files": found.output.decode().splitlines(), "proxy": (await self.status())["proxy"]}
        line = {"way": "leave --dry-run", "differences": changed, "preview": preview, "there": there}
        print(json.dumps(line), flush=True)

    async def stop(self) -> None:
        await self.run()
        await self.join()
        await self.end()
        await self.exclave("cleanup")

    async def kill(self) -> None:
        await self.run()
        await self.serve()
        proxy = (await self.status())["proxy"]
        pid = proxy["instances"][proxy["active"]]["pid"]
        await self.end(signal.SIGKILL)
        await self.stage.vm.machine.must("kill", "-9", str(pid))
        await self.exclave("cleanup")

    async def leave_without_api_server(self) -> None:
        await self.run()
        await self.serve()
        await self.stage.api.close()
        await self.exclave("leave")
        await self.end()


async def main() -> None:
    async with open_stage("24h") as stage:
        joining = JoinScenes(stage)
        await joining.outside()
        await joining.make_token()
        await prepare_machine(stage.vm.machine, stage.scratch)
        proxy, folder = stage.scratch / "proxy", f"/proc/{stage.vm.machine.pid}/root/etc/exclave"
        Path(folder, "config.toml").write_text(CONFIG.format(proxy=proxy))
        installed = Installation(stage, joining)
        before = await installed.snapshot()
        ways: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("leave", installed.leave),
            ("stop and cleanup", installed.stop),
            ("cleanup after kill -9 of agent and proxy", installed.kill),
            ("leave while the API server is away", installed.leave_without_api_server),
        )
        for name, go in ways:
            await go()
            print(json.dumps({"way": name, "differences": differences(before, await installed.snapshot())}), flush=True)
        for subject, command in CHANGES.items():
            await stage.vm.machine.must("sh", "-c", command)
            after = await installed.snapshot()
            found = [line for line in differences(before, after) if line.startswith(f"{subject}: ")]
            print(json.dumps({"way": f"a change of {subject}", "differences": found}), flush=True)
            before = after


if __name__ == "__main__":
    trio.run(main, strict_exception_groups=True)
