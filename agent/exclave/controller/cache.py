"""The objects of one kind, as reported by a watch and by the responses to our own requests. Pure."""

import logging

from exclave.api.malformed import object_title, read_each
from exclave.api.requests import Object
from exclave.cluster.watch import Listed, Removed, WatchEvent
from exclave.controller.policy.snapshot import Key
from exclave.errors import describe

log = logging.getLogger(__name__)

REMEMBERED = 1000  # removals that a cache remembers. Late responses arrive within seconds.


def key_of(found: Object) -> Key:
    """Namespace and name of an object."""
    return str(found["metadata"].get("namespace", "")), str(found["metadata"]["name"])


def uid_of(found: Object | None) -> str:
    """The uid of an object, which no later object of its name has; "" for None."""
    return str(found["metadata"].get("uid") or "") if found is not None else ""


class Cache:
    """The objects of one watch by namespace and name. `synced` is True once the watch has listed them."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.synced = False
        self._removed: dict[Key, int] = {}  # resourceVersions, the last removal last

    def apply(self, event: WatchEvent) -> list[Key]:
        """Apply an event of the watch. Returns the keys of the objects that it is about."""
        self.synced = True
        if isinstance(event, Listed):
            found = dict(read_each(event.objects, lambda one: (key_of(one), one), _report))
            changed = [*found, *(key for key in self.objects if key not in found)]
            self.objects = found
            return changed
        if not event.object:  # the watch is of one object, which is gone
            key = next(iter(self.objects), ("", ""))
            self.objects.pop(key, None)
            return [key]
        keys = read_each((event.object,), key_of, _report)
        for key in keys:
            if isinstance(event, Removed):
                self.objects.pop(key, None)
                self._removed[key] = _version(event.object)
                while len(self._removed) > REMEMBERED:
                    del self._removed[next(iter(self._removed))]
            else:
                self.objects[key] = event.object
        return keys

    def merge_response(self, key: Key, found: Object) -> Object | None:
        """Store the object that a request returned, unless the watch has reported a newer one.

        Returns the object that is current then, None if it was removed.
        """
        current, version = self.objects.get(key), _version(found)
        if current is not None and _version(current) > version:
            return current
        if current is None and self._removed.get(key, -1) >= version:
            return None
        self.objects[key] = found
        return found

    def single(self) -> Object | None:
        """The object of a watch that follows one object."""
        return next(iter(self.objects.values()), None)


def _version(found: Object) -> int:
    """The resourceVersion as a number. Kubernetes' versions are numbers that grow."""
    text = str(found["metadata"].get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


def _report(found: Object, problem: Exception) -> None:
    log.error("%s cannot be used, and is left out: %s", object_title(found), describe(problem))
