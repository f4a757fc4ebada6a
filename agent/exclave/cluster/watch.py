"""Follows a collection or one object, as a state machine: `next_action` returns what to do, `receive` its result. Pure.

The caller passes in times (monotonic seconds), draws in [0, 1), bytes and answers. Source, with the ERROR events of
k8s.io/apiserver/pkg/endpoints/handlers/watch.go:
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from exclave.api.requests import Object, Request, Resource, get, is_transient, list_all, path_of
from exclave.errors import ApiRefusal
from exclave.kit.formats.json_text import parse_json
from exclave.kit.tasks.backoff import Backoff

PAGE = 500  # objects of one list request
SMALLER = 8  # a page whose answer is too large is read again with this part of its objects

SHORTEST, LONGEST = (
    240,
    480,
)  # seconds of a stream, drawn for each: the streams of a fleet must not end together

GRACE = 15.0  # seconds beyond that after which the server counts as gone

# Seconds without data, on a stream that has sent a bookmark: API servers send one about every minute
# (k8s.io/apiserver/pkg/storage/cacher, defaultBookmarkFrequency).
SILENCE = 150.0

SETTLED = 30.0  # seconds after which a stream counts as a success even if nothing happened

RECONNECT = Backoff(first=1.0, most=30.0, jitter=0.75)  # wide jitter: a restarting server loses all watchers at once

LONGEST_LINE = 16 * 1024 * 1024  # bytes; an object in etcd has at most a tenth of that

PATIENCE_WITH_VERSIONS = 5  # times that a server may report our version as ahead of its own; then its etcd was restored

LOOPING = 3  # fruitless streams in a row after which the watch counts as looping: a restarted server costs one

# A stream from this version first has the object as it is (ADDED), then its changes. It never gets 410: the version
# that a GET returns is the object's own, and a server that has restarted, or that has stored enough newer changes of
# other objects, refuses to watch from there. Source: "Get State and Start at Any" in the document above.
# With bookmarks, newer servers refuse it if their etcd is older than 3.4.31 or 3.5.13 ("the required storage feature
# RequestWatchProgress is disabled": isListWatchRequest in k8s.io/apiserver/pkg/storage/cacher/cacher.go).
ANY_VERSION = "0"

FIRST_EVENT = 10.0  # seconds until such a stream has sent the object; else it may be gone, and is read again

TOO_LARGE = "Too large resource version"  # a version is ahead of the server (k8s.io/apiserver/pkg/storage/errors.go)


@dataclass(frozen=True)
class Listed:
    """All objects as they are now; any other object is gone."""

    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Upserted:
    """An object is there, new or changed."""

    object: Object


@dataclass(frozen=True)
class Removed:
    """An object is gone: its last version, or only name and namespace if it never existed."""

    object: Object


WatchEvent = Listed | Upserted | Removed


@dataclass(frozen=True)
class Fetch:
    """Send this; receive Answered, Oversized, ApiRefusal or Lost."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Open this stream; receive Opened, ApiRefusal or Lost."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read from the open stream until `until`; receive Arrived, Ended, Lost, or Silent at that time."""

    until: float


@dataclass(frozen=True)
class Deliver:
    """Send this event to the reader."""

    event: WatchEvent


@dataclass(frozen=True)
class Pause:
    """Close the stream if one is open, and continue at this time; `why` is for a person."""

    until: float
    why: str


@dataclass(frozen=True)
class Abort:
    """End with this refusal."""

    refusal: ApiRefusal


Action = Fetch | Open | Read | Deliver | Pause | Abort


@dataclass(frozen=True)
class Answered:
    """The answer to a Fetch."""

    answer: Object


@dataclass(frozen=True)
class Oversized:
    """The answer to a Fetch is larger than we read."""

    why: str


@dataclass(frozen=True)
class Opened:
    """The stream of an Open is open."""


@dataclass(frozen=True)
class Arrived:
    """Bytes of the open stream, split at any place."""

    data: bytes


@dataclass(frozen=True)
class Ended:
    """The server ended the stream regularly."""


@dataclass(frozen=True)
class Silent:
    """The time of a Read is over."""


@dataclass(frozen=True)
class Lost:
    """No server was reached, or the stream broke."""

    why: str


# ApiRefusal: the answer to a Fetch or an Open.
Report = Answered | Oversized | Opened | Arrived | Ended | Silent | ApiRefusal | Lost


class _Step(Enum):
    FETCH = "fetch"
    OPEN = "open"
    READ = "read"
    ABORT = "give up"


class WatchMachine:
    """Follows `resource`: all of it in `namespace` (None: everywhere), or the one object called `name`.

    A collection is listed page by page, then watched from the list's version. One object is read, then watched by name
    from any version, which needs no right to list. A stream that ends or fails is opened again from the last version. A
    version that is too old (410) requires a new list or read. Pauses grow until a stream succeeds. Refusals (401, 403,
    …) end in Abort. `labels` selects objects of a collection. `trim` returns what is needed of an object, and raises
    nothing. `read` parses a line of a stream; it raises ValueError.
    """

    def __init__(
        self,
        resource: Resource,
        namespace: str | None,
        name: str | None = None,
        *,
        labels: str = "",
        trim: Callable[[Object], Object] | None = None,
        read: Callable[[bytes], Any] = parse_json,
    ) -> None:
        self._resource = resource
        self._labels = {"labelSelector": labels} if labels else {}
        self._trim = trim or (lambda found: found)
        self._read = read
        self._namespace = namespace
        self._name = name
        self._step = _Step.FETCH
        self._events: deque[WatchEvent] = deque()
        self._version = ""  # of the last event; the next stream starts there
        self._pages: list[Object] = []
        self._next_page = ""
        self._page_size = PAGE
        self._last_object: Object | None = None  # the one object, as last delivered
        self._absent = False  # the one object was reported gone
        self._refusal: ApiRefusal | None = None
        self._attempt = 0  # failures since the last success
        self._fruitless = 0  # in a row: streams and versions that failed before a stream succeeded
        self._ahead = 0  # in a row: the server's store is behind our version
        self._trouble: tuple[str, float] | None = None  # why to pause, and for how many seconds at least
        self._pause = Pause(0.0, "")
        self._lifetime = 0  # of the open stream: requested seconds
        self._opened = 0.0
        self._heard = 0.0
        self._bookmarked = False
        self._brought = False
        self._is_present = False  # of the open stream: it has sent the one object
        self._rest = b""  # of the open stream: the unfinished last line

    @property
    def is_reading(self) -> bool:
        """True if the stream that was opened is still in use."""
        return self._step is _Step.READ

    @property
    def loop(self) -> str | None:
        """Why this watch loops, for a person: the server answers, but `LOOPING` streams in a row were of no use."""
        if self._fruitless < LOOPING or self._brought:
            return None
        return f"{self._pause.why or 'it ended early'}; {self._fruitless} times in a row"

    def next_action(self, now: float, draw: float) -> Action:
        """The next action. Events come first; the time of a pause is drawn once."""
        if self._events:
            return Deliver(self._events.popleft())
        if self._trouble is not None:
            why, least = self._trouble
            self._trouble = None
            self._pause = Pause(now + max(least, RECONNECT.pause(self._attempt, draw)), why)
            self._attempt += 1
        if now < self._pause.until:
            return self._pause
        if self._step is _Step.READ:
            return Read(self._next_check())
        if self._step is _Step.ABORT:
            assert self._refusal is not None
            return Abort(self._refusal)
        if self._step is _Step.OPEN:
            self._lifetime = SHORTEST + int(draw * (LONGEST - SHORTEST))
            return Open(self._stream_request())
        return Fetch(self._fetch_request())

    def receive(self, report: Report, now: float) -> None:
        """Process the result of the last action."""
        if isinstance(report, Arrived):
            self._receive_data(report.data, now)
        elif isinstance(report, Answered):
            self._receive_answer(report.answer)
        elif isinstance(report, Oversized):
            self._receive_oversized(report.why)
        elif isinstance(report, Opened):
            self._step = _Step.READ
            self._opened = self._heard = now
            self._bookmarked = self._brought = self._is_present = False
            self._rest = b""
        elif isinstance(report, Ended):
            self._receive_end(now)
        elif isinstance(report, Silent):
            self._receive_silence(now)
        elif isinstance(report, Lost):
            self._leave_stream(now)
            self._try_again(report.why)
        else:
            self._receive_refusal(report, now)

    def _fetch_request(self) -> Request:
        if self._name is not None:
            return get(self._resource, self._namespace, self._name)
        page = {"continue": self._next_page} if self._next_page else {}
        return list_all(self._resource, self._namespace, limit=str(self._page_size), **page, **self._labels)

    def _stream_request(self) -> Request:
        query = {
            "watch": "1",
            "resourceVersion": self._version,
            "timeoutSeconds": str(self._lifetime),
            **self._labels,
        }
        if self._version != ANY_VERSION:
            query["allowWatchBookmarks"] = "true"
        what = self._resource.plural
        if self._name is not None:
            query["fieldSelector"] = f"metadata.name={self._name}"
            what = f"{what} {self._name}"
        return Request("GET", path_of(self._resource, self._namespace), "watch", what, query)

    def _deadline(self) -> float:
        end = self._opened + self._lifetime + GRACE
        return min(end, self._heard + SILENCE) if self._bookmarked else end

    def _next_check(self) -> float:
        """When to continue if nothing arrives."""
        times = [self._deadline()]
        if self._awaits_object:
            times.append(self._opened + FIRST_EVENT)
        if self._attempt or self._fruitless:
            times.append(self._opened + SETTLED)
        return min(times)

    @property
    def _awaits_object(self) -> bool:
        """True if the stream has to send the one object first, and has not."""
        return self._version == ANY_VERSION and self._last_object is not None and not self._is_present

    # Results of a Fetch

    def _receive_answer(self, answer: Object) -> None:
        version = _version_of(answer)
        if not version:
            self._try_again("the API server's answer has no resourceVersion")
            return
        if self._name is not None:
            self._observe(answer)
            version = ANY_VERSION
        else:
            items = answer.get("items")
            self._pages += map(self._trim, items if isinstance(items, list) else [])
            self._next_page = str(_metadata(answer).get("continue") or "")
            if self._next_page:
                return
            self._events.append(Listed(tuple(self._pages)))
            self._pages = []
            self._page_size = PAGE
        self._version = version
        self._step = _Step.OPEN

    def _receive_oversized(self, why: str) -> None:
        """Read the page again with fewer objects: a few large ones may be among them."""
        if self._page_size == 1 or self._name is not None:
            self._try_again(why)
        self._page_size = max(1, self._page_size // SMALLER)

    def _observe(self, found: Object) -> None:
        """Deliver the one object, unless this version was delivered before."""
        if self._last_object is None or _identity(self._last_object) != _identity(found):
            self._events.append(Upserted(found))
        self._last_object = found
        self._absent = False

    def _miss(self, last: Object | None) -> None:
        """Deliver once that the one object is gone."""
        if not self._absent:
            stub: Object = {"metadata": {"name": self._name, "namespace": self._namespace}}
            self._events.append(Removed(last or self._last_object or stub))
        self._last_object = None
        self._absent = True

    # Results of a stream

    def _receive_data(self, data: bytes, now: float) -> None:
        self._heard = now
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip() and self.is_reading:
                self._receive_line(line, now)
        if len(self._rest) > LONGEST_LINE:
            self._leave_stream(now)
            self._try_again(f"an event of more than {LONGEST_LINE} bytes")

    def _receive_line(self, line: bytes, now: float) -> None:
        try:
            event = self._read(line)
            kind, found = event["type"], event["object"]
            version = _version_of(found)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._leave_stream(now)
            self._try_again("the stream brought something that is no event")
            return
        if kind == "ERROR":
            self._leave_stream(now)
            self._receive_error(found)
            return
        if self._name is None:
            self._progress_to(version)
            if kind != "BOOKMARK":
                found = self._trim(found)
                self._events.append(Removed(found) if kind == "DELETED" else Upserted(found))
        else:
            self._receive_event_of_one(kind, found, version)
        self._bookmarked = self._bookmarked or kind == "BOOKMARK"

    def _progress_to(self, version: str) -> None:
        """The stream works: the next one starts at `version`."""
        self._version = version or self._version
        self._brought = True
        self._ahead = 0

    def _receive_event_of_one(self, kind: str, found: Object, version: str) -> None:
        if kind != "ADDED":  # an ADDED event may have the version at which the object last changed, long ago
            self._progress_to(version)
        if kind == "BOOKMARK" or _metadata(found).get("name") != self._name:
            return
        self._is_present = True
        # A server may answer a watch from any version with an older state than the one that we have read.
        if self._last_object is not None and _number(version) < _number(_version_of(self._last_object)):
            return
        if kind == "DELETED":
            self._miss(found)
        else:
            self._observe(found)

    def _receive_error(self, status: Object) -> None:
        """Process an ERROR event, which has a Status in place of an object."""
        message = str(status.get("message") or "no message")
        details = status.get("details")
        wait = details.get("retryAfterSeconds") if isinstance(details, dict) else None
        if status.get("code") == 410 or status.get("reason") in ("Expired", "Gone"):
            self._start_over("")
        elif TOO_LARGE in message:
            self._fall_behind(message, float(wait) if isinstance(wait, int) else 0.0)
        else:
            self._start_over(f"the API server ended the watch: {message}")

    def _receive_end(self, now: float) -> None:
        expected = now >= self._opened + self._lifetime - 1.0
        self._leave_stream(now)
        if not expected:
            self._try_again("the API server ended the watch early")

    def _receive_silence(self, now: float) -> None:
        if self._awaits_object and now >= self._opened + FIRST_EVENT:
            self._leave_stream(now)  # the object may have been deleted between the read and the stream
        elif now >= self._deadline():
            self._leave_stream(now)
            self._try_again("the API server fell silent")
        elif now >= self._opened + SETTLED:
            self._attempt = self._fruitless = 0

    def _leave_stream(self, now: float) -> None:
        """Forget the stream, and after a success the failures before it."""
        if self.is_reading:
            if self._brought or now - self._opened >= SETTLED:
                self._attempt = self._fruitless = 0
            else:
                self._fruitless += 1
            self._brought = False
            # Without a version to continue from, only a new read shows what happened meanwhile.
            self._step = _Step.FETCH if self._version == ANY_VERSION else _Step.OPEN
            self._rest = b""

    # Failures

    def _receive_refusal(self, refusal: ApiRefusal, now: float) -> None:
        self._leave_stream(now)
        if refusal.status == 410:
            self._fruitless += 1
            self._start_over("")
        elif TOO_LARGE in refusal.message:
            self._fall_behind(refusal.message, refusal.retry_after or 0.0)
        elif is_transient(refusal):
            self._try_again(refusal.message, refusal.retry_after or 0.0)
        elif refusal.status == 404 and self._name is not None and self._step is _Step.FETCH:
            self._miss(None)
            self._try_again(refusal.message)
        else:
            self._refusal = refusal
            self._step = _Step.ABORT

    def _try_again(self, why: str, least: float = 0.0) -> None:
        self._trouble = (why, least)

    def _start_over(self, why: str) -> None:
        """List or read again: at once if `why` is empty and nothing failed before, else after a pause."""
        self._step = _Step.FETCH
        self._version = self._next_page = ""
        self._pages = []
        if why or self._attempt:
            self._try_again(why or "the version to watch from is too old")
        else:
            self._attempt = 1

    def _fall_behind(self, why: str, least: float) -> None:
        """Wait for the server's store, which is behind our version, or start over if it was restored from a backup."""
        self._ahead += 1
        if self._ahead >= PATIENCE_WITH_VERSIONS:
            self._ahead = 0
            self._start_over(why)
        else:
            self._try_again(why, least)


def _metadata(found: Object) -> Object:
    metadata = found.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _version_of(found: Object) -> str:
    return str(_metadata(found).get("resourceVersion") or "")


def _number(version: str) -> int:
    """A resourceVersion as a number: they are numbers that grow (Kubernetes documents it since 1.35)."""
    return int(version) if version.isascii() and version.isdecimal() else 0


def _identity(found: Object) -> tuple[object, object]:
    metadata = _metadata(found)
    return metadata.get("uid"), metadata.get("resourceVersion")
