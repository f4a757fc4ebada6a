"""What a row works with: exclave installed on a Debian, and a stage with machines that have it.

The package is installed once a run and Debian; each machine is a copy of that one, with a machine id of its own.
"""

import json
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

import exclave
import exclave_sandbox
from exclave_sandbox.demo.membership import identity_of, issue_token
from exclave_sandbox.expect import eventually
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import open_network
from exclave_sandbox.stage.stage import DemoStage, fetch, open_stage
from vm.machine import LIMIT, AnyMachine, BootedMachine, open_machine
from vm.roots import Layers

HERE = Path(__file__).parent
PROXY = "/var/lib/exclave-proxies/linkerd2-proxy"
TOKEN_USES = 60  # machines of one stage that may join

POD_BY_ADDRESS = f"http://{mesh.POD}:{mesh.POD_PORT}/"
POD_BY_SERVICE = f"http://{mesh.POD_SERVICE}:{mesh.POD_PORT}/"

APPLICATION = """\
[Unit]
Description=the application of a test

[Service]
ExecStart=/usr/bin/python3 -I /opt/application/echo.py web 8080

[Install]
WantedBy=multi-user.target
"""

STAND_IN = """\
#!/usr/bin/python3 -IB
import sys
sys.path.insert(0, "/opt/sandbox")
from exclave_sandbox.standin.main import main
sys.exit(main())
"""

CONFIG = """\
[proxy]
drain = "5s"

[listing]
drain = "2s"
"""


@dataclass(frozen=True)
class Packages:
    """The .deb of this checkout, one of the same code with a lower version, and one whose agent does not start."""

    new: Path
    old: Path
    bad: Path

    @property
    def release(self) -> Path:
        """A release of this checkout, if one could be built."""
        return self.new.parent / "release"


@dataclass
class Installed:
    """The layers of a machine on which the package was installed, and what that took."""

    debian: str
    system: Layers
    packages: Packages
    layers: list[Path]
    boots_in: float = 0.0
    """Seconds to boot without exclave."""
    seconds: float = 0.0
    """Seconds of the installation."""
    added: list[str] = field(default_factory=list)
    downloaded: int = 0
    """Bytes of the archives that were installed."""
    grown: int = 0
    """Bytes on the disk, more than before."""
    status: str = ""
    explained: str = ""


async def install(debian: str, system: Layers, packages: Packages, folder: Path) -> Installed:
    """Install the package on a booted machine as a user would, and put proxy and application beside it."""
    layers = [system.archives, system.system]
    installed = Installed(debian, system, packages, [folder / "layer", *layers])
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(open_network())
        machine = await stack.enter_async_context(open_machine("install", "10.77.0.20", layers, folder, network.switch))
        began = time.monotonic()
        await machine.boot()
        installed.boots_in = time.monotonic() - began
        before, used = await _versions(machine), await _used(machine)
        archives = {path.name: path.stat().st_size for path in _archives(machine)}
        machine.copy(packages.new, "/root/exclave.deb")
        began = time.monotonic()
        await machine.shell("DEBIAN_FRONTEND=noninteractive apt-get -qq install -y /root/exclave.deb")
        installed.seconds = time.monotonic() - began
        after = await _versions(machine)
        installed.added = sorted(set(after) - set(before))
        installed.downloaded = _size_of(installed.added, after, archives) + packages.new.stat().st_size
        installed.grown = await _used(machine) - used
        installed.status = (await machine.run("systemctl", "status", "--no-pager", "--full", "exclave")).output.decode()
        installed.explained = (await machine.run("exclave", "status")).output.decode()
        furnish(machine)
        await machine.shell("systemctl enable application.service")
        await machine.power_off()
        for name in ("/var/log/journal", "/root/exclave.deb"):
            path = machine.root / name.lstrip("/")
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return installed


def furnish(machine: BootedMachine) -> None:
    """The proxy's binary (a stand-in), the programs of the sandbox, an application and short waits."""
    for package in (exclave, exclave_sandbox):
        source = Path(package.__file__ or "").parent
        machine.copy(source, f"/opt/sandbox/{source.name}")
    machine.write(PROXY, STAND_IN, 0o755)
    machine.copy(HERE / "inside/echo.py", "/opt/application/echo.py")
    machine.write("/etc/systemd/system/application.service", APPLICATION)
    machine.write("/etc/exclave/config.toml", CONFIG)


async def _versions(machine: BootedMachine) -> dict[str, str]:
    listed = await machine.must("dpkg-query", "--show", "--showformat=${Package}\\t${Version}\\n")
    return dict(line.split("\t") for line in listed.splitlines())


async def _used(machine: BootedMachine) -> int:
    """Bytes of all files but apt's and journald's."""
    listed = await machine.shell("du -sbx --exclude=/var/cache/apt --exclude=/var/log /")
    return int(listed.split()[0])


def _archives(machine: BootedMachine) -> list[Path]:
    return list((machine.root / "var/cache/apt/archives").glob("*.deb"))


def _size_of(names: list[str], versions: dict[str, str], archives: dict[str, int]) -> int:
    prefixes = {f"{name}_{versions[name].replace(':', '%3a')}_" for name in names}
    return sum(size for file, size in archives.items() if re.sub(r"[^_]+\.deb$", "", file) in prefixes)


