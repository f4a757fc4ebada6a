"""The redirecting part of an agent, as a process inside a machine: link, keepalive process and rules.

It shows what a door in the test's own process cannot: events of the machine's network, and what a killed agent leaves.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from exclave.redirect.rules.policy import RedirectPolicy
from exclave_sandbox.stage.namespaces import Machine

TOP = Path(__file__).resolve().parents[2]

PROGRAM = Path(__file__).with_name("programs") / "redirect_agent.py"


@dataclass
class AgentProcess:
    """The process. `logs` are the lines that it has logged."""

    running: "subprocess.Popen[bytes]"
    logs: list[str] = field(default_factory=list)
    _heard: bytes = b""

    def __post_init__(self) -> None:
        assert self.running.stdout is not None
        self.pid = self.running.pid  # nsenter executes the program in its own process
        self._stream = trio.lowlevel.FdStream(os.dup(self.running.stdout.fileno()))
        self.running.stdout.close()

    async def wait(self, what: str) -> Any:
        """Wait until it prints an event: `up`, `draining`, `closed` or `log`."""
        with trio.fail_after(30):
            while True:
                event = json.loads(await self._read_line())
                self.logs += [event["log"]] if "log" in event else []
                if what in event:
                    return event[what]

    async def _read_line(self) -> bytes:
        while b"\n" not in self._heard:
            more = await self._stream.receive_some()
            assert more, f"it has ended; its log: {self.logs}"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    async def wait_log(self, beginning: str) -> str:
        """Wait for a log line."""
        while not (line := str(await self.wait("log"))).startswith(beginning):
            pass
        return line

    def send(self, word: str) -> None:
        """Send an ending; while it drains, any line means that the proxy has ended."""
        assert self.running.stdin is not None
        self.running.stdin.write(f"{word}\n".encode())
        self.running.stdin.flush()

    async def end(self, word: str) -> None:
        """Ask for an ending, and wait until it is over."""
        self.send(word)
        await self.wait("draining")
        self.send("the proxy has ended")
        await self.wait("closed")
        self.running.wait()

    def kill(self) -> None:
        """kill -9."""
        self.running.kill()
        self.running.wait()


async def start_agent(machine: Machine, runtime: Path, policy: RedirectPolicy) -> AgentProcess:
    """Start the process, and wait until its rules are in the kernel."""
    environment = {**os.environ, "PYTHONPATH": str(TOP / "agent"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    inside = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", "--"]
    agent = AgentProcess(
        subprocess.Popen(
            [*inside, sys.executable, str(PROGRAM), str(runtime), repr(policy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
    )
    await agent.wait("up")
    return agent
