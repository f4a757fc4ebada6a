"""Turns what the controller finds into Events: it remembers what was reported last, and reports what changed."""

from collections.abc import Mapping

from exclave.api.member import Condition, MemberView, conditions_of, view_member
from exclave.api.requests import MEMBERS, WORKLOAD_GROUPS, Object
from exclave.controller.policy.snapshot import Key
from exclave.controller.telemetry.event_writer import EventWriter
from exclave.controller.telemetry.events import (
    Subject,
    admission_event,
    group_events,
    member_events,
    source_events,
    subject_of,
)


class Notifier:
    """Reports changes of members, groups, sources and admission policies. `sources`: the object of each source."""

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
        """Report what is wrong with the admission policies, None if nothing, as an Event on `policy`."""
        subject = Subject(policy["apiVersion"], policy["kind"], "", policy["metadata"]["name"])
        self._events.put_elsewhere_nowait(subject, admission_event(fault))

    def report_member(self, key: Key, member: Object) -> None:
        """Report what changed in a Member."""
        before, after = self._members.get(key), view_member(member)
        self._members[key] = after
        self._events.put_nowait(subject_of(MEMBERS, member), member_events(before, after))

    def report_group(self, key: Key, group: Object, condition: Condition) -> None:
        """Report a group whose condition Accepted changed. At first, `condition` is compared with its status."""
        conditions = conditions_of(group)
        stored = next((one for one in conditions if one.type == condition.type), None)
        drafts = group_events(self._groups.get(key, stored), condition)
        self._groups[key] = condition
        self._events.put_nowait(subject_of(WORKLOAD_GROUPS, group), drafts)

    def forget_member(self, key: Key) -> None:
        """Drop what was reported of a Member that is gone."""
        self._members.pop(key, None)

    def forget_group(self, key: Key) -> None:
        """Drop what was reported of a group that is gone."""
        self._groups.pop(key, None)
