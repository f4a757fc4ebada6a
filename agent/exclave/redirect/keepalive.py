"""The keepalive table `inet exclave-guard`: connections survive a flush of all rules. It captures nothing.

`flush ruleset` spares a table with an owner, and the kernel removes it when its owner ends. The owner is `nft -i`,
which outlives a hand-over. A host may not support such tables. Source: nft(8); linux/netfilter/nf_tables.h.
"""

import json
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.accepting import is_shortage
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.host.gated import (
    GATE,
    GatedProcess,
    HeldProcess,
    adopt_process,
    make_record,
    open_high_pipe,
    start_gated,
)
from exclave.kit.host.process_identity import ProcessRecord, parse_process
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.link.layout import KEEPALIVE_TABLE
from exclave.milestones import Starting, Withdrawing, log_milestone
from exclave.redirect.kernel.observe import find_error

log = logging.getLogger(__name__)


FILE = "guard.json"

COMMANDS = (
    f"add table inet {KEEPALIVE_TABLE} {{ flags owner; chain kept {{ "
    "type nat hook prerouting priority -90; policy accept; ct state invalid accept; }; }\n"
    f"list table inet {KEEPALIVE_TABLE}\n"
)
"""Two lines for `nft -i`: make the table, then list it. One line would list it before the kernel has it."""

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

ANSWER_TIME = 10.0  # seconds that nft may take to make the table
END_TIME = 10.0  # seconds for the process to end after SIGKILL
SETTLED = 60.0  # seconds after which the end of a process counts as the first one

PAUSES = Backoff(first=1.0, most=60.0, jitter=0.0)

# nft reads commands from 3. The process also has the writing end, as 4, so nft never reaches the end of the file.
_COMMAND = f'{GATE}; cd /; exec "$0" -i <&3 3<&-'
_ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C", "HOME": "/dev/null"}  # nft -i finds no folder for a history


