"""Decides which changes are reported as Kubernetes Events: of a condition, of the data path, of a cordon. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.api.member import CLONED, Condition, MemberView
from exclave.api.names import settings_name
from exclave.api.requests import EVENTS, Object, Resource
from exclave.kit.formats.times import rfc3339_micro

REPORTER = "exclave.dev/controller"
LONGEST_NOTE = 1024
NOT_REPORTED = frozenset({"Registered", "NoHeartbeat"})  # reasons of new conditions that every admission brings
BAD_DATA_PATHS = frozenset({"outbound-open", "down"})


@dataclass(frozen=True)
class Subject:
    """The object of an Event; namespace or uid is "" if it has none, or if it is unknown."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


def subject_of(resource: Resource, found: Object) -> Subject:
    """An object as the subject of an Event."""
    metadata = found["metadata"]
    namespace, uid = str(metadata.get("namespace") or ""), str(metadata.get("uid") or "")
    return Subject(resource.api_version, resource.kind, namespace, str(metadata["name"]), uid)


@dataclass(frozen=True)
class EventDraft:
    """An Event before it is written: a fixed word and a sentence."""

    reason: str
    note: str
    is_bad: bool


def member_events(before: MemberView | None, after: MemberView) -> list[EventDraft]:
    """The Events for a change of a Member. A new Member, also one under an old name, has none."""
    if before is None or before.uid != after.uid:
        return []
    found = []
    for old, new in (
        (before.admitted, after.admitted),
        (before.registered, after.registered),
        (before.live, after.live),
        (before.cloned, after.cloned),
        (before.certified, after.certified),
    ):
        if new is None or (old is None and new.reason in NOT_REPORTED):
            continue
        if old is None or (old.status, old.reason) != (new.status, new.reason):
            found.append(EventDraft(new.reason, f"{new.type}: {new.message}", _is_bad(new)))
    if before.data_path and before.data_path != after.data_path:
        is_bad = after.data_path in BAD_DATA_PATHS
        why = f": {after.data_path_reason}" if is_bad and after.data_path_reason else ""
        found.append(EventDraft("DataPath", f"the data path is {after.data_path}, was {before.data_path}{why}", is_bad))
    if before.cordoned != after.cordoned:
        word = "Cordoned" if after.cordoned else "Uncordoned"
        found.append(EventDraft(word, f"an admin has {word.lower()} it", is_bad=False))
    if not before.deleting and after.deleting:
        found.append(EventDraft("Leaving", "its Member is being deleted", is_bad=False))
    return found


def group_events(before: Condition | None, after: Condition) -> list[EventDraft]:
    """The Events for a change of a group's condition Accepted."""
    if before is not None and (before.status, before.reason) == (after.status, after.reason):
        return []
    is_bad = not after.status and after.reason != "Deleting"
    return [EventDraft(after.reason, f"{after.type}: {after.message}", is_bad)]


def settings_event(group: str) -> EventDraft:
    """The Event about a group's settings that somebody else has changed or deleted."""
    return EventDraft(
        "SettingsRepaired",
        f"somebody has changed or deleted ConfigMap {settings_name(group)}; it is written again, and no machine uses "
        "what was in it: check who may write ConfigMaps here",
        is_bad=True,
    )


def source_events(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, EventDraft]]:
    """The Events for changes of faults, each with the name of its source."""
    refused = [
        (what, EventDraft("Refused", f"not used, the last good value stays in use: {fault}", is_bad=True))
        for what, fault in sorted(after.items())
        if before.get(what) != fault
    ]
    mended = [
        (what, EventDraft("Accepted", "it can be used again", is_bad=False)) for what in sorted(before.keys() - after)
    ]
    return refused + mended


def admission_event(fault: str | None) -> EventDraft:
    """The Event for a changed fault of the admission policies, None if they are as installed."""
    if fault is None:
        return EventDraft(
            "GuardStands", "the admission policies stand: members are admitted, and certified again", False
        )
    return EventDraft("GuardMissing", f"nobody is admitted and no certificate is signed: {fault}", is_bad=True)


def event_object(
    subject: Subject, related: Subject | None, draft: EventDraft, instance: str, suffix: str, now: float
) -> Object:
    """An Event about an object. `suffix` makes its name unique. Source: k8s.io/api/events/v1/types.go."""
    beside = {} if related is None else {"related": _reference(related)}
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{subject.name}.{suffix}", "namespace": subject.namespace},
        "eventTime": rfc3339_micro(now),
        "reportingController": REPORTER,
        "reportingInstance": instance,
        "action": "Reconcile",
        "reason": draft.reason,
        "type": "Warning" if draft.is_bad else "Normal",
        "note": draft.note[:LONGEST_NOTE],
        "regarding": _reference(subject),
        **beside,
    }


def _reference(subject: Subject) -> Object:
    found = {"apiVersion": subject.api_version, "kind": subject.kind, "name": subject.name}
    return found | {key: value for key, value in (("namespace", subject.namespace), ("uid", subject.uid)) if value}


def _is_bad(condition: Condition) -> bool:
    return condition.status if condition.type == CLONED else not condition.status and condition.reason != "NoHeartbeat"
