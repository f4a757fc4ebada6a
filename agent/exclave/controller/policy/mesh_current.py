"""Condition MeshCurrent of a WorkloadGroup: are the newest issuer, anchors and settings of Linkerd in use? Pure."""

from collections.abc import Sequence

from exclave.api.member import Condition, condition_of
from exclave.api.requests import Object

MESH_CURRENT = "MeshCurrent"
MOST_MESSAGE = 2000  # characters


def mesh_condition(group: Object, faults: Sequence[str], has_mesh: bool) -> Condition | None:
    """Condition MeshCurrent; None while nothing was ever wrong. `faults`: why the newest ones are not used."""
    if not faults:
        if condition_of(group, MESH_CURRENT) is None:
            return None
        return Condition(MESH_CURRENT, True, MESH_CURRENT, "the newest issuer, trust anchors and settings are in use")
    reason = "LastGoodUsed" if has_mesh else "NotReady"
    return Condition(MESH_CURRENT, False, reason, "; ".join(faults)[:MOST_MESSAGE])
