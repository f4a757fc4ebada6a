"""All objects and their changes, in memory: the part of etcd, the API machinery and the garbage collector. Pure.

Each change has a revision, over all kinds; a write without a change has none. Objects are replaced and never modified.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, NamedTuple

from exclave_sandbox.apiserver import messages
from exclave_sandbox.apiserver.kinds.kinds import NAMESPACES, Kind, changed_object, check_body, new_object
from exclave_sandbox.apiserver.lists import EVERYTHING, Selector
from exclave_sandbox.apiserver.messages import Cause, Object, Refusal, bad_request, invalid


class Scope(NamedTuple):
    """The objects of a follower: all of a kind ("members.exclave.dev"), those in a namespace, or those of a name."""

    kind: str
    namespace: str | None = None
    name: str | None = None

    def covers(self, change: "ObjectChange") -> bool:
        """True if a change of this kind lies in the scope."""
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
        self._restarted_at = begins
        self.revision = begins

    def restart(self) -> None:
        """Begin the cache of watches anew, as a restarted API server does. Lists continue: etcd has their objects."""
        self._restarted_at = self.revision

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
            raise messages.too_large_version(revision, self.revision)
        forgotten = self._forgotten[scope.kind]
        if revision < forgotten:
            raise Refusal(410, "Expired", f"too old resource version: {revision} ({forgotten})")
        found = []
        for change in reversed(self._changes[scope.kind]):
            if change.revision <= revision:
                break
            if scope.covers(change):
                found.append(change)
        return found[::-1]

    def since_for_watch(self, scope: Scope, revision: int) -> list[ObjectChange]:
        """The same for a watch, which gets nothing from before the last restart."""
        # Source: k8s.io/apiserver pkg/storage/cacher/watch_cache.go, getAllEventsSinceLocked.
        if revision < self._restarted_at:
            raise Refusal(410, "Expired", f"too old resource version: {revision} ({self._restarted_at})")
        return self.since(scope, revision)

    def follow(self, scope: Scope, follower: Follower) -> None:
        """Call `follower` at each later change in the scope."""
        self._followers[scope][follower] = None

    def unfollow(self, scope: Scope, follower: Follower) -> None:
        """Stop calling it. Doing so twice is no error."""
        followers = self._followers[scope]
        followers.pop(follower, None)
        if not followers:
            del self._followers[scope]


WINDOW = 1000  # changes of each kind that are stored for watches


class ObjectKey(NamedTuple):
    """The key of an object: its kind, namespace ("" for cluster-wide kinds) and name."""

    kind: Kind
    namespace: str
    name: str


class Store:
    """The objects of one cluster. `now`: epoch seconds. `begins`: the revision before the first change.

    `new_uid` and `new_suffix` draw uids and the ends of generated names.
    """

    def __init__(
        self,
        now: Callable[[], float],
        new_uid: Callable[[], str],
        new_suffix: Callable[[], str],
        window: int = WINDOW,
        begins: int = 0,
    ) -> None:
        self._clock = now
        self._new_uid = new_uid
        self._new_suffix = new_suffix
        self._objects: defaultdict[tuple[str, str], dict[str, Object]] = defaultdict(dict)
        self._namespaces_of: defaultdict[str, set[str]] = defaultdict(set)
        self._held: defaultdict[str, dict[ObjectKey, None]] = defaultdict(dict)
        self._dependents: defaultdict[str, dict[ObjectKey, None]] = defaultdict(dict)
        self._uids: set[str] = set()
        self.history = History(window, begins)

    @property
    def revision(self) -> int:
        """The revision of the newest change."""
        return self.history.revision

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """An object, or None."""
        return self._objects[(kind.key, namespace)].get(name) if self._has(kind, namespace) else None

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """An object. Raises Refusal (404)."""
        found = self.find(kind, namespace, name)
        if found is None:
            raise messages.not_found(kind.key, name)
        return found

    def select(self, kind: Kind, namespace: str | None, selector: Selector = EVERYTHING) -> list[Object]:
        """The objects of a kind in a namespace, or in all (None), that a selector accepts, by namespace and name."""
        spaces = sorted(self._namespaces_of[kind.key]) if namespace is None else [namespace]
        found: list[Object] = []
        for space in spaces:
            if selector.namespace in (None, space) and self._has(kind, space):
                objects = self._objects[(kind.key, space)]
                names = sorted(objects) if selector.name is None else [selector.name][: selector.name in objects]
                found += [objects[name] for name in names if selector.accepts(objects[name])]
        return found

    def select_at(self, kind: Kind, namespace: str | None, selector: Selector, revision: int) -> list[Object]:
        """The same at an earlier revision. Raises Refusal (410) if that has expired."""
        if revision == self.revision:
            return self.select(kind, namespace, selector)
        found = {
            (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in self.select(kind, namespace)
        }
        for change in reversed(self.history.since(Scope(kind.key, namespace), revision)):
            place = (change.namespace, change.name)
            if change.before is None:
                found.pop(place, None)
            else:
                found[place] = change.before
        return [
            found[space, name]
            for space, name in sorted(found)
            if selector.namespace in (None, space)
            and selector.name in (None, name)
            and selector.accepts(found[space, name])
        ]

    def _has(self, kind: Kind, namespace: str) -> bool:
        return namespace in self._namespaces_of[kind.key]

    def create(self, kind: Kind, namespace: str, body: Any) -> Object:
        """Create an object. Raises Refusal: 400, 403 (namespace is being deleted), 404 (no namespace), 409, 422."""
        body = check_body(kind, body)
        metadata = {**body.get("metadata", {})}
        self._check_place(kind, namespace, metadata)
        name = self._name(kind, metadata)
        if metadata.get("resourceVersion"):
            raise Refusal(500, "", "resourceVersion should not be set on objects to be created")
        self._check_namespace(kind, namespace, name)
        metadata |= {"name": name, "namespace": namespace} if namespace else {"name": name}
        found = new_object(kind, {**body, "metadata": metadata})
        if self.find(kind, namespace, name) is not None:
            raise messages.already_exists(kind.key, name)
        found["metadata"]["uid"] = self._new_uid()
        found["metadata"]["creationTimestamp"] = self._timestamp()
        if kind.schema is not None:
            found["metadata"]["generation"] = 1
        return self._put(ObjectKey(kind, namespace, name), None, found)

    def replace(self, kind: Kind, namespace: str, name: str, body: Any, subresource: str | None = None) -> Object:
        """Replace an object. Raises Refusal: 400, 404, 409, 422."""
        body = check_body(kind, body)
        metadata = body.get("metadata", {})
        self._check_place(kind, namespace, metadata)
        if metadata.get("name", name) != name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        old = self.get(kind, namespace, name)
        if not metadata.get("resourceVersion") and not kind.unconditional:
            cause = Cause("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update")
            raise invalid(kind.kind_key, name, [cause])
        return self._change(ObjectKey(kind, namespace, name), old, body, subresource)

    def patch(
        self, kind: Kind, namespace: str, name: str, merge: Callable[[Object], Any], subresource: str | None = None
    ) -> Object:
        """Replace an object by `merge` of it. Raises Refusal: 400, 404, 409, 422."""
        try:
            return self._patch(kind, namespace, name, merge, subresource)
        except Refusal as refusal:
            if refusal.code != 400 or kind.schema is not None:
                raise
            # kube-apiserver answers so for its own kinds: the patch is invalid, not the request.
            raise invalid("", "", [Cause("patch", f"Invalid value: {refusal}")]) from None

    def _patch(
        self, kind: Kind, namespace: str, name: str, merge: Callable[[Object], Any], subresource: str | None
    ) -> Object:
        old = self.get(kind, namespace, name)
        new = check_body(kind, merge(old))
        self._check_place(kind, namespace, new.get("metadata", {}))
        if new.get("metadata", {}).get("name", name) != name:
            cause = Cause("metadata.name", f'Invalid value: "{new["metadata"]["name"]}": field is immutable')
            raise invalid(kind.kind_key, name, [cause])
        return self._change(ObjectKey(kind, namespace, name), old, new, subresource)

    def _change(self, place: ObjectKey, old: Object, new: Object, subresource: str | None) -> Object:
        self._check_same(place, old, new.get("metadata", {}))
        found = changed_object(place.kind, old, new, subresource)
        if found == old:
            return old
        metadata = found["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and self._may_go(place):
            return self._remove(place, found)
        return self._put(place, old, found)

    def delete(
        self, kind: Kind, namespace: str, name: str, preconditions: Object | None = None, *, orphan: bool = False
    ) -> tuple[Object, bool]:
        """Delete an object, or mark it if it has finalizers. Returns it, and whether it is removed. Raises Refusal."""
        # The objects that it owns are deleted after it; with `orphan` they lose this owner instead.
        old = self.get(kind, namespace, name)
        place = ObjectKey(kind, namespace, name)
        self._check_same(place, old, preconditions or {})
        if old["metadata"].get("deletionTimestamp"):
            return old, False
        if orphan:
            self._disown(old["metadata"]["uid"])
        marked = {**old, "metadata": {**old["metadata"], "deletionTimestamp": self._timestamp()}}
        marked["metadata"]["deletionGracePeriodSeconds"] = 0
        if "generation" in marked["metadata"]:
            marked["metadata"]["generation"] += 1
        if kind is NAMESPACES:
            return self._empty(place, old, kind.prepare(marked))
        if old["metadata"].get("finalizers"):
            return self._put(place, old, marked), False
        return self._remove(place, old), True

    def _empty(self, place: ObjectKey, old: Object, marked: Object) -> tuple[Object, bool]:
        marked = self._put(place, old, marked)
        for held in tuple(self._held[place.name]):
            if self.find(*held) is not None:
                self.delete(*held)
        if self.find(*place) is not None and self._may_go(place) and not marked["metadata"].get("finalizers"):
            self._remove(place, marked)
        return marked, self.find(*place) is None

    def _may_go(self, place: ObjectKey) -> bool:
        return place.kind is not NAMESPACES or not self._held[place.name]

    def _check_place(self, kind: Kind, namespace: str, metadata: Object) -> None:
        if metadata.get("namespace") and metadata["namespace"] != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if kind.resource.namespaced and not namespace:
            raise bad_request("an empty namespace may not be set during creation")

    def _check_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.resource.namespaced:
            return
        home = self.get(NAMESPACES, "", namespace)
        if home["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise messages.forbidden(kind.key, name, why)

    def _check_same(self, place: ObjectKey, old: Object, wanted: Object) -> None:
        """Raise Refusal (409) if the caller names another uid or another version."""
        uid, version = wanted.get("uid"), wanted.get("resourceVersion")
        if uid and uid != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise messages.conflict(place.kind.key, place.name, why)
        if version and version != old["metadata"]["resourceVersion"]:
            raise messages.conflict(place.kind.key, place.name)

    def _name(self, kind: Kind, metadata: Object) -> str:
        name = metadata.get("name")
        if not name and metadata.get("generateName"):
            name = str(metadata["generateName"])[:58] + self._new_suffix()
        if not name or not isinstance(name, str):
            message = "Required value: name or generateName is required"
            raise invalid(kind.kind_key, "", [Cause("metadata.name", message, "FieldValueRequired")])
        return name

    def _timestamp(self) -> str:
        return datetime.fromtimestamp(self._clock(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _put(self, place: ObjectKey, old: Object | None, new: Object) -> Object:
        revision = self.revision + 1
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(revision)}}
        kind, namespace, name = place
        self._objects[(kind.key, namespace)][name] = new
        self._namespaces_of[kind.key].add(namespace)
        self._held[namespace][place] = None
        self._uids.add(new["metadata"]["uid"])
        self._index_owners(place, old, new)
        self.history.publish(ObjectChange(revision, kind.key, namespace, name, old, new))
        return new

    def _remove(self, place: ObjectKey, last: Object) -> Object:
        kind, namespace, name = place
        objects = self._objects[(kind.key, namespace)]
        stored = objects.pop(name)
        if not objects:
            self._namespaces_of[kind.key].discard(namespace)
            del self._objects[(kind.key, namespace)]
        self._held[namespace].pop(place, None)
        self._index_owners(place, stored, None)
        uid = last["metadata"]["uid"]
        self._uids.discard(uid)
        self.history.publish(ObjectChange(self.revision + 1, kind.key, namespace, name, last, None))
        self._collect(uid)
        self._let_namespace_go(namespace)
        return last

    def _let_namespace_go(self, namespace: str) -> None:
        home = self.find(NAMESPACES, "", namespace) if namespace else None
        if home is None or not home["metadata"].get("deletionTimestamp") or home["metadata"].get("finalizers"):
            return
        if not self._held[namespace]:
            self._remove(ObjectKey(NAMESPACES, "", namespace), home)

    def _index_owners(self, place: ObjectKey, old: Object | None, new: Object | None) -> None:
        before, after = (
            {owner["uid"] for owner in (one or {"metadata": {}})["metadata"].get("ownerReferences", ())}
            for one in (old, new)
        )
        for uid in before - after:
            self._dependents[uid].pop(place, None)
        for uid in after - before:
            self._dependents[uid][place] = None

    def _disown(self, owner: str) -> None:
        """Remove an owner from all objects that name it."""
        for place in tuple(self._dependents.get(owner, ())):
            found = self.get(*place)
            metadata = {key: value for key, value in found["metadata"].items() if key != "ownerReferences"}
            left = [one for one in found["metadata"]["ownerReferences"] if one["uid"] != owner]
            if left:
                metadata["ownerReferences"] = left
            self._put(place, found, {**found, "metadata": metadata})

    def _collect(self, owner: str) -> None:
        """Delete what the removed object owned, unless another owner is left."""
        for place in tuple(self._dependents.pop(owner, ())):
            found = self.find(*place)
            if found is None:
                continue
            owners = {reference["uid"] for reference in found["metadata"].get("ownerReferences", ())}
            if not owners & self._uids and not found["metadata"].get("deletionTimestamp"):
                self.delete(*place)
