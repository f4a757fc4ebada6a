"""`rotation status`: which anchors and issuer each member has loaded, and whether the next step is safe.

Linkerd's procedure: (1) publish the old and the new anchor together; (2) sign with an issuer under the new one;
(3) publish the new anchor alone. After (1) and (3) every member must load the bundle before the next step; after (2)
every certificate must come from the new issuer. The new anchor is the one with the latest start. Exit code 0 if every
gate is open, else 3, so that a script can wait.
"""

import argparse
import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509

from exclave.admin import arguments
from exclave.admin.check.snapshot import ClusterSnapshot
from exclave.admin.check.verbs import TRUST_ROOTS
from exclave.admin.session import Session
from exclave.admin.tables import Listing, few
from exclave.api.fields import FieldError
from exclave.api.issuer import LAYOUTS, read_anchors, read_issuer
from exclave.api.malformed import MALFORMED, mapping_in
from exclave.api.member import MemberView, read_conditions, view_member
from exclave.api.names import ELECTION, SETTINGS_KEY, group_of_member, settings_name
from exclave.api.requests import CONFIG_MAPS, LEASES, MEMBERS, SECRETS, Object
from exclave.api.settings import parse_settings
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.formats.times import epoch, rfc3339
from exclave.kit.formats.visible_text import with_head
from exclave.kit.formats.x509 import der_of, fingerprint, is_issued_by, not_after, not_before, pem_of, read_certificates

GATES_CLOSED = 3

LEADER_TIMEOUT = 20.0  # seconds; a leader renews its Lease every two seconds

TITLES = ("NAME", "GROUP", "LIVE", "ANCHORS", "ISSUER", "CERTIFICATE-UNTIL")


@dataclass(frozen=True)
class GroupTrust:
    """The trust that a group's settings publish: the bundle (PEM), and the issuing certificate's sha256."""

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
    """The current trust: Linkerd's bundle (PEM), and the issuing certificate's sha256, "" if unknown."""

    anchors: str
    issuer: str
    bundle: tuple[Anchor, ...]
    fault: str = ""  # why the issuer is unknown or not trusted
    is_issuer_read: bool = True  # from its Secret

    @property
    def anchors_sha256(self) -> str:
        """The anchors' hash in the form that members report."""
        return hashlib.sha256(self.anchors.encode()).hexdigest()


@dataclass(frozen=True)
class Gate:
    """A condition of the next step, and the groups or members that do not meet it."""

    title: str
    late: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """True if all meet it."""
        return not self.late


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `rotation` to the command line."""
    summary = "rotation of trust anchors and issuers, by Linkerd's own procedure"
    verbs = arguments.add_subject(subparsers, "rotation", summary)
    status = arguments.add_verb(
        verbs,
        "status",
        _status,
        "show what each member has loaded, and whether the next step is safe",
        "kubectl exclave rotation status",
        "# after each step: wait until the next one is safe\nuntil kubectl exclave rotation status; do sleep 10; done",
    )
    arguments.add_namespaces(status)
    arguments.add_output(status)


def _status(session: Session, options: argparse.Namespace) -> int:
    found = ClusterSnapshot(session.kubectl, options.controller_namespace, options.linkerd_namespace)
    published = _published_trust(session, found)
    mesh = _current_trust(session, found, published)
    members = session.kubectl.list(MEMBERS)
    rows = [rotation_row(mesh, one) for one in members]
    session.show(Listing(MEMBERS, members, TITLES, rows), options.output, "there are no members")
    found_gates = gates(mesh, published, members)
    session.note(*advice(mesh, found_gates, members))
    return 0 if all(gate.is_open for gate in found_gates) else GATES_CLOSED


def _current_trust(session: Session, found: ClusterSnapshot, published: list[GroupTrust]) -> MeshTrust:
    """The trust by Linkerd's ConfigMap and the issuer's Secret, or else the groups' settings. Raises ClusterError."""
    # Read from Linkerd's ConfigMap and the Secret, so that a change closes a gate even without a controller.
    anchors = _anchors(session, found)
    place = (found.installation.issuer_namespace, found.installation.issuer_secret)
    try:
        secret = session.kubectl.get(SECRETS, *place)
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        return trust_from_settings(anchors, published, has_leader=_has_leader(session, found))
    return trust_from_secret(anchors, f"{place[0]}/{place[1]}", issuer_chain(secret or {}, anchors, session.now()))


def _anchors(session: Session, found: ClusterSnapshot) -> str:
    roots = session.kubectl.get(CONFIG_MAPS, found.linkerd, TRUST_ROOTS)
    try:
        return read_anchors(roots or {})
    except ValueError as problem:
        raise ClusterError(
            Fault.UNREACHABLE,
            f"Linkerd's trust anchors cannot be read in namespace {found.linkerd}: {problem}",
            "name Linkerd's namespace: --linkerd-namespace",
        ) from None


def issuer_chain(secret: Object, anchors: str, now: float) -> str:
    """The chain (PEM) that the controller uses of an issuer's Secret, else all certificates in it; "" without any."""
    try:
        return "".join(map(pem_of, read_issuer(secret, anchors, now).chain))
    except MALFORMED:
        pass  # the chain shows which gate stays closed, and `check` states why the issuer is refused
    content = mapping_in(secret, "data")
    for certificate, _ in LAYOUTS:
        try:
            return base64.b64decode(content[certificate], validate=True).decode()
        except (KeyError, TypeError, binascii.Error, UnicodeDecodeError):
            continue
    return ""


