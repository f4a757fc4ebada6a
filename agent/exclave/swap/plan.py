"""Decides when a swap begins, and which instance drains. Pure: facts in, one action out."""

from dataclasses import dataclass
from enum import Enum
from math import inf

from exclave.kit.tasks.backoff import Backoff
from exclave.link.layout import Instance
from exclave.proxy.states import Difference

PAUSES = Backoff(first=5.0, most=600.0, factor=3.0, jitter=0.0)  # after aborted swaps; no jitter: one machine only

MEMORY_PAUSE = 3600.0  # seconds between two swaps for memory alone: a proxy may always need more than its limit

QUIET_POLLS = 2  # polls in a row without an open connection after which an instance is quiet


class SwapReason(Enum):
    """The reason for a swap; the value is shown to people."""

    ASKED = "asked for"
    ENVIRONMENT = Difference.ENVIRONMENT.value
    BINARY = Difference.BINARY.value
    MEMORY = Difference.MEMORY.value


@dataclass(frozen=True)
class SwapFacts:
    """The facts that a plan is made from. `others`: instances that run and are not chosen.

    `aborts`: aborted swaps in a row. `aborted_at`, `memory_at`: times of the last aborted swap and of the last swap for
    memory, in seconds of one clock; None without one.
    """

    chosen: Instance | None
    is_ready: bool
    others: tuple[Instance, ...] = ()
    outdated: frozenset[Difference] = frozenset()
    is_asked: bool = False
    aborts: int = 0
    aborted_at: float | None = None
    memory_at: float | None = None


@dataclass(frozen=True)
class Idle:
    """Wait for a change of the facts, or until `until`."""

    until: float = inf


@dataclass(frozen=True)
class DrainOther:
    """Wait until this instance is quiet, then end it."""

    instance: Instance


@dataclass(frozen=True)
class BeginSwap:
    """Begin a swap for this reason."""

    reason: SwapReason


@dataclass(frozen=True)
class RejectRequest:
    """Refuse a person's request: there is no traffic to move."""


Action = Idle | DrainOther | BeginSwap | RejectRequest


def plan_swap(facts: SwapFacts, now: float) -> Action:
    """The next action."""
    if facts.chosen is None or not facts.is_ready:
        # The chosen instance is restarted anyway; until then another one may be needed.
        return RejectRequest() if facts.is_asked else Idle()
    if facts.others:
        # An earlier swap, or an agent that was killed during one, left it running. A new swap needs its slot.
        return DrainOther(facts.others[0])
    if facts.is_asked:
        return BeginSwap(SwapReason.ASKED)
    reason = _reason(facts)
    if reason is None:
        return Idle()
    until = _not_before(facts, reason)
    return BeginSwap(reason) if now >= until else Idle(until)


def is_swap_due(facts: SwapFacts, now: float) -> bool:
    """True if a swap would begin now, were its slot free."""
    if facts.is_asked:
        return True
    reason = _reason(facts)
    return reason is not None and now >= _not_before(facts, reason)


def drain_time(bound: float, drain: float, *, is_due: bool) -> float:
    """Seconds that a replaced instance may serve what it has: fewer if another swap waits for its slot."""
    # Pods use one HTTP/2 connection for as long as they have traffic, so most instances are never quiet before.
    return min(bound, drain) if is_due else bound


def _reason(facts: SwapFacts) -> SwapReason | None:
    for reason in (SwapReason.ENVIRONMENT, SwapReason.BINARY, SwapReason.MEMORY):
        if Difference(reason.value) in facts.outdated:
            return reason
    return None


def _not_before(facts: SwapFacts, reason: SwapReason) -> float:
    bounds = [-inf]
    if facts.aborted_at is not None and facts.aborts:
        bounds.append(facts.aborted_at + PAUSES.pause(facts.aborts - 1, 0.0))
    if reason is SwapReason.MEMORY and facts.memory_at is not None:
        bounds.append(facts.memory_at + MEMORY_PAUSE)
    return max(bounds)
