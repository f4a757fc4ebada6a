"""What is told about a member as Kubernetes Events: for `kubectl describe` and whoever collects them. Pure.

Rules: one Event for a change of a condition's status or reason, and of the data path; never for a time alone. Only the
controller writes them, since machines may not. Bad news are Warnings.
"""

from dataclasses import dataclass

from exclave.cluster.requests import EVENTS, MEMBERS, Object
from exclave.member.spec import CLONED, Condition, MemberView, rfc3339_micro

REPORTER = "exclave.dev/controller"
LONGEST_NOTE = 1024
OF_COURSE = frozenset({"Registered", "NoHeartbeat"})
"""What every admission brings with it, and nobody needs to be told."""

BAD_DATA_PATHS = frozenset({"outbound-open", "down"})


@dataclass(frozen=True)
class Happening:
    """Something to tell: a word for machines, a sentence for people."""

    reason: str
    note: str
    is_bad: bool


def happenings(before: MemberView | None, after: MemberView) -> list[Happening]:
    """What has changed between two views of a Member; nothing is told of one that is met for the first time."""
    if before is None:
        return []
    found = []
    for old, new in (
        (before.admitted, after.admitted),
        (before.registered, after.registered),
        (before.live, after.live),
        (before.cloned, after.cloned),
        (before.certified, after.certified),
    ):
        if new is None or (old is None and new.reason in OF_COURSE):
            continue
        if old is None or (old.status, old.reason) != (new.status, new.reason):
            found.append(Happening(new.reason, f"{new.type}: {new.message}", _is_bad(new)))
    if before.data_path and before.data_path != after.data_path:
        is_bad = after.data_path in BAD_DATA_PATHS
        found.append(Happening("DataPath", f"the data path is {after.data_path}, was {before.data_path}", is_bad))
    if before.cordoned != after.cordoned:
        word = "Cordoned" if after.cordoned else "Uncordoned"
        found.append(Happening(word, f"an admin has {word.lower()} it", is_bad=False))
    if not before.deleting and after.deleting:
        found.append(Happening("Leaving", "its Member is being deleted", is_bad=False))
    return found


def event_object(member: Object, happening: Happening, instance: str, suffix: str, now: float) -> Object:
    """An Event about a Member. `suffix` makes its name its own. Source: k8s.io/api/events/v1/types.go."""
    metadata = member["metadata"]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{metadata['name']}.{suffix}", "namespace": metadata["namespace"]},
        "eventTime": rfc3339_micro(now),
        "reportingController": REPORTER,
        "reportingInstance": instance,
        "action": "Reconcile",
        "reason": happening.reason,
        "type": "Warning" if happening.is_bad else "Normal",
        "note": happening.note[:LONGEST_NOTE],
        "regarding": {
            "apiVersion": MEMBERS.api_version,
            "kind": MEMBERS.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata.get("uid", ""),
        },
    }


def _is_bad(condition: Condition) -> bool:
    return condition.status if condition.type == CLONED else not condition.status and condition.reason != "NoHeartbeat"
