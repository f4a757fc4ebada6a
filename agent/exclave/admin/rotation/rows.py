"""Where the members stand in a rotation of trust anchors, and whether the next step may be taken. Pure.

Linkerd's own procedure: (1) publish the old and the new anchor together; (2) sign with an issuer under the new one;
(3) publish the new anchor alone. Members are the gate: after (1) every one must have loaded the bundle, after (2) every
certificate must come from the new issuer, after (3) the bundle again. What a member has loaded stands in its own Member
(`spec.loaded`). Of several anchors the one that began last is the new one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509

from exclave.api.member import MemberView, view_member
from exclave.api.names import group_of_member
from exclave.api.requests import Object
from exclave.kit.formats.rfc3339 import rfc3339
from exclave.kit.formats.x509 import der_of, fingerprint, is_issued_by, not_after, not_before, read_certificates

ROTATION_TITLES = ("NAME", "GROUP", "LIVE", "ANCHORS", "ISSUER", "CERTIFICATE-UNTIL")


@dataclass(frozen=True)
class GroupTrust:
    """What one group's members are told to load: the bundle's PEM text, and the issuing certificate's sha256."""

    group: str
    anchors: str
    issuer: str


@dataclass(frozen=True)
class Anchor:
    """One published anchor. `is_led_to`: by the issuer in use; None if that cannot be known."""

    sha256: str
    began: float
    ends: float
    is_issuer_root: bool | None


@dataclass(frozen=True)
class MeshTrust:
    """What is true now: the bundle as Linkerd publishes it (PEM), and the sha256 of the issuing certificate, "" if it
    is not known; `fault` says why, or what is wrong with it. `is_seen`: the issuer's own Secret has been read.
    """

    anchors: str
    issuer: str
    bundle: tuple[Anchor, ...]
    fault: str = ""
    is_issuer_read: bool = True

    @property
    def anchors_sha256(self) -> str:
        """As members name it."""
        return hashlib.sha256(self.anchors.encode()).hexdigest()


@dataclass(frozen=True)
class Gate:
    """One thing that must hold before the next step, and those that keep it from holding."""

    told: str
    late: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether it holds."""
        return not self.late


def trust_from_secret(anchors: str, name: str, chain: str) -> MeshTrust:
    """From the trust roots and the issuer's certificates, both PEM; `name` is its Secret's."""
    try:
        certificates = read_certificates(chain)
    except ValueError:
        return MeshTrust(anchors, "", _bundle(anchors, None), f"Secret {name} holds no certificate that can be read")
    bundle = _bundle(anchors, certificates[-1])
    fault = "" if any(anchor.is_issuer_root for anchor in bundle) else f"that of Secret {name}"
    return MeshTrust(anchors, fingerprint(certificates[0]), bundle, fault)


def trust_from_settings(anchors: str, told: Sequence[GroupTrust], *, leads: bool) -> MeshTrust:
    """From the trust roots and what groups have been told, where the issuer's Secret may not be read."""
    bundle, issuers = _bundle(anchors, None), {one.issuer for one in told}
    if not leads:
        return MeshTrust(
            anchors, "", bundle, "its Secret may not be read, and no controller leads who would tell", False
        )
    if any(one.anchors != anchors for one in told) or len(issuers) != 1:
        return MeshTrust(anchors, "", bundle, "its Secret may not be read, and groups have not been told yet", False)
    return MeshTrust(anchors, issuers.pop(), bundle, is_issuer_read=False)


def _bundle(anchors: str, last: x509.Certificate | None) -> tuple[Anchor, ...]:
    """The anchors, the newest last. `last` is the issuer's, or the topmost of its chain."""
    found = [
        Anchor(
            fingerprint(one),
            not_before(one),
            not_after(one),
            None if last is None else der_of(one) == der_of(last) or is_issued_by(last, one),
        )
        for one in read_certificates(anchors)
    ]
    return tuple(sorted(found, key=lambda anchor: (anchor.began, anchor.ends)))


