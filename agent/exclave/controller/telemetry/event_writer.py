"""Turns the controller's findings into Events, and writes them in order. One that cannot be written is logged."""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

import trio

from exclave.api.member import Condition, MemberView, condition_of, view_member
from exclave.api.names import CONTROLLER
from exclave.api.requests import DEPLOYMENTS, EVENTS, MEMBERS, WORKLOAD_GROUPS, Object, create
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.snapshot import Key
from exclave.controller.telemetry.events import (
    LONGEST_NOTE,
    EventDraft,
    Subject,
    admission_event,
    event_object,
    group_events,
    member_events,
    settings_event,
    source_events,
    subject_of,
)
from exclave.errors import ClusterError
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

MOST_OF_ONE = 20  # Events about one object in `WINDOW`. A member that joins causes three.
WINDOW = 600.0  # seconds
MOST_COUNTED = 10_000  # objects whose Events are counted. Of more, the first are counted anew.
MOST = 4000  # Events that may wait: 1,000 machines that join cause about three each. Others are only logged.


class EventWriter:
    """A queue of Events, written by the controller in this namespace."""

    def __init__(self, cluster: Sender, namespace: str, now: Now) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._now = now
        self._counts: dict[Subject, int] = {}  # of Events since `_counted_from`
        self._counted_from = now()
        self._send, self._receive = trio.open_memory_channel[tuple[Subject, Subject | None, EventDraft, float]](MOST)

    def put_nowait(self, subject: Subject, drafts: Iterable[EventDraft]) -> None:
        """Write Events about an object."""
        for draft in drafts:
            self._add_nowait(subject, None, draft)

    def put_elsewhere_nowait(self, subject: Subject, draft: EventDraft) -> None:
        """Write an Event about an object in a namespace where the controller may not write Events."""
        if subject.namespace == self._namespace:
            self._add_nowait(subject, None, draft)
        else:
            # It may write them in its own namespace and in those with groups. So this one is about its Deployment.
            controller = Subject(DEPLOYMENTS.api_version, DEPLOYMENTS.kind, self._namespace, CONTROLLER)
            self._add_nowait(controller, subject, draft)

    def _add_nowait(self, subject: Subject, related: Subject | None, draft: EventDraft) -> None:
        about = related or subject
        count = self._count(about)
        if count > MOST_OF_ONE:
            if count == MOST_OF_ONE + 1:
                _log(about, draft, f"{MOST_OF_ONE} within {WINDOW:.0f} s are enough, others are left out")
            return
        try:
            # Somebody else may have written a condition with a message of 32 kB, and thousands wait.
            self._send.send_nowait((subject, related, replace(draft, note=draft.note[:LONGEST_NOTE]), self._now()))
        except trio.WouldBlock:
            _log(related or subject, draft, "too many wait")

    def _count(self, about: Subject) -> int:
        """The Events about an object, with this one: whoever writes the object could cause any number."""
        now = self._now()
        if not 0 <= now - self._counted_from < WINDOW:
            self._counts, self._counted_from = {}, now
        self._counts[about] = self._counts.get(about, 0) + 1
        while len(self._counts) > MOST_COUNTED:
            del self._counts[next(iter(self._counts))]
        return self._counts[about]

    async def run(self) -> None:
        """Write Events until cancelled."""
        async for subject, related, draft, when in self._receive:
            event = event_object(subject, related, draft, self._namespace, secrets.token_hex(8), when)
            try:
                await self._cluster.send(create(EVENTS, subject.namespace, event))
            except ClusterError as problem:
                _log(related or subject, draft, str(problem))


class Notifier:
    """Reports changes in members, groups, sources and admission policies once. `sources`: the object of each."""

    def __init__(self, events: EventWriter, sources: Mapping[str, Subject]) -> None:
        self._events = events
        self._sources = sources
        self._members: dict[Key, MemberView] = {}
        self._groups: dict[Key, Condition] = {}
        self._faults: dict[str, str] = {}

    def report_sources(self, faults: Mapping[str, str]) -> None:
        """Report the sources whose fault changed."""
        for source, draft in source_events(self._faults, faults):
            if source in self._sources:
                self._events.put_elsewhere_nowait(self._sources[source], draft)
        self._faults = dict(faults)

    def report_admission(self, policy: Object, fault: str | None) -> None:
        """Report the admission policies' fault, None if there is none any more, as an Event on `policy`."""
        subject = Subject(policy["apiVersion"], policy["kind"], "", policy["metadata"]["name"])
        self._events.put_elsewhere_nowait(subject, admission_event(fault))

    def report_member(self, key: Key, member: Object) -> None:
        """Report the changes in a Member."""
        before, after = self._members.get(key), view_member(member)
        self._members[key] = after
        self._events.put_nowait(subject_of(MEMBERS, member), member_events(before, after))

    def report_group(self, key: Key, group: Object, condition: Condition) -> None:
        """Report a group whose condition Accepted changed. The first `condition` is compared with its status."""
        drafts = group_events(self._groups.get(key, condition_of(group, condition.type)), condition)
        self._groups[key] = condition
        self._events.put_nowait(subject_of(WORKLOAD_GROUPS, group), drafts)

    def report_settings_repair(self, key: Key, group: Object) -> None:
        """Report that somebody else has changed or deleted a group's settings, which are written again now."""
        draft = settings_event(key[1])
        log.warning("%s/%s: %s", *key, draft.note)
        self._events.put_nowait(subject_of(WORKLOAD_GROUPS, group), [draft])

    def forget_member(self, key: Key) -> None:
        """Forget a Member that is gone."""
        self._members.pop(key, None)

    def forget_group(self, key: Key) -> None:
        """Forget a group that is gone."""
        self._groups.pop(key, None)


def _log(subject: Subject, draft: EventDraft, why: str) -> None:
    place = "/".join(part for part in (subject.namespace, subject.name) if part)
    log.info("%s %s: %s: %s (no Event: %s)", subject.kind, place, draft.reason, draft.note, why)
