"""Writes Events one after the other. Nothing waits for them, and an Event that cannot be written is logged instead."""

import logging
import secrets
from collections.abc import Iterable

import trio

from exclave.api.names import CONTROLLER
from exclave.api.requests import DEPLOYMENTS, EVENTS, create
from exclave.controller.leader.lead import Sender
from exclave.controller.telemetry.events import EventDraft, Subject, event_object
from exclave.errors import ClusterError
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

MOST = 4000
"""Events that may wait: 1,000 machines that join at once cause about three each. More are logged only."""


class EventWriter:
    """The Events that wait to be written, by the controller in this namespace."""

    def __init__(self, cluster: Sender, namespace: str, now: Now) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._now = now
        self._send, self._receive = trio.open_memory_channel[tuple[Subject, Subject | None, EventDraft, float]](MOST)

    def put_nowait(self, subject: Subject, drafts: Iterable[EventDraft]) -> None:
        """Write Events about an object."""
        for draft in drafts:
            self._add_nowait(subject, None, draft)

    def put_elsewhere_nowait(self, subject: Subject, draft: EventDraft) -> None:
        """Write an Event about an object in a namespace where the controller may write no Events."""
        if subject.namespace == self._namespace:
            self._add_nowait(subject, None, draft)
        else:
            controller = Subject(DEPLOYMENTS.api_version, DEPLOYMENTS.kind, self._namespace, CONTROLLER)
            self._add_nowait(controller, subject, draft)

    def _add_nowait(self, subject: Subject, related: Subject | None, draft: EventDraft) -> None:
        try:
            self._send.send_nowait((subject, related, draft, self._now()))
        except trio.WouldBlock:
            _log(related or subject, draft, "too many wait")

    async def run(self) -> None:
        """Write Events for ever."""
        async for subject, related, draft, when in self._receive:
            event = event_object(subject, related, draft, self._namespace, secrets.token_hex(8), when)
            try:
                await self._cluster.send(create(EVENTS, subject.namespace, event))
            except ClusterError as problem:
                _log(related or subject, draft, str(problem))


def _log(subject: Subject, draft: EventDraft, why: str) -> None:
    place = "/".join(part for part in (subject.namespace, subject.name) if part)
    log.info("%s %s: %s: %s (no Event: %s)", subject.kind, place, draft.reason, draft.note, why)
