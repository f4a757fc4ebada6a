"""The changes of all objects, in order: the source of watches. Pure.

Rules: every change has its own revision. The last `window` changes of each kind are stored; an older revision has
expired (410). Followers are called in the order of the changes, during the write, and must not wait. They are indexed
by scope, so the cost of a change depends only on the number of its own followers.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from exclave_sandbox.apiserver.refusal import Object, expired, too_large_version


class Scope(NamedTuple):
    """The objects of a follower: all of a kind ("members.exclave.dev"), those in a namespace, or those of a name."""

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
        """The type of its watch event."""
        if self.before is None:
            return "ADDED"
        return "DELETED" if self.after is None else "MODIFIED"

    @cached_property
    def tombstone(self) -> Object:
        """The object in a DELETED event: its last state, with the revision of its removal."""
        last = self.before or {}
        return {**last, "metadata": {**last.get("metadata", {}), "resourceVersion": str(self.revision)}}

    @cached_property
    def line(self) -> bytes:
        """Its watch event as JSON, encoded once for all watches."""
        return event_line(self.type, self.tombstone if self.after is None else self.after)


def event_line(type_: str, object_: Object) -> bytes:
    """One watch event as a line of JSON."""
    return json.dumps({"type": type_, "object": object_}, separators=(",", ":")).encode() + b"\n"


Follower = Callable[[ObjectChange], None]


class History:
    """The changes of all kinds, and their followers. Changes up to the revision `begins` are not stored."""

    def __init__(self, window: int, begins: int = 0) -> None:
        self._window = window
        self._changes: defaultdict[str, deque[ObjectChange]] = defaultdict(deque)
        self._forgotten: defaultdict[str, int] = defaultdict(lambda: begins)
        self._followers: defaultdict[Scope, dict[Follower, None]] = defaultdict(dict)
        self.revision = begins

    def publish(self, change: ObjectChange) -> None:
        """Append a change, whose revision must be the next one, and call its followers."""
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
        """The changes of a scope after a revision. Raises Refusal if it has expired or lies in the future."""
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
        """Stop calling it. Doing so twice is no error."""
        followers = self._followers[scope]
        followers.pop(follower, None)
        if not followers:
            del self._followers[scope]
