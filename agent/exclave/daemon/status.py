"""The status of this machine as one JSON object, and since when each wait and problem lasts. Pure.

Every key is always there: unknown is null, empty is empty. Times are RFC 3339 in UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exclave.errors import ExclaveError
from exclave.kit.formats.times import rfc3339
from exclave.member.state import State

QUIET = 15.0  # seconds after which a wait is listed; a problem is listed at once

Section = dict[str, Any]

EMPTY: dict[str, Section] = {
    "member": {"name": None, "namespace": None, "group": None},
    "cluster": {"server": None, "reachable": None, "answered": None, "credentialExpires": None, "settings": None},
    "certificate": {"notAfter": None, "renewAt": None, "issuer": None, "anchors": None},
    "proxy": {"active": None, "instances": {"a": None, "b": None}},
    "redirect": {"installed": None, "matches": None, "captured": {"inbound": 0, "outbound": 0}},
    "listing": {"serving": False, "ports": [], "ready": False, "reason": None, "probes": [], "asOf": None},
    "names": {},
    "metrics": {},
}
"""The sections of a machine where nothing runs. `metrics` has counters under their Prometheus names."""


@dataclass(frozen=True)
class Problem:
    """Something that a person must solve; `code` is a fault's fixed word."""

    code: str
    message: str
    hint: str


def problem_of(error: ExclaveError) -> Problem:
    """The problem for the status that an error describes."""
    return Problem(error.fault.word, error.message, error.hint)


class FirstObserved:
    """Records since when each value has been observed without a break."""

    def __init__(self) -> None:
        self._since: dict[Any, float] = {}

    def observe(self, things: Iterable[Any], now: float) -> dict[Any, float]:
        """Record the values that are observed now; returns the start of each. Times are epoch seconds."""
        self._since = {thing: self._since.get(thing, now) for thing in things}
        return dict(self._since)


def status_line(state: State, member: Section, waits: Sequence[str], problems: Sequence[Problem]) -> str:
    """The state on one line: with the first problem, else with what it waits for. `waits`: also short ones."""
    name = f", member {member['namespace']}/{member['name']}" if member.get("name") else ""
    head = f"{state.value}{name}"
    if problems:
        others = f" (and {len(problems) - 1} more: exclave status)" if len(problems) > 1 else ""
        return f"{head}; problem: {problems[0].message}{others}"
    if state is State.UNJOINED:
        return f"{head}: idle, and nothing on this machine is changed; to join a mesh: exclave join"
    return f"{head}; waiting for {waits[0]}" if waits else head


def build_status(
    version: str,
    state: State,
    since: float,
    sections: Mapping[str, Section],
    waits: Mapping[str, float],
    problems: Mapping[Problem, float],
    now: float,
) -> dict[str, Any]:
    """The whole object. `waits` and `problems` map each entry to its start; a missing section is shown empty."""
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
