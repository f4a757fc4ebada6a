"""Where the members stand in a rotation of trust anchors, and whether the next step may be taken. Pure.

Linkerd's own procedure: (1) publish the old and the new anchor together; (2) sign with an issuer under the new one;
(3) publish the new anchor alone. Members are the gate: after (1) every one must have loaded the bundle, after (2) every
certificate must come from the new issuer. What a member has loaded stands in its own Member (`spec.loaded`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from exclave.cluster.requests import Object
from exclave.member.spec import MemberView, view_member

ROTATION_TITLES = ("NAME", "GROUP", "LIVE", "ANCHORS", "ISSUER", "CERTIFICATE-UNTIL")


@dataclass(frozen=True)
class Published:
    """What members are told to load: the bundle's PEM text, and the issuing certificate's sha256."""

    anchors: str
    issuer: str

    @property
    def anchors_sha256(self) -> str:
        """As members name it."""
        return hashlib.sha256(self.anchors.encode()).hexdigest()

    @property
    def count(self) -> int:
        """How many anchors are in the bundle."""
        return self.anchors.count("-----BEGIN CERTIFICATE-----")


@dataclass(frozen=True)
class Gate:
    """One thing that must hold before the next step, and the members that keep it from holding."""

    told: str
    late: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether it holds."""
        return not self.late


def gates(published: Published, members: Iterable[Object]) -> list[Gate]:
    """Both gates, in the order of the procedure."""
    views = [view_member(one) for one in members]
    admitted = [view for view in views if view.admitted is not None and view.admitted.status and not view.deleting]
    return [
        Gate(
            "every member has loaded the published anchors",
            tuple(view.name for view in admitted if view.loaded.get("anchors") != published.anchors_sha256),
        ),
        Gate(
            "every member's certificate comes from the current issuer",
            tuple(view.name for view in admitted if view.loaded.get("issuer") != published.issuer),
        ),
    ]


def rotation_row(published: Published, member: Object) -> tuple[str, ...]:
    """One member's row."""
    view = view_member(member)
    live = "" if view.live is None else str(view.live.status)
    return (
        view.name,
        view.name.rsplit("-", 2)[0],
        live,
        _against(view, "anchors", published.anchors_sha256),
        _against(view, "issuer", published.issuer),
        view.certificate.not_after if view.certificate else "",
    )


def advice(published: Published, found: Sequence[Gate]) -> list[str]:
    """What may be done now, for a person in the middle of it."""
    anchors, issuer = found
    lines = [
        f"published: {published.count} trust anchor{'s' if published.count != 1 else ''}, "
        f"bundle {published.anchors_sha256[:12]}; issuer {published.issuer[:12]}"
    ]
    for gate in found:
        names = ", ".join(gate.late[:5]) + (f" and {len(gate.late) - 5} more" if len(gate.late) > 5 else "")
        lines.append(f"{'yes' if gate.is_open else 'no '}  {gate.told}{f': not {names}' if names else ''}")
    if not anchors.is_open:
        lines.append("wait: an issuer under a new anchor would not be believed by those")
    elif not issuer.is_open:
        lines.append("a new issuer may be put in place; no anchor may go before every certificate comes from it")
    elif published.count > 1:
        lines.append("an anchor that the current issuer does not lead to may go, as far as machines are concerned")
    else:
        lines.append("nothing is under way")
    return lines


def _against(view: MemberView, key: str, wanted: str) -> str:
    loaded = view.loaded.get(key)
    if not loaded:
        return "unknown"
    return "current" if loaded == wanted else loaded[:12]
