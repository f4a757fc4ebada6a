"""The members' progress in a rotation of trust anchors, and whether the next step is safe. Pure.

Linkerd's procedure: (1) publish the old and the new anchor together; (2) sign with an issuer under the new one;
(3) publish the new anchor alone. Before the next step, after (1) and (3) every member must have loaded the bundle, and
after (2) every certificate must come from the new issuer. Members report it in `spec.loaded`. Of several anchors the
new one is that with the latest start date.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509

from exclave.admin.tables import few
from exclave.api.member import MemberView, read_conditions, view_member
from exclave.api.names import group_of_member
from exclave.api.requests import Object
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import der_of, fingerprint, is_issued_by, not_after, not_before, read_certificates

ROTATION_TITLES = ("NAME", "GROUP", "LIVE", "ANCHORS", "ISSUER", "CERTIFICATE-UNTIL")


@dataclass(frozen=True)
class GroupTrust:
    """What a group's settings publish: the bundle (PEM), and the issuing certificate's sha256."""

    group: str
    anchors: str
    issuer: str


@dataclass(frozen=True)
class Anchor:
    """A published anchor. `is_issuer_root`: the issuer in use chains to it; None if unknown."""

    sha256: str
    began: float
    ends: float
    is_issuer_root: bool | None


@dataclass(frozen=True)
class MeshTrust:
    """The current trust: the bundle that Linkerd publishes (PEM), and the sha256 of the issuing certificate.

    `issuer` is "" if it is unknown. `fault`: why it is unknown or not trusted. `is_issuer_read`: from its Secret.
    """

    anchors: str
    issuer: str
    bundle: tuple[Anchor, ...]
    fault: str = ""
    is_issuer_read: bool = True

    @property
    def anchors_sha256(self) -> str:
        """As members report it."""
        return hashlib.sha256(self.anchors.encode()).hexdigest()


@dataclass(frozen=True)
class Gate:
    """A condition of the next step, and the groups or members that do not meet it."""

    title: str
    late: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether all meet it."""
        return not self.late


def trust_from_secret(anchors: str, name: str, chain: str) -> MeshTrust:
    """The trust by Linkerd's anchors and the issuer's chain (PEM). `name`: the issuer's Secret."""
    try:
        certificates = read_certificates(chain)
    except ValueError:
        return MeshTrust(anchors, "", _bundle(anchors, None), f"Secret {name} holds no certificate that can be read")
    bundle = _bundle(anchors, certificates[-1])
    fault = "" if any(anchor.is_issuer_root for anchor in bundle) else f"that of Secret {name}"
    return MeshTrust(anchors, fingerprint(certificates[0]), bundle, fault)


def trust_from_settings(anchors: str, published: Sequence[GroupTrust], *, has_leader: bool) -> MeshTrust:
    """The trust by Linkerd's anchors and the groups' settings, if the issuer's Secret may not be read."""
    bundle, issuers = _bundle(anchors, None), {one.issuer for one in published}
    if not has_leader:
        return MeshTrust(
            anchors, "", bundle, "you may not read its Secret, and no controller leads that would publish it", False
        )
    if any(one.anchors != anchors for one in published) or len(issuers) != 1:
        return MeshTrust(
            anchors, "", bundle, "you may not read its Secret, and the groups' settings are not up to date yet", False
        )
    return MeshTrust(anchors, issuers.pop(), bundle, is_issuer_read=False)


def _bundle(anchors: str, last: x509.Certificate | None) -> tuple[Anchor, ...]:
    """The anchors, the newest last. `last`: the topmost certificate of the issuer's chain."""
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


