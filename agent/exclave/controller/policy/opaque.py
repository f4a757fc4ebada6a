"""Condition OpaquePortsAgree of a WorkloadGroup: do the Services that select it have the same opaque ports? Pure."""

from collections.abc import Sequence

from exclave.api.member import Condition
from exclave.api.workload.opaque_ports import OpaqueMismatch

OPAQUE_PORTS_AGREE = "OpaquePortsAgree"
MOST_MESSAGE = 2000  # characters: with hundreds of Services, a status must not grow without a limit


def opaque_condition(mismatches: Sequence[OpaqueMismatch]) -> Condition:
    """Condition OpaquePortsAgree. `mismatches`: those of all Services that select the group."""
    if not mismatches:
        return Condition(OPAQUE_PORTS_AGREE, True, OPAQUE_PORTS_AGREE, "no Service that selects the group differs")
    message = "; ".join(f"{one.problem}; to do: {one.remedy}" for one in mismatches)
    return Condition(OPAQUE_PORTS_AGREE, False, "OpaquePortsDiffer", message[:MOST_MESSAGE])
