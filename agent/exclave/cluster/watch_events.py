"""The words of following: what the cluster tells, what the watch machine asks for, what it hears. Pure.

Events (Listed, Upserted, Removed) are for whoever follows; actions and reports pass between the machine in `watch` and
the shell in `client` that has the sockets and the clock. Times are monotonic seconds.
"""

from dataclasses import dataclass

from exclave.api.requests import Object, Request
from exclave.errors import ApiRefusal


@dataclass(frozen=True)
class Listed:
    """All objects as they are now; what is not among them is gone."""

    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Upserted:
    """An object is there, new or changed."""

    object: Object


@dataclass(frozen=True)
class Removed:
    """An object is gone: as it was last seen, or only its name and namespace if it never was."""

    object: Object


WatchEvent = Listed | Upserted | Removed


@dataclass(frozen=True)
class Fetch:
    """Ask this; receive Answered, Refused or Lost."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Open this stream; receive Opened, Refused or Lost."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read from the open stream until this time; receive Arrived, Ended, or Lost if the time has come."""

    until: float


@dataclass(frozen=True)
class Deliver:
    """Hand this event to whoever follows."""

    event: WatchEvent


@dataclass(frozen=True)
class Pause:
    """Close the stream, if one is open, and come back at this time; `why` is for a person."""

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
class Opened:
    """The stream that Open asked for is open."""


@dataclass(frozen=True)
class Arrived:
    """Bytes of the open stream, cut anywhere."""

    data: bytes


@dataclass(frozen=True)
class Ended:
    """The server ended the stream as it should."""


@dataclass(frozen=True)
class Refused:
    """The server answered a Fetch or an Open with no."""

    refusal: ApiRefusal


@dataclass(frozen=True)
class Lost:
    """Nobody was reached, the stream broke, or Read's time came."""

    why: str


Report = Answered | Opened | Arrived | Ended | Refused | Lost