def _has_leader(session: Session, found: ClusterSnapshot) -> bool:
    """True if a controller leads: without one the groups' settings may be out of date."""
    lease = session.kubectl.get(LEASES, found.installation.namespace, ELECTION) or {}
    spec = lease.get("spec") or {}
    renewed = epoch(str(spec.get("renewTime") or ""))
    return bool(spec.get("holderIdentity")) and renewed is not None and abs(session.now() - renewed) < LEADER_TIMEOUT


def _published_trust(session: Session, found: ClusterSnapshot) -> list[GroupTrust]:
    """The trust in each group's settings. A group without settings is left out."""
    published = []
    for group in found.groups:
        where, name = group["metadata"]["namespace"], group["metadata"]["name"]
        settings_map = session.kubectl.get(CONFIG_MAPS, where, settings_name(name))
        if settings_map is None:
            continue
        try:
            settings = parse_settings(str((settings_map.get("data") or {}).get(SETTINGS_KEY, "")))
        except FieldError as problem:
            why = f"{problem}; use the controller's version of kubectl exclave"
            session.warn([f"the settings of group {where}/{name} cannot be read: {why}"])
            published.append(GroupTrust(f"{where}/{name}", "", ""))  # its gate stays closed
        else:
            published.append(GroupTrust(f"{where}/{name}", settings.anchors, settings.issuer))
    return published


# Decisions.


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
    fault = ""
    if not has_leader:
        fault = "you may not read its Secret, and no controller leads that would publish it"
    elif any(one.anchors != anchors for one in published) or len(issuers) != 1:
        fault = "you may not read its Secret, and the groups' settings are not up to date yet"
    return MeshTrust(anchors, "" if fault else issuers.pop(), bundle, fault, is_issuer_read=False)


def _bundle(anchors: str, last: x509.Certificate | None) -> tuple[Anchor, ...]:
    """The anchors, the newest last. `last`: the topmost certificate of the issuer's chain."""
    found = []
    for one in read_certificates(anchors):
        is_root = None if last is None else der_of(one) == der_of(last) or is_issued_by(last, one)
        found.append(Anchor(fingerprint(one), not_before(one), not_after(one), is_root))
    return tuple(sorted(found, key=lambda anchor: (anchor.began, anchor.ends)))


def gates(mesh: MeshTrust, published: Iterable[GroupTrust], members: Iterable[Object]) -> list[Gate]:
    """All gates, in the order in which they open."""
    wanted = (mesh.anchors, mesh.issuer)
    admitted = [view for one in members if _counts(one, view := view_member(one))]
    old_settings = [one.group for one in published if (one.anchors, one.issuer) != wanted]
    old_anchors = [view.name for view in admitted if view.loaded.get("anchors") != mesh.anchors_sha256]
    old_issuer = [view.name for view in admitted if not mesh.issuer or view.loaded.get("issuer") != mesh.issuer]
    return [
        Gate("the issuer in use chains to a published anchor", (mesh.fault,) if mesh.fault else ()),
        Gate("every group's settings have the anchors and the issuer", tuple(old_settings)),
        Gate("every member has loaded the published anchors", tuple(old_anchors)),
        Gate("every member's certificate comes from the issuer in use", tuple(old_issuer)),
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
        leads = "; the issuer in use chains to it" if anchor.is_issuer_root else ""
        span = f"{rfc3339(anchor.began)} to {rfc3339(anchor.ends)}"
        lines.append(with_head("     ", f"anchor {anchor.sha256[:12]}, {span}{leads}"))
    for gate in found:
        names = few(gate.late)
        head = "yes  " if gate.is_open else "no   "
        lines.append(with_head(head, f"{gate.title}{f': not {names}' if names else ''}"))
    if not mesh.is_issuer_read:
        lines.append("you may not read the issuer's Secret: a new issuer counts when the controller has published it")
    members, late = list(members), {name for gate in found[2:] for name in gate.late}
    views = [view_member(one) for one in members]
    if unreadable := sorted(late & {view_member(one).name for one in members if _is_status_unreadable(one)}):
        lines.append(f"counted although the status cannot be read: {few(unreadable)}; evict those that do not matter")
    if dead := sorted(late & {view.name for view in views if view.live is not None and not view.live.status}):
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
    if not newest.is_issuer_root:
        other = "; or, if the one in use chains to it, remove the other anchors"
        is_unknown = newest.is_issuer_root is None
        return f"you can install an issuer under anchor {newest.sha256[:12]}{other if is_unknown else ''}"
    may_go = ", ".join(anchor.sha256[:12] for anchor in older if not anchor.is_issuer_root)
    return f"as far as machines are concerned, you can remove anchor {may_go}"


def _counts(member: Object, view: MemberView) -> bool:
    """True if the gates wait for a Member. They do if its status cannot be read, since it may be admitted."""
    is_admitted = view.admitted is not None and view.admitted.status
    return not view.deleting and (is_admitted or _is_status_unreadable(member))


def _is_status_unreadable(member: Object) -> bool:
    """True if the conditions of a Member do not match the schema. A missing status is readable."""
    status = member.get("status") or {}
    conditions = (status.get("conditions") or []) if isinstance(status, dict) else None
    return not isinstance(conditions, list) or len(read_conditions(conditions)) < len(conditions)


def _against(view: MemberView, key: str, wanted: str) -> str:
    loaded = view.loaded.get(key)
    if not loaded:
        return "unknown"
    return "current" if loaded == wanted else loaded[:12]
