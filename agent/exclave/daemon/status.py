"""What this machine is, as one JSON object. Pure; `status_text` makes lines for a terminal of it.

Rules: every key is always there, whatever runs; what is unknown is null, what is empty is empty. Times are RFC 3339 in
UTC. A wait counts once it has lasted `QUIET` seconds; a problem at once. Both keep the time they were first seen.
`metrics` holds the counters under the names that a scrape will give them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exclave.errors import ExclaveError
from exclave.kit.formats.times import rfc3339
from exclave.member.state import State

QUIET = 15.0
"""Seconds that a wait may last without being mentioned."""

Section = dict[str, Any]

EMPTY: dict[str, Section] = {
    "member": {"name": None, "namespace": None, "group": None},
    "cluster": {"server": None, "reachable": None, "credentialExpires": None, "settings": None},
    "certificate": {"notAfter": None, "renewAt": None, "issuer": None, "anchors": None},
    "proxy": {"active": None, "instances": {"a": None, "b": None}},
    "redirect": {"installed": None, "matches": None, "captured": {"inbound": 0, "outbound": 0}},
    "listing": {"serving": False, "ports": [], "ready": False, "reason": None, "probes": []},
    "names": {},
    "metrics": {},
}
"""The sections of a machine where nothing runs."""


@dataclass(frozen=True)
class Problem:
    """Something that somebody must mend; `code` is a fault's fixed word."""

    code: str
    message: str
    hint: str


def problem_of(error: ExclaveError) -> Problem:
    """An error as a problem."""
    return Problem(error.fault.word, error.message, error.hint)


class FirstObserved:
    """Since when each thing is observed without a break."""

    def __init__(self) -> None:
        self._since: dict[Any, float] = {}

    def observe(self, things: Iterable[Any], now: float) -> dict[Any, float]:
        """Record an observation; the start of each thing in it. Times are epoch seconds."""
        self._since = {thing: self._since.get(thing, now) for thing in things}
        return dict(self._since)


def build_status(
    version: str,
    state: State,
    since: float,
    sections: Mapping[str, Section],
    waits: Mapping[str, float],
    problems: Mapping[Problem, float],
    now: float,
) -> dict[str, Any]:
    """The whole object. `waits` and `problems` say since when; sections that are missing are empty."""
    filled = {name: {**empty, **sections.get(name, {})} for name, empty in EMPTY.items()}
    return {
        "version": version,
        "state": state.value,
        "since": rfc3339(since),
        **filled,
        "waiting": [
            {"for": what, "since": rfc3339(start)}
            for what, start in sorted(waits.items(), key=lambda wait: wait[1])
            if now - start >= QUIET
        ],
        "problems": [
            {"code": problem.code, "message": problem.message, "hint": problem.hint, "since": rfc3339(start)}
            for problem, start in sorted(problems.items(), key=lambda each: each[1])
        ],
    }
