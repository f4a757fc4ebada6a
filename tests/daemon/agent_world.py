"""An agent with boots and departures that only leave a trace, and with what it notifies systemd of."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exclave.config import Config, Paths
from exclave.daemon import process as life
from exclave.daemon.parts import Parts
from exclave.daemon.process import Agent
from exclave.ending import Ending
from exclave.errors import HostError
from exclave.member.record import MembershipRecord, forget_membership, store_membership
from support.mesh import RECORD


class World:
    """An agent, and what its boots and departures were; a boot that leaves forgets the membership."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, watchdog: float = inf) -> None:
        self.config = Config(Paths(folder, folder / "run"))
        (folder / "run").mkdir()
        self.state = folder
        self.now = 1_800_000_000.0
        self.host_error: HostError | None = None  # of the check before each boot
        self.agent = Agent(self.config, lambda: self.now, watchdog, check=self._check, waits_for_host=True)
        self.trace: list[str] = []
        self.boots: list[Parts] = []
        self.closing = trio.Event()  # a boot does not end before
        self.closing.set()
        monkeypatch.setattr(life, "serve", self._serve)
        monkeypatch.setattr(life, "depart", self._depart)
        self.statuses: list[str] = []
        self.job: str | None = None  # of our unit, as systemd would list it
        monkeypatch.setattr(life, "notify", self._notify)
        monkeypatch.setattr(life, "read_own_job", self._read_own_job)

    def _notify(self, *assignments: str) -> None:
        for one in assignments:
            if one.startswith("STATUS="):
                self.statuses.append(one.removeprefix("STATUS="))
            else:
                self.trace.append(one)

    async def _check(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        if self.host_error is not None:
            raise self.host_error
        return []

    async def _read_own_job(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.job

    async def _serve(self, parts: Parts, config: Config, now: object) -> None:
        self.trace.append(f"boot {parts.record.member}")
        self.boots.append(parts)
        parts.ending = await parts.endings.wait()
        await self.closing.wait()
        self.trace.append(f"boot ends: {parts.endings.value.value}")
        if parts.endings.value is Ending.LEAVE:
            forget_membership(self.state)

    async def _depart(self, record: MembershipRecord, config: Config, now: object) -> list[str]:
        self.trace.append(f"departs {record.member}")
        forget_membership(self.state)
        return [f"Member {record.namespace}/{record.member}"]

    @asynccontextmanager
    async def living(self, record: MembershipRecord | None = RECORD) -> AsyncIterator[trio.Nursery]:
        if record is not None:
            store_membership(self.state, record)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.agent.run)
            await trio.testing.wait_all_tasks_blocked()
            yield nursery
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def ask(self, command: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []

        async def reply(object_: dict[str, Any]) -> None:
            await trio.lowlevel.checkpoint()
            told.append(object_)

        await self.agent.answer(command, reply)
        return told