def gates(mesh: MeshTrust, told: Iterable[GroupTrust], members: Iterable[Object]) -> list[Gate]:
    """All of them, in the order in which they open."""
    views = [view_member(one) for one in members]
    admitted = [view for view in views if view.admitted is not None and view.admitted.status and not view.deleting]
    return [
        Gate("the issuer in use leads to a published anchor", (mesh.fault,) if mesh.fault else ()),
        Gate(
            "every group has been told of the anchors and the issuer",
            tuple(one.group for one in told if (one.anchors, one.issuer) != (mesh.anchors, mesh.issuer)),
        ),
        Gate(
            "every member has loaded the published anchors",
            tuple(view.name for view in admitted if view.loaded.get("anchors") != mesh.anchors_sha256),
        ),
        Gate(
            "every member's certificate comes from the issuer in use",
            tuple(view.name for view in admitted if not mesh.issuer or view.loaded.get("issuer") != mesh.issuer),
        ),
    ]


def rotation_row(mesh: MeshTrust, member: Object) -> tuple[str, ...]:
    """One member's row."""
    view = view_member(member)
    return (
        view.name,
        group_of_member(view.name),
        "" if view.live is None else str(view.live.status),
        _against(view, "anchors", mesh.anchors_sha256),
        _against(view, "issuer", mesh.issuer),
        view.certificate.not_after if view.certificate else "",
    )


def advice(mesh: MeshTrust, found: Sequence[Gate], members: Iterable[Object]) -> list[str]:
    """What may be done now, for a person in the middle of it."""
    count = len(mesh.bundle)
    lines = [
        f"published: {count} trust anchor{'s' if count != 1 else ''}, bundle {mesh.anchors_sha256[:12]}; "
        f"issuer {mesh.issuer[:12] or 'unknown'}"
    ]
    for anchor in mesh.bundle:
        leads = {True: "; the issuer in use leads to it", False: "", None: ""}[anchor.is_issuer_root]
        lines.append(f"     anchor {anchor.sha256[:12]}, {rfc3339(anchor.began)} to {rfc3339(anchor.ends)}{leads}")
    for gate in found:
        names = ", ".join(gate.late[:5]) + (f" and {len(gate.late) - 5} more" if len(gate.late) > 5 else "")
        lines.append(f"{'yes' if gate.is_open else 'no '}  {gate.told}{f': not {names}' if names else ''}")
    if not mesh.is_issuer_read:
        lines.append("a new issuer counts when the controller has told of it: its Secret may not be read by you")
    dead = sorted({name for gate in found[2:] for name in gate.late} & set(_dead(members)))
    if dead:
        lines.append(f"counted though not live: {', '.join(dead[:5])}; evict those that do not come back")
    return [*lines, _next(mesh, found)]


def _next(mesh: MeshTrust, found: Sequence[Gate]) -> str:
    issuer, told, anchors, certificates = found
    if not issuer.is_open and mesh.issuer:
        return "wait: nobody would believe its certificates; publish its anchor, or put another issuer in place"
    if not issuer.is_open or not told.is_open:
        return "wait for the controller; see that it runs: kubectl exclave check"
    if not anchors.is_open:
        return "wait: an issuer under a new anchor would not be believed by those"
    if not certificates.is_open:
        return "wait: no anchor may go before every certificate comes from the issuer in use"
    if len(mesh.bundle) == 1:
        return "nothing is under way"
    *older, newest = mesh.bundle
    if newest.is_issuer_root is None:
        return (
            f"an issuer under anchor {newest.sha256[:12]} may be put in place; or, if the one in use leads to it, the "
            "other anchors may go"
        )
    if not newest.is_issuer_root:
        return f"an issuer under anchor {newest.sha256[:12]} may be put in place"
    may_go = ", ".join(anchor.sha256[:12] for anchor in older if not anchor.is_issuer_root)
    return f"anchor {may_go} may go, as far as machines are concerned"


def _dead(members: Iterable[Object]) -> list[str]:
    views = [view_member(one) for one in members]
    return [view.name for view in views if view.live is not None and not view.live.status]


def _against(view: MemberView, key: str, wanted: str) -> str:
    loaded = view.loaded.get(key)
    if not loaded:
        return "unknown"
    return "current" if loaded == wanted else loaded[:12]
