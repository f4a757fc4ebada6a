"""The door to the keepalive table `inet exclave-guard`: a small process owns it, and outlives an agent that hands over.

Rules: one that an earlier agent left is adopted if its record matches in all; else another is started, and what does
not match is neither used nor ended. The process waits at its gate until its record is on disk, so an agent killed at
any moment leaves none without a record. It reads a pipe whose other end it holds itself, so it never sees its end.
One that ends is followed by another, with growing pauses. On leave and stop it is ended, and the kernel removes its
table; on hand over it stays. Where nft or the kernel knows no owners, that is logged, and the agent goes without.
"""

import fcntl
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import HostError
from exclave.kit.host.atomic import remove, write_atomic
from exclave.kit.host.process_identity import ProcessRecord, why_foreign
from exclave.kit.host.procfs import open_pidfd, read_boot_id, view_process
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.milestones import Starting, Withdrawing, tell
from exclave.redirect.keepalive_table import COMMANDS, FILE, is_held, is_whole, parse_record, render_record, why_not

log = logging.getLogger(__name__)

SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

ANSWER_TIME = 10.0
"""Seconds that nft may take to make the table."""

SETTLED = 60.0
"""Seconds that a keepalive process has to live for the next to be started at the first pause."""

PAUSES = Backoff(first=1.0, most=60.0, jitter=0.0)

# Its words come on 3, and 4 is their other end, which it keeps; what it reads from 0 is the gate.
_GATE = 'read -r _ || exit 0; cd /; exec "$0" -i <&3 3<&-'
_ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C", "HOME": "/dev/null"}  # where nft -i finds no place for a history


class _Keeper:
    """Has one keepalive process, and ends it."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / FILE
        self._pid = 0
        self._pidfd: int | None = None
        self._is_refused = False

    def adopt(self) -> None:
        """Hold what an earlier agent has left, if there is something of ours."""
        found = _find_ours(self._path)
        if found is not None:
            self._pid, self._pidfd = found
            log.info("redirect: adopted the keepalive process %d", self._pid)

    async def start(self) -> None:
        """Start a keepalive process, if there is none and one may be had; never raises HostError."""
        if self._pidfd is not None or self._is_refused:
            return
        try:
            reason = await self._start()
        except (HostError, OSError) as problem:
            reason = str(problem)
        if reason is None:
            tell(Starting.KEEPALIVE)
            log.info("redirect: process %d keeps connections alive while others flush all rules", self._pid)
            return
        self._is_refused = True
        log.warning("redirect: a flush of all rules by others will reset connections: no keepalive process: %s", reason)
        await self.end()

    async def _start(self) -> str | None:
        """Start a keepalive process; why there is none. Raises HostError, OSError."""
        nft = shutil.which("nft", path=SEARCH_PATH)
        if nft is None:
            return "the program nft is not installed"
        self._pid, gate, answers = _launch(nft)
        self._pidfd = os.pidfd_open(self._pid)
        tell(Starting.KEEPALIVE_WAITS)
        try:
            view = view_process(self._pid)
            ticks = view.start_ticks if view is not None else 0  # it ended at once: a record that matches nothing
            record = ProcessRecord(self._pid, ticks, read_boot_id(), str(Path(nft).resolve()))
            write_atomic(self._path, render_record(record).encode())
            with suppress(BrokenPipeError):  # it ended already, and says nothing
                os.write(gate, b"\n")
            tell(Starting.KEEPALIVE_RELEASED)
        finally:
            os.close(gate)
            answer = await _read_answer(answers)
        return None if is_held(answer) else why_not(answer) or "nft did not say that it stands"

    async def keep(self) -> None:
        """Have a keepalive process, for ever."""
        attempts = Attempts(settled=SETTLED)
        while not self._is_refused:
            began = trio.current_time()
            if self._pidfd is not None:
                await trio.lowlevel.wait_readable(self._pidfd)
                log.warning("redirect: the keepalive process %d has ended; another follows", self._pid)
                self._let_go()
            await trio.sleep(attempts.failed(PAUSES, 0.0, ran_for=trio.current_time() - began))
            await self.start()

    async def end(self) -> None:
        """End the process, and with it its table."""
        if self._pidfd is not None:
            await _kill(self._pidfd)
            self._let_go()
        remove(self._path)
        tell(Withdrawing.KEEPALIVE_ENDED)

    def leave_running(self) -> None:
        """Let go of the process without ending it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _let_go(self) -> None:
        assert self._pidfd is not None
        _reap(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None


@asynccontextmanager
async def open_keepalive(runtime: Path, endings: EndingSwitch) -> AsyncIterator[None]:
    """Have the keepalive table while open, where that can be had."""
    keeper = _Keeper(runtime)
    keeper.adopt()
    await keeper.start()
    try:
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "keepalive", keeper.keep)
            yield
            nursery.cancel_scope.cancel()
    finally:
        if endings.value is Ending.HAND_OVER:
            keeper.leave_running()
        else:
            with trio.CancelScope(shield=True):
                await keeper.end()