def gates(mesh: MeshTrust, published: Iterable[GroupTrust], members: Iterable[Object]) -> list[Gate]:
    """All gates, in the order in which they open."""
    admitted = [view for one in members if _counts(one, view := view_member(one))]
    return [
        Gate("the issuer in use chains to a published anchor", (mesh.fault,) if mesh.fault else ()),
        Gate(
            "every group's settings have the anchors and the issuer",
            tuple(one.group for one in published if (one.anchors, one.issuer) != (mesh.anchors, mesh.issuer)),
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
    """A member's row."""
    view = view_member(member)
    return (
        view.name,
        group_of_member(view.name),
        "unreadable" if _is_status_unreadable(member) else "" if view.live is None else str(view.live.status),
        _against(view, "anchors", mesh.anchors_sha256),
        _against(view, "issuer", mesh.issuer),
        view.certificate.not_after if view.certificate else "",
    )


def advice(mesh: MeshTrust, found: Sequence[Gate], members: Iterable[Object]) -> list[str]:
    """The state and the next safe step, as lines for the admin."""
    count = len(mesh.bundle)
    lines = [
        f"published: {count} trust anchor{'s' if count != 1 else ''}, bundle {mesh.anchors_sha256[:12]}; "
        f"issuer {mesh.issuer[:12] or 'unknown'}"
    ]
    for anchor in mesh.bundle:
        leads = {True: "; the issuer in use chains to it", False: "", None: ""}[anchor.is_issuer_root]
        lines.append(f"     anchor {anchor.sha256[:12]}, {rfc3339(anchor.began)} to {rfc3339(anchor.ends)}{leads}")
    for gate in found:
        names = few(gate.late)
        lines.append(f"{'yes' if gate.is_open else 'no '}  {gate.title}{f': not {names}' if names else ''}")
    if not mesh.is_issuer_read:
        lines.append("you may not read the issuer's Secret: a new issuer counts when the controller has published it")
    members, late = list(members), {name for gate in found[2:] for name in gate.late}
    if unreadable := sorted(late & {view_member(one).name for one in members if _is_status_unreadable(one)}):
        lines.append(f"counted although the status cannot be read: {few(unreadable)}; evict those that do not matter")
    if dead := sorted(late & set(_dead(members))):
        lines.append(f"counted although not live: {few(dead)}; evict those that do not come back")
    return [*lines, _next(mesh, found)]


def _next(mesh: MeshTrust, found: Sequence[Gate]) -> str:
    issuer, settings, anchors, certificates = found
    if not issuer.is_open and mesh.issuer:
        return "wait: its certificates would not be trusted; publish its anchor, or install another issuer"
    if not issuer.is_open or not settings.is_open:
        return "wait for the controller; check that it runs: kubectl exclave check"
    if not anchors.is_open:
        return "wait: these members would not trust an issuer under a new anchor"
    if not certificates.is_open:
        return "wait: do not remove an anchor before every certificate comes from the issuer in use"
    if len(mesh.bundle) == 1:
        return "no rotation is in progress"
    *older, newest = mesh.bundle
    if newest.is_issuer_root is None:
        return (
            f"you can install an issuer under anchor {newest.sha256[:12]}; or, if the one in use chains to it, remove "
            "the other anchors"
        )
    if not newest.is_issuer_root:
        return f"you can install an issuer under anchor {newest.sha256[:12]}"
    may_go = ", ".join(anchor.sha256[:12] for anchor in older if not anchor.is_issuer_root)
    return f"as far as machines are concerned, you can remove anchor {may_go}"


def _counts(member: Object, view: MemberView) -> bool:
    """Whether the gates wait for a Member. One whose status cannot be read may be admitted, so they do."""
    is_admitted = view.admitted is not None and view.admitted.status
    return not view.deleting and (is_admitted or _is_status_unreadable(member))


def _is_status_unreadable(member: Object) -> bool:
    """Whether the conditions of a Member have another shape than the schema's. A missing status is readable."""
    status = member.get("status") or {}
    conditions = (status.get("conditions") or []) if isinstance(status, dict) else None
    return not isinstance(conditions, list) or len(read_conditions(conditions)) < len(conditions)


def _dead(members: Iterable[Object]) -> list[str]:
    views = [view_member(one) for one in members]
    return [view.name for view in views if view.live is not None and not view.live.status]


def _against(view: MemberView, key: str, wanted: str) -> str:
    loaded = view.loaded.get(key)
    if not loaded:
        return "unknown"
    return "current" if loaded == wanted else loaded[:12]
