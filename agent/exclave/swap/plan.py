"""When traffic is moved to another instance, and what becomes of the one it leaves. Pure: facts in, one action out.

Rules, in this order. While the chosen instance is not ready nothing is moved: it is started anew anyway, and what else
runs may be needed. An instance that is not chosen drains: it is what a swap has left, or what an agent left that was
killed in the middle of one, used or not; its place has to be free before the next. A person's wish is a reason at once.
Otherwise something must differ (settings, binary, memory), and the pause after the last abort must be over. Memory
alone is a reason once in `MEMORY_PAUSE`: a proxy that needs more than its limit would be swapped for ever.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf

from exclave.kit.tasks.backoff import Backoff
from exclave.link.layout import Instance
from exclave.proxy.differences import Difference

PAUSES = Backoff(first=5.0, most=600.0, factor=3.0, jitter=0.0)
"""Pauses after aborted swaps. No jitter: a machine swaps its own proxies, and nobody shares the moment."""

MEMORY_PAUSE = 3600.0
"""Seconds between two swaps for memory alone."""

QUIET_POLLS = 2
"""Looks in a row without an open connection after which an instance counts as quiet."""


class SwapReason(Enum):
    """Why a swap is made; the value is told to people."""

    ASKED = "asked for"
    ENVIRONMENT = Difference.ENVIRONMENT.value
    BINARY = Difference.BINARY.value
    MEMORY = Difference.MEMORY.value


@dataclass(frozen=True)
class SwapFacts:
    """What holds now. `others` are instances that run and are not chosen; `aborts` is how many swaps in a row failed.

    Times are seconds of one clock; `aborted_at` and `memory_at` (the last swap for memory) are None if there was none.
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
    """Nothing to do before something changes, or before `until`."""

    until: float = inf


@dataclass(frozen=True)
class DrainOther:
    """Wait until an instance is quiet, then end it."""

    instance: Instance


@dataclass(frozen=True)
class BeginSwap:
    """Make a swap."""

    reason: SwapReason


@dataclass(frozen=True)
class RejectRequest:
    """Tell whoever asked that there is nothing to move."""


Action = Idle | DrainOther | BeginSwap | RejectRequest


def plan_swap(facts: SwapFacts, now: float) -> Action:
    """What to do now."""
    if facts.chosen is None or not facts.is_ready:
        return RejectRequest() if facts.is_asked else Idle()
    if facts.others:
        return DrainOther(facts.others[0])
    if facts.is_asked:
        return BeginSwap(SwapReason.ASKED)
    reason = _reason(facts)
    if reason is None:
        return Idle()
    until = _not_before(facts, reason)
    return BeginSwap(reason) if now >= until else Idle(until)


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