async def remove_keepalive(runtime: Path) -> int | None:
    """End the keepalive process on record, from cold, as often as one likes; its process, None if there was none."""
    found = _find_ours(runtime / FILE)
    if found is not None:
        await _kill(found[1])
        os.close(found[1])
    remove(runtime / FILE)
    tell(Withdrawing.KEEPALIVE_ENDED)
    return found[0] if found is not None else None


def _find_ours(path: Path) -> tuple[int, int] | None:
    """Pid and a pidfd of the process on record; None if it is not ours, or has ended."""
    try:
        record = parse_record(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        log.warning("redirect: %s cannot be read, so no keepalive process is adopted: %s", path, problem)
        return None
    pidfd = open_pidfd(record.pid)
    reason = why_foreign(record, read_boot_id(), view_process(record.pid) if pidfd is not None else None)
    if reason is None and pidfd is not None:
        return record.pid, pidfd
    if pidfd is not None:
        os.close(pidfd)
    log.info("redirect: no keepalive process adopted: %s", reason)
    return None


def _launch(nft: str) -> tuple[int, int, int]:
    """Make the process; its pid, its gate, and where its answers come from. Raises OSError."""
    opened: list[int] = []

    def pipe() -> tuple[int, int]:
        # Above the numbers that the child gives them.
        ends = os.pipe2(os.O_CLOEXEC)
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        opened.extend(high)
        return high[0], high[1]

    behind, gate = pipe()
    words, others = pipe()
    answers, said = pipe()
    try:
        os.write(others, COMMANDS.encode())
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _GATE, nft],
            _ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, behind, 0),
                (os.POSIX_SPAWN_DUP2, said, 1),
                (os.POSIX_SPAWN_DUP2, said, 2),
                (os.POSIX_SPAWN_DUP2, words, 3),
                (os.POSIX_SPAWN_DUP2, others, 4),
            ],
            setsid=True,
            setsigdef=(signal.SIGPIPE,),
        )
    except OSError:
        for end in opened:
            os.close(end)
        raise
    for end in (behind, words, others, said):
        os.close(end)
    return pid, gate, answers


async def _read_answer(answers: int) -> str:
    """What nft says, until it has said all, or for as long as it may take."""
    heard = b""
    async with trio.lowlevel.FdStream(answers) as stream:
        with trio.move_on_after(ANSWER_TIME):
            while not is_whole(heard.decode("utf-8", "replace")):
                more = await stream.receive_some()
                if not more:
                    break
                heard += more
    return heard.decode("utf-8", "replace")


async def _kill(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await trio.lowlevel.wait_readable(pidfd)


def _reap(pidfd: int) -> None:
    with suppress(ChildProcessError):  # an earlier agent's child
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
