"""The cost of an idle agent: imports, memory, processor time; `python -m tests.bench.resident NAME`."""

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import trio
from tests.bench.figures import heading, median_of, note, row

from exclave_sandbox.demo.membership import JoinScenes
from exclave_sandbox.stage.stage import DemoStage, open_stage

LIBRARIES = "import cryptography.x509, dns.message, h2.connection, httpx, jwcrypto.jwe, netifaces, psutil, ssl, trio"
CONNECTED = Path(__file__).with_name("programs") / "hold_connection.py"
"""The libraries with one connection to an API server: what any agent made of them has at least."""

STANDING = 20.0
"""Seconds over which a ready agent is measured."""

TRACED = 15
"""Seconds of counting its system calls, after that, since tracing costs time, too."""

MB = 1e6


def seconds_of(code: str) -> float:
    return median_of(7, lambda: subprocess.run([sys.executable, "-c", code], check=True))


async def stand() -> None:
    """Print the cost of an agent, before it is a member and while it is ready."""
    async with open_stage("24h") as stage:
        joining = JoinScenes(stage)
        await joining.outside()
        await joining.make_token()
        peer = subprocess.Popen(
            [
                sys.executable,
                str(CONNECTED),
                f"{stage.api.url}/api",
                str(stage.scratch / "ca.pem"),
            ],
            stdout=subprocess.PIPE,
        )
        assert peer.stdout is not None
        await trio.to_thread.run_sync(peer.stdout.readline)
        least = psutil.Process(peer.pid).memory_info().rss
        peer.kill()
        peer.wait()
        started = stage.vm.start_agent()
        await stage.vm.wait_idle()
        agent = psutil.Process(started.pid)
        row("memory (RSS), no member", agent.memory_info().rss / MB, "MB", least / MB)
        await joining.join()
        await trio.sleep(5.0)  # the last of the boot
        row("memory (RSS), ready", agent.memory_info().rss / MB, "MB", least / MB)
        row("memory of its own (USS), ready", agent.memory_full_info().uss / MB, "MB")
        row("open files, ready", agent.num_fds(), "")
        row("threads, ready", agent.num_threads(), "")
        before, switches, began = seconds_used(agent), agent.num_ctx_switches(), time.perf_counter()
        children = await count_children(stage)
        await trio.sleep(STANDING)
        took = time.perf_counter() - began
        used = seconds_used(agent) - before
        row("processor, ready and without traffic, with its programs", 100 * used / took, "%")
        row("wake-ups a second", (agent.num_ctx_switches().voluntary - switches.voluntary) / took, "")
        row("programs started a minute", 60 * (await count_children(stage) - children - 1) / took, "")
        if shutil.which("strace"):
            calls = await trio.to_thread.run_sync(count_calls, started.pid)
            row("system calls a second, with those of its programs", calls / TRACED, "")


def seconds_used(agent: psutil.Process) -> float:
    """The processor time of the agent and of its ended programs, in seconds."""
    own = sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{agent.pid}/task").glob("*/schedstat"))
    times = agent.cpu_times()
    return own / 1e9 + times.children_user + times.children_system


def count_calls(pid: int) -> int:
    """The system calls of a process and its children in `TRACED` seconds."""
    command = ["timeout", "--signal=INT", str(TRACED), "strace", "-c", "-f", "-p", str(pid)]
    table = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    total = next(line.split() for line in reversed(table) if line.endswith(" total"))
    return int(total[3])


async def count_children(stage: DemoStage) -> int:
    """The pid of the newest process in the machine. Each call starts one itself."""
    return int(await stage.vm.machine.must("cat", "/proc/sys/kernel/ns_last_pid"))


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    heading(f"An agent with {sys.argv[1]}, Python {sys.version.split()[0]}")
    bare = seconds_of("pass")
    libraries = seconds_of(LIBRARIES)
    row("start of Python and imports: exclave run", seconds_of("import exclave.daemon.process"), "s", libraries)
    row(
        "start of Python and imports: exclave status",
        seconds_of("import exclave.cli.main, exclave.control.client"),
        "s",
        bare,
    )
    note("peers: the libraries alone; Python alone; in memory, the libraries with one idle connection")
    trio.run(stand, strict_exception_groups=True)


if __name__ == "__main__":
    main()