@dataclass
class Lab:
    """A stage, and machines with exclave installed."""

    stage: DemoStage
    installed: Installed
    _token: str = ""

    async def token(self) -> str:
        """A join token: the line to paste."""
        if not self._token:
            self._token = await issue_token(self.stage, TOKEN_USES)
        return self._token

    @asynccontextmanager
    async def open_machine(self, number: int = 1) -> AsyncIterator[BootedMachine]:
        """A machine that is off. Its address ends with 20 + number."""
        name, address, network = f"vm{number}", f"10.77.0.{20 + number}", self.stage.network
        folder = self.stage.scratch / name
        async with open_machine(name, address, self.installed.layers, folder, network.switch) as machine:
            machine.write("/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
            yield machine

    async def join(self, machine: AnyMachine) -> float:
        """Join with one line; the seconds that it took."""
        began = time.monotonic()
        words = ("exclave", "join", "--token-file", "-", "--timeout", f"{LIMIT:.0f}s")
        await machine.must(*words, stdin=(await self.token()).encode(), timeout=2 * LIMIT)
        return time.monotonic() - began

    async def wait_ready(self, machine: AnyMachine, limit: float = LIMIT) -> None:
        """Wait until `exclave status` reports ready."""
        with trio.fail_after(limit):
            await eventually(f"{machine.name} ready", lambda: state_of(machine), lambda state: state == "ready", 0.1)


async def state_of(machine: AnyMachine) -> str:
    """The state that `exclave status` reports; empty without an agent."""
    return str((await status_of(machine)).get("state", ""))


async def status_of(machine: AnyMachine) -> dict[str, Any]:
    """What `exclave status --json` prints; empty without an agent."""
    done = await machine.run("exclave", "status", "--json")
    try:
        found: dict[str, Any] = json.loads(done.output)
    except ValueError:
        return {}
    return found


async def codes_of(machine: AnyMachine) -> list[str] | None:
    """The codes of the problems in its status; None without an agent."""
    status = await status_of(machine)
    return [problem["code"] for problem in status["problems"]] if status else None


async def wait_codes(machine: AnyMachine, accept: Callable[[object], bool]) -> None:
    """Wait until the codes of its problems are as they should be."""
    with trio.fail_after(LIMIT):
        await eventually("problems", lambda: codes_of(machine), accept, 0.5)


def begin_with_clock(codes: object) -> bool:
    """True if a wrong clock is the first problem: it explains others, such as certificates that are not valid yet."""
    return isinstance(codes, list) and codes[:1] == ["clock-skew"]


async def is_meshed(lab: Lab, machine: AnyMachine, *codes: str) -> None:
    """It has these problems and no other, is ready, and its own requests have its identity."""
    await wait_codes(machine, lambda found: found == list(codes))
    await lab.wait_ready(machine)
    assert (await fetch_inside(machine, POD_BY_ADDRESS))["client_id"] == identity_of(mesh.GROUP)


async def fetch_inside(machine: AnyMachine, url: str, patience: float = 5.0) -> dict[str, Any]:
    """The JSON that a server answers to a program on the machine."""
    ask = (
        "import sys, urllib.request\n"
        "print(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode())"
    )
    answer: dict[str, Any] = json.loads(await machine.must("/usr/bin/python3", "-I", "-c", ask, url, str(patience)))
    return answer


async def proxy_pids(machine: BootedMachine) -> set[str]:
    """Processes of the proxy's user."""
    return set((await machine.run("pgrep", "--euid", "exclave-proxy")).output.decode().split())


async def nothing_runs(machine: BootedMachine) -> None:
    """No process, table or link of exclave, and no failed unit of it."""
    assert await proxy_pids(machine) == set()
    assert "exclave" not in await machine.must("nft", "list", "tables")
    assert "exclave" not in await machine.must("ip", "-brief", "link")
    # The brackets keep the pattern from matching the command that runs pgrep.
    assert (await machine.run("pgrep", "--full", "/(usr/lib|usr/bin|run)/[e]xclave|[n]ft -i")).output == b""
    assert "exclave" not in await machine.must("systemctl", "list-units", "--failed", "--no-legend")


@asynccontextmanager
async def open_lab(installed: Installed, lifetime: str = "24h") -> AsyncIterator[Lab]:
    """A stage for machines; `lifetime`: of certificates."""
    # The kernel removes the links of the stage before some time after that has ended.
    with trio.fail_after(LIMIT):
        await eventually("no link but lo", _other_links, lambda links: links == [], 0.1)
    async with open_stage(lifetime) as stage:
        lab = Lab(stage, installed)
        try:
            yield lab
        except BaseException:
            for log in ("controller.log", "destination.log"):
                sys.stderr.write(f"== {log}\n{(stage.scratch / log).read_text(errors='replace')[-2000:]}\n")
            raise


async def _other_links() -> list[str]:
    return [name for _, name in socket.if_nameindex() if name != "lo"]


async def client_of(lab: Lab, machine: BootedMachine, address: str = "") -> str | None:
    """The identity with which a request of the pod arrives on the machine."""
    url = f"http://{address or machine.address}:{mesh.GROUP_PORT}/"
    return (await fetch(lab.stage.pod, url))["client_id"]  # type: ignore[no-any-return]
