"""The door: rules that nobody confirms go back by themselves, in order while an agent lives.

Rules: whoever makes the rules calls `arm` first, which begins the time and notes it on disk. When it is over, `view`
says so, `listing` withdraws this machine, and once its ports are gone, or the grace is over, the rules are told to
capture nothing. That is how it stays, also for the next agent, until somebody confirms, or begins anew.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from exclave.confirm.record import Unconfirmed, forget_unconfirmed, load_unconfirmed, store_unconfirmed
from exclave.confirm.stage import Confirmation, Stage, begin, resume
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.member.client import MemberClient

log = logging.getLogger(__name__)


class Confirming:
    """How far it has come. Made by `open_confirm`."""

    def __init__(self, state: Path, membership: MemberClient, found: Confirmation) -> None:
        self.view: Latest[Confirmation] = Latest(found)
        self._state = state
        self._membership = membership

    def arm(self) -> float | None:
        """What the rules that are about to be made must hold; see `Confirmation.armed_until`. Raises HostError."""
        found = self.view.value
        if found.stage is Stage.WAITING:
            store_unconfirmed(self._state, Unconfirmed(found.seconds, begun=True))
            self._become(begin(found.seconds, trio.current_time()))
        return self.view.value.armed_until

    def confirm(self) -> bool:
        """Somebody has confirmed; whether there was anything to confirm. Raises HostError."""
        forget_unconfirmed(self._state)
        was_asked = self.view.value.stage is not Stage.CONFIRMED
        if was_asked:
            self._become(Confirmation())
        return was_asked

    async def run(self) -> None:
        """Let the time run, for as long as there is anything to confirm."""
        while (found := self.view.value).stage is not Stage.CONFIRMED:
            if found.stage is Stage.RUNNING:
                with trio.move_on_at(found.ends):
                    await self._wait_change(found)
                    continue
                self._become(Confirmation(Stage.WITHDRAWING, found.seconds, found.kernel_end))
            elif found.stage is Stage.WITHDRAWING:
                with trio.move_on_at(found.kernel_end):
                    await self._wait_withdrawn(found)
                if self.view.value is found:
                    self._become(Confirmation(Stage.OVER, found.seconds))
            else:
                await self._wait_change(found)

    async def _wait_change(self, found: Confirmation) -> None:
        await self.view.wait_for(lambda newest: newest is not found)

    async def _wait_withdrawn(self, found: Confirmation) -> None:
        """Return when no port is listed, or somebody has confirmed."""
        async with open_bare_nursery() as nursery:

            async def confirmed() -> None:
                await self._wait_change(found)
                nursery.cancel_scope.cancel()

            nursery.start_soon(confirmed)
            await self._membership.view.wait_for(
                lambda view: view is not None and not view.serving and not view.workload_ports
            )
            nursery.cancel_scope.cancel()

    def _become(self, found: Confirmation) -> None:
        log.log(
            logging.WARNING if found.text else logging.INFO, "confirm: [stage=%s] %s", found.stage.value, found.text
        )
        self.view.set(found)


@asynccontextmanager
async def open_confirm(state: Path, membership: MemberClient, left: float | None) -> AsyncIterator[Confirming]:
    """Let rules that are to be confirmed end in time, while open. `left`: seconds that those in the kernel have."""
    record = load_unconfirmed(state)
    found = Confirmation() if record is None else resume(record.seconds, record.begun, left, trio.current_time())
    confirming = Confirming(state, membership, found)
    if found.is_withdrawn:
        log.warning("confirm: [stage=%s] %s", found.stage.value, found.text)
    async with open_bare_nursery() as nursery:
        nursery.start_soon(supervise, "confirm", confirming.run)
        yield confirming
        nursery.cancel_scope.cancel()
