"""The log of unusable objects: it names each at most once a minute. Pure except for the log."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from exclave.api.malformed import MALFORMED
from exclave.errors import describe

log = logging.getLogger(__name__)

MOST = 1000  # objects that are named within that time: anybody may make any number of them
EVERY = 60.0  # seconds between two lines about one object, which may change many times a second


class MalformedLog:
    """Logs objects that cannot be read. `now` returns epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._logged: dict[str, float] = {}

    def isolate(self, name: str) -> "Isolated":
        """Log the failure of a block that reads the object of this name, such as `Member shop/web-k7q2x-1`."""
        return Isolated(self, name)

    def report(self, name: str, problem: BaseException) -> None:
        """Log that the object of this name cannot be used."""
        now = self._now()
        self._logged = {other: at for other, at in self._logged.items() if 0 <= now - at < EVERY}
        if name not in self._logged and len(self._logged) < MOST:
            self._logged[name] = now
            log.error("%s cannot be used, and is left as it is: %s", name, describe(problem))


@dataclass(frozen=True)
class Isolated:
    """Logs the exception of its block. Not a generator: the traceback must begin in the block."""

    malformed: MalformedLog
    name: str

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(problem, MALFORMED):
            self.malformed.report(self.name, problem)
            return True
        return False
