"""Rules that are removed unless a person confirms them in time. Confirming works in every stage.

    waiting ── rules loaded ──► running ── time over ──► withdrawing ── ports unlisted ──► over

The rules capture nothing once the ports are unlisted, or after `grace`, when the kernel's own timer ends.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import trio

from exclave.kit.formats.json_text import parse_json
from exclave.kit.formats.times import format_duration
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.member.client import MemberClient

log = logging.getLogger(__name__)

FILE = "unconfirmed.json"  # exists while rules are unconfirmed; in the state folder, since a reboot confirms nothing
LONGEST_GRACE = 15.0  # seconds


@dataclass(frozen=True)
class Unconfirmed:
    """Rules may stay for `seconds` without a confirmation. `begun`: that time has begun, or is over."""

    seconds: float
    begun: bool = False


def store_unconfirmed(state: Path, record: Unconfirmed) -> None:
    """Write the record. Raises HostError."""
    write_atomic(state / FILE, (json.dumps(asdict(record)) + "\n").encode())


def load_unconfirmed(state: Path) -> Unconfirmed | None:
    """Read the record; None if there is none. A damaged one counts as rules whose time is over."""
    try:
        tree = parse_json((state / FILE).read_text(encoding="utf-8"))
        return Unconfirmed(float(tree["seconds"]), bool(tree["begun"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, OverflowError, TypeError):
        return Unconfirmed(0.0, begun=True)


def forget_unconfirmed(state: Path) -> bool:
    """Remove the record, which confirms the rules; returns whether there was one. Raises HostError."""
    there = (state / FILE).exists()
    remove(state / FILE)
    return there


class Stage(Enum):
    """A stage; its value is the word in the log."""

    CONFIRMED = "confirmed"  # or no confirmation was required
    WAITING = "waiting"
    RUNNING = "running"
    WITHDRAWING = "withdrawing"
    OVER = "over"


@dataclass(frozen=True)
class Confirmation:
    """A stage. `seconds`: never extended; `kernel_end`: when the kernel's timer ends (monotonic; 0: it has)."""

    stage: Stage = Stage.CONFIRMED
    seconds: float = 0.0
    kernel_end: float = 0.0

    @property
    def grace(self) -> float:
        """Seconds from the end of the time to the end of the kernel's timer, which works without an agent, too."""
        return min(self.seconds, LONGEST_GRACE)

    @property
    def ends(self) -> float:
        """The end of the time to confirm."""
        return self.kernel_end - self.grace

    @property
    def armed_until(self) -> float | None:
        """The end of the kernel's timer in the rules. None: no end; 0: they capture nothing."""
        if self.stage is Stage.CONFIRMED:
            return None
        return 0.0 if self.stage is Stage.OVER else self.kernel_end

    @property
    def is_withdrawn(self) -> bool:
        """True if pods must not connect any more."""
        return self.stage in (Stage.WITHDRAWING, Stage.OVER)

    @property
    def text(self) -> str:
        """The stage for a person; "" if there is nothing to confirm."""
        length = format_duration(self.seconds)
        if self.stage is Stage.CONFIRMED:
            return ""
        if self.is_withdrawn:
            return f"the rules were not confirmed within {length}, so nothing is captured"
        return f"the rules are removed {length} after they were loaded, unless somebody confirms them"


def begin(seconds: float, now: float) -> Confirmation:
    """The stage when rules are loaded."""
    return Confirmation(Stage.RUNNING, seconds, now + seconds + min(seconds, LONGEST_GRACE))


def resume(seconds: float, begun: bool, left: float | None, now: float) -> Confirmation:
    """The stage after an earlier agent. `left`: seconds on the kernel's timer, None or 0 if it has ended."""
    if not begun:
        return Confirmation(Stage.WAITING, seconds)
    return Confirmation(Stage.RUNNING, seconds, now + left) if left else Confirmation(Stage.OVER, seconds)


class Confirming:
    """The stage of this machine, in `view`. Made by `open_confirm`."""

    def __init__(self, state: Path, membership: MemberClient, found: Confirmation) -> None:
        self.view: Latest[Confirmation] = Latest(found)
        self._state = state
        self._membership = membership

    def arm(self) -> float | None:
        """Start the time if it has not begun; returns `armed_until`. Call before loading rules. Raises HostError."""
        found = self.view.value
        if found.stage is Stage.WAITING:
            # On disk first: after a crash, the rules must not get the time again.
            store_unconfirmed(self._state, Unconfirmed(found.seconds, begun=True))
            self._set(begin(found.seconds, trio.current_time()))
        return self.view.value.armed_until

    def confirm(self) -> bool:
        """Confirm; returns whether there was anything to confirm. Raises HostError."""
        forget_unconfirmed(self._state)
        was_asked = self.view.value.stage is not Stage.CONFIRMED
        if was_asked:
            self._set(Confirmation())
        return was_asked

    async def run(self) -> None:
        """Go through the stages until the rules are confirmed."""
        while (found := self.view.value).stage is not Stage.CONFIRMED:
            if found.stage is Stage.RUNNING:
                with trio.move_on_at(found.ends):
                    await self._wait_change(found)
                    continue
                self._set(Confirmation(Stage.WITHDRAWING, found.seconds, found.kernel_end))
            elif found.stage is Stage.WITHDRAWING:
                with trio.move_on_at(found.kernel_end):
                    await self._wait_withdrawn(found)
                if self.view.value is found:
                    self._set(Confirmation(Stage.OVER, found.seconds))
            else:
                await self._wait_change(found)

    async def _wait_change(self, found: Confirmation) -> None:
        await self.view.wait_for(lambda newest: newest is not found)

    async def _wait_withdrawn(self, found: Confirmation) -> None:
        """Return when no port is listed, or the rules are confirmed."""
        async with open_bare_nursery() as nursery:

            async def confirmed() -> None:
                await self._wait_change(found)
                nursery.cancel_scope.cancel()

            nursery.start_soon(confirmed)
            await self._membership.view.wait_for(
                lambda view: view is not None and not view.serving and not view.workload_ports
            )
            nursery.cancel_scope.cancel()

    def _set(self, found: Confirmation) -> None:
        level = logging.WARNING if found.text else logging.INFO
        log.log(level, "confirm: [stage=%s] %s", found.stage.value, found.text)
        self.view.set(found)


@asynccontextmanager
async def open_confirm(state: Path, membership: MemberClient, left: float | None) -> AsyncIterator[Confirming]:
    """Remove unconfirmed rules in time, while open. `left`: seconds on the kernel's timer."""
    record = load_unconfirmed(state)
    found = Confirmation() if record is None else resume(record.seconds, record.begun, left, trio.current_time())
    confirming = Confirming(state, membership, found)
    if found.is_withdrawn:
        log.warning("confirm: [stage=%s] %s", found.stage.value, found.text)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "confirm", confirming.run)
        yield confirming
        nursery.cancel_scope.cancel()
