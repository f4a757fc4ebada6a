"""What changed, in order: the history that watches are served from. Pure: bytes and clocks are elsewhere.

Rules: every change has its own revision; the last `window` changes of each kind are kept, and whoever asks for what
followed an older revision is told that it has expired (410). Followers are called in the order of the changes, while
the write that made them is still under way, and must not wait. A follower names its scope (kind, perhaps namespace,
perhaps name), so that a change costs as much as it has listeners, however many others there are.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from exclave_sandbox.apiserver.refusal import Object, expired, too_large_version


class Scope(NamedTuple):
    """What a follower hears of: all of a kind ("members.exclave.dev"), those of a namespace, or those of a name."""

    kind: str
    namespace: str | None = None
    name: str | None = None

    def covers(self, change: "ObjectChange") -> bool:
        """Whether a change of this kind lies in the scope."""
        return self.namespace in (None, change.namespace) and self.name in (None, change.name)


@dataclass(frozen=True, eq=False)
class ObjectChange:
    """One object before and after, at `revision`; None where it did not exist. Objects in it are never modified."""

    revision: int
    kind: str
    namespace: str
    name: str
    before: Object | None
    after: Object | None

    @property
    def type(self) -> str:
        """The word of a watch event for it."""
        if self.before is None:
            return "ADDED"
        return "DELETED" if self.after is None else "MODIFIED"

    @cached_property
    def tombstone(self) -> Object:
        """The object as it last was, bearing the revision of its removal: what a DELETED event shows."""
        last = self.before or {}
        return {**last, "metadata": {**last.get("metadata", {}), "resourceVersion": str(self.revision)}}

    @cached_property
    def line(self) -> bytes:
        """Its watch event as JSON, encoded once for all who watch."""
        return event_line(self.type, self.tombstone if self.after is None else self.after)


def event_line(type_: str, object_: Object) -> bytes:
    """One watch event as a line of JSON."""
    return json.dumps({"type": type_, "object": object_}, separators=(",", ":")).encode() + b"\n"


Follower = Callable[[ObjectChange], None]


class History:
    """The history of all kinds, and who listens. What happened up to the revision `begins` is not known."""

    def __init__(self, window: int, begins: int = 0) -> None:
        self._window = window
        self._changes: defaultdict[str, deque[ObjectChange]] = defaultdict(deque)
        self._forgotten: defaultdict[str, int] = defaultdict(lambda: begins)
        self._followers: defaultdict[Scope, dict[Follower, None]] = defaultdict(dict)
        self.revision = begins

    def publish(self, change: ObjectChange) -> None:
        """Append a change, whose revision is the next one, and tell its followers."""
        self.revision = change.revision
        history = self._changes[change.kind]
        history.append(change)
        if len(history) > self._window:
            self._forgotten[change.kind] = history.popleft().revision
        for namespace in (None, change.namespace):
            for name in (None, change.name):
                for follower in tuple(self._followers.get(Scope(change.kind, namespace, name), ())):
                    follower(change)

    def since(self, scope: Scope, revision: int) -> list[ObjectChange]:
        """What changed in a scope after a revision. Raises Refusal: expired, or from the future."""
        if revision > self.revision:
            raise too_large_version(revision, self.revision)
        forgotten = self._forgotten[scope.kind]
        if revision < forgotten:
            raise expired(revision, forgotten)
        found = []
        for change in reversed(self._changes[scope.kind]):
            if change.revision <= revision:
                break
            if scope.covers(change):
                found.append(change)
        return found[::-1]

    def follow(self, scope: Scope, follower: Follower) -> None:
        """Call `follower` at each later change in the scope."""
        self._followers[scope][follower] = None

    def unfollow(self, scope: Scope, follower: Follower) -> None:
        """Stop calling it; nothing happens if it is not called any more."""
        followers = self._followers[scope]
        followers.pop(follower, None)
        if not followers:
            del self._followers[scope]
