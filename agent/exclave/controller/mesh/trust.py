"""Chooses issuer and trust anchors as a pair that fits: every certificate must chain to the published anchors. Pure.

A new issuer or new anchors that do not fit the other one are refused, and their fault is reported. They are accepted
once both fit, so an admin may change them in any order. Until then the last good pair stays in use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.api.issuer import Issuer, read_anchors, read_issuer, refit_issuer
from exclave.api.malformed import MALFORMED, fault_text
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings

ANCHORS, ISSUER = "anchors", "issuer"

LEAVES_OUT = (
    "ConfigMap linkerd-identity-trust-roots: the issuer in use does not lead to these anchors, and no member's "
    "certificate would be valid: keep its anchor among them until the issuer has changed"
)


@dataclass(frozen=True)
class Trust:
    """The issuer, and the anchors (PEM) that it chains to."""

    issuer: Issuer
    anchors: str


def choose_trust(
    secret: Object | None,
    anchors: Object | None,
    last_good: Trust | None,
    now: float,
    linkerd: LinkerdSettings | None = None,
) -> tuple[Trust | None, Mapping[str, str]]:
    """The pair to use, None before the first one, and the faults by source. A missing object is None.

    `linkerd`: the mesh whose proxies check what the issuer signs; None if unknown.
    """
    faults: dict[str, str] = {}
    pem = _anchors(anchors, faults) or (last_good.anchors if last_good else None)
    if pem is None:
        return None, faults
    issuer = _issuer(secret, pem, now, linkerd, faults)
    if issuer is not None:
        return Trust(issuer, pem), faults
    if last_good is None or pem == last_good.anchors:
        return last_good, faults
    try:
        return Trust(refit_issuer(last_good.issuer, pem, now, linkerd), pem), faults
    except ValueError:
        faults[ANCHORS] = LEAVES_OUT
    faults.pop(ISSUER, None)
    issuer = _issuer(secret, last_good.anchors, now, linkerd, faults)
    return (Trust(issuer, last_good.anchors) if issuer is not None else last_good), faults


def _anchors(found: Object | None, faults: dict[str, str]) -> str | None:
    try:
        return read_anchors(found) if found is not None else None
    except MALFORMED as problem:
        faults[ANCHORS] = fault_text(problem)
        return None


def _issuer(
    secret: Object | None, pem: str, now: float, linkerd: LinkerdSettings | None, faults: dict[str, str]
) -> Issuer | None:
    try:
        return read_issuer(secret, pem, now, linkerd) if secret is not None else None
    except MALFORMED as problem:
        faults[ISSUER] = fault_text(problem)
        return None