class _Keepalive:
    """Supervises the keepalive process. After its end it is replaced, with growing pauses."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE
        self._process: HeldProcess | None = None
        self._is_unsupported = False
        self._is_hidden = False  # an agent with more rights started the process that runs

    def adopt(self) -> None:
        try:
            self._process = _adopt(self._path)
        except PermissionError:
            self._is_hidden = True
            log.warning("redirect: a keepalive process runs that can only be ended by: exclave cleanup")
        if self._process is not None:
            log.info("redirect: adopted the keepalive process %d", self._process.pid)

    async def start(self) -> None:
        """Start a process if none runs and the host supports it; never raises HostError."""
        if self._process is not None or self._is_unsupported or self._is_hidden:
            return
        is_temporary = False
        try:
            started = await self._start()
        except (HostError, OSError) as problem:
            started, is_temporary = str(problem), is_shortage(problem)
        if isinstance(started, HeldProcess):
            log_milestone(Starting.KEEPALIVE)
            log.info("redirect: process %d keeps connections alive while others flush all rules", started.pid)
            return
        self._is_unsupported = not is_temporary
        log.warning(
            "redirect: a flush of all rules by others will reset connections: no keepalive process: %s", started
        )
        await self.end()

    async def _start(self) -> HeldProcess | str:
        """Start a process; returns why its table does not exist, if so. Raises HostError, OSError."""
        nft = shutil.which("nft", path=SEARCH_PATH)
        if nft is None:
            return "the program nft is not installed"
        executable = str(Path(nft).resolve())
        gated, answers = _launch(nft)
        log_milestone(Starting.KEEPALIVE_WAITS)
        async with trio.lowlevel.FdStream(answers) as stream:
            await gated.release(lambda pid: self._store_record(make_record(pid, executable)))
            self._process = gated.process  # before any await: a cancelled start must not lose it
            log_milestone(Starting.KEEPALIVE_RELEASED)
            answer = await _read_answer(stream)
        return gated.process if is_owned(answer) else find_error(answer) or "nft did not confirm the table"

    def _store_record(self, record: ProcessRecord) -> None:
        write_atomic(self._path, f"{json.dumps(asdict(record), indent=2)}\n".encode())

    async def run(self) -> None:
        attempts = Attempts(settled=SETTLED)
        while not (self._is_unsupported or self._is_hidden):
            began = trio.current_time()
            if self._process is not None:
                await self._process.wait()
                log.warning("redirect: the keepalive process %d has ended; another follows", self._process.pid)
                self.release()
            await trio.sleep(attempts.failed(PAUSES, 0.0, ran_for=trio.current_time() - began))
            await self.start()

    async def end(self) -> None:
        if self._is_hidden:
            return  # its record stays, for exclave cleanup
        await _end(self._process, self._path)
        self._process = None

    def release(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


@asynccontextmanager
async def open_keepalive(runtime: Path, endings: EndingSwitch) -> AsyncIterator[None]:
    """Have the keepalive table while open, if the host supports it. On hand-over its process stays."""
    keepalive = _Keepalive(runtime)
    keepalive.adopt()
    await keepalive.start()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "keepalive", keepalive.run)
            yield
            nursery.cancel_scope.cancel()
    finally:
        if endings.value is Ending.HAND_OVER:
            keepalive.release()
        else:
            with shielded(END_TIME) as scope:
                await keepalive.end()
            if scope.cancelled_caught:
                log.error(
                    "redirect: the keepalive process has not ended %g s after SIGKILL; exclave cleanup tries again",
                    END_TIME,
                )
                keepalive.release()


def find_keepalive(runtime: Path) -> int | None:
    """The pid of the recorded process, if it runs. Raises PermissionError."""
    process = _adopt(runtime / FILE)
    if process is None:
        return None
    process.close()
    return process.pid


async def remove_keepalive(runtime: Path) -> int | None:
    """End the recorded process; returns its pid, None without one. Needs no agent, may be repeated."""
    try:
        process = _adopt(runtime / FILE)
    except PermissionError:
        log.warning("redirect: the keepalive process can only be ended by: exclave cleanup")
        return None
    await _end(process, runtime / FILE)
    return process.pid if process is not None else None


def _adopt(path: Path) -> HeldProcess | None:
    try:
        record = parse_process(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        log.warning("redirect: %s cannot be read, so no keepalive process is adopted: %s", path, problem)
        return None
    found = adopt_process(record)
    if isinstance(found, str):
        log.info("redirect: no keepalive process adopted: %s", found)
        return None
    return found


def _launch(nft: str) -> tuple[GatedProcess, int]:
    """Start the process; also returns the descriptor of its answers. Raises OSError."""
    commands, commands_end = open_high_pipe()
    answers, answers_end = open_high_pipe()
    try:
        os.write(commands_end, COMMANDS.encode())
        gated = start_gated(
            "/bin/sh",
            ["sh", "-c", _COMMAND, nft],
            _ENVIRONMENT,
            [
                (os.POSIX_SPAWN_DUP2, answers_end, 1),
                (os.POSIX_SPAWN_DUP2, answers_end, 2),
                (os.POSIX_SPAWN_DUP2, commands, 3),
                (os.POSIX_SPAWN_DUP2, commands_end, 4),
            ],
        )
    except OSError:
        os.close(answers)
        raise
    finally:
        for end in (commands, commands_end, answers_end):
            os.close(end)
    return gated, answers


async def _read_answer(answers: trio.lowlevel.FdStream) -> str:
    """nft's output, once it is a whole listing or an error, or after ANSWER_TIME."""
    received, answer = b"", ""
    with trio.move_on_after(ANSWER_TIME):
        while not is_owned(answer) and find_error(answer) is None and (more := await answers.receive_some()):
            received += more
            answer = received.decode("utf-8", "replace")
    return answer


def is_owned(answer: str) -> bool:
    """True if the listing shows the table with an owner."""
    lines = [line.strip() for line in answer.splitlines()]
    return answer.endswith("\n}\n") and any(line.startswith("flags owner") for line in lines)


async def _end(process: HeldProcess | None, path: Path) -> None:
    if process is not None:
        process.send(signal.SIGKILL)
        await process.wait()
        process.close()
    remove(path)
    log_milestone(Withdrawing.KEEPALIVE_ENDED)
