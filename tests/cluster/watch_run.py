"""A watch machine that a test feeds with reports, and the reports of an API server."""

import json

from exclave.api.requests import MEMBERS, Object
from exclave.cluster.watch import (
    PAGE,
    Action,
    Answered,
    Arrived,
    Deliver,
    Fetch,
    Open,
    Pause,
    Read,
    Report,
    WatchEvent,
    WatchMachine,
)
from exclave.errors import ApiRefusal

COLLECTION = "/apis/exclave.dev/v1alpha1/namespaces/shop/members"


def member(version: int | str, name: str = "web-1", uid: str = "u1") -> Object:
    return {"metadata": {"name": name, "uid": uid, "resourceVersion": str(version)}}


def page(version: int, *items: Object, more: str = "") -> Answered:
    return Answered({"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)})


def lines(*events: tuple[str, Object]) -> Arrived:
    return Arrived(b"".join(json.dumps({"type": kind, "object": found}).encode() + b"\n" for kind, found in events))


def bookmark(version: int) -> tuple[str, Object]:
    return "BOOKMARK", {"metadata": {"resourceVersion": str(version)}}


def error(code: int, reason: str, message: str, **details: object) -> tuple[str, Object]:
    return "ERROR", {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


def refused(status: int, retry_after: float | None = None, message: str = "no") -> ApiRefusal:
    return ApiRefusal(status, "", message, "", retry_after=retry_after)


class Run:
    """A machine with a clock that stands still unless it pauses; remembers what it delivered and asked for."""

    def __init__(self, name: str | None, draw: float = 0.0) -> None:
        self.machine = WatchMachine(MEMBERS, "shop", name)
        self.now = 1_000.0
        self.draw = draw
        self.delivered: list[WatchEvent] = []
        self.pauses: list[tuple[float, str]] = []
        self.action = self._settle()

    def hear(self, *reports: Report) -> "Run":
        for report in reports:
            self.machine.receive(report, self.now)
            self.action = self._settle()
        return self

    @property
    def asks(self) -> str:
        """What the machine wants now, in a few words."""
        action = self.action
        if isinstance(action, Fetch):
            path = action.request.path.removeprefix(COLLECTION)
            more = action.request.query.get("continue")
            limit = action.request.query.get("limit", str(PAGE))
            less = f"{limit} of " if limit != str(PAGE) else ""
            return f"fetch {less}{path or 'all'}" + (f" from {more}" if more else "")
        if isinstance(action, Open):
            return f"watch from {action.request.query['resourceVersion']}"
        return "read" if isinstance(action, Read) else "give up"

    def _settle(self) -> Action:
        while True:
            action = self.machine.next_action(self.now, self.draw)
            if isinstance(action, Deliver):
                self.delivered.append(action.event)
            elif isinstance(action, Pause):
                self.pauses.append((action.until - self.now, action.why))
                self.now = action.until
            else:
                return action
