"""The mesh's anchors and the issuer, judged as the pair that they are. Pure.

Rules: what is published and signed with always belongs together: each certificate that members hold, and the next that
they get, must lead to the anchors that they are told. New anchors that the issuer in use does not lead to are refused,
and so is a new issuer that does not lead to the anchors; either comes in when the other has followed, in whatever order
an admin changes the two. The last good pair is kept, and what is wrong is said of the object that it is wrong with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.api.issuer import Issuer, leads_to, read_anchors, read_issuer
from exclave.api.malformed import MALFORMED, fault_text
from exclave.api.requests import Object

ANCHORS, ISSUER = "anchors", "issuer"

LEAVES_OUT = (
    "ConfigMap linkerd-identity-trust-roots: the issuer in use does not lead to these anchors, and no member's "
    "certificate would be valid: keep its anchor among them until the issuer has changed"
)


@dataclass(frozen=True)
class Trust:
    """What signs, and the anchors (PEM) that it leads to."""

    issuer: Issuer
    anchors: str


def choose_trust(
    secret: Object | None, anchors: Object | None, kept: Trust | None, now: float
) -> tuple[Trust | None, Mapping[str, str]]:
    """The pair to go on with, None if there never was one; and what is wrong, by source. None is what was not seen."""
    faults: dict[str, str] = {}
    pem = _anchors(anchors, faults) or (kept.anchors if kept else None)
    if pem is None:
        return None, faults
    issuer = _issuer(secret, pem, now, faults)
    if issuer is not None:
        return Trust(issuer, pem), faults
    if kept is None or leads_to(kept.issuer.chain, pem):
        return kept and Trust(kept.issuer, pem), faults
    faults[ANCHORS] = LEAVES_OUT
    faults.pop(ISSUER, None)
    issuer = _issuer(secret, kept.anchors, now, faults)
    return (Trust(issuer, kept.anchors) if issuer is not None else kept), faults


def _anchors(found: Object | None, faults: dict[str, str]) -> str | None:
    try:
        return read_anchors(found) if found is not None else None
    except MALFORMED as problem:
        faults[ANCHORS] = fault_text(problem)
        return None


def _issuer(secret: Object | None, pem: str, now: float, faults: dict[str, str]) -> Issuer | None:
    try:
        return read_issuer(secret, pem, now) if secret is not None else None
    except MALFORMED as problem:
        faults[ISSUER] = fault_text(problem)
        return None
