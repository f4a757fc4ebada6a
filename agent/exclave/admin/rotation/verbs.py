"""`rotation status`: which anchors and issuer each member has loaded, and whether the next step is safe.

The current anchors and issuer are read from Linkerd's ConfigMap and the issuer's Secret, so that a change closes the
gate at once, also without a controller. An admin who may not read the Secret gets the issuer from the groups' settings,
while a controller leads. Exit code 0 if every gate is open, else 3, so that a script can wait.
"""

import argparse
import base64
import binascii

from exclave.admin import arguments
from exclave.admin.check.verbs import TRUST_ROOTS, ClusterSnapshot
from exclave.admin.rotation.rows import (
    ROTATION_TITLES,
    GroupTrust,
    MeshTrust,
    advice,
    gates,
    rotation_row,
    trust_from_secret,
    trust_from_settings,
)
from exclave.admin.session import Session
from exclave.admin.tables import Listing
from exclave.api.fields import FieldError
from exclave.api.issuer import LAYOUTS, read_anchors
from exclave.api.names import ELECTION, SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, LEASES, MEMBERS, SECRETS, Object
from exclave.api.settings import parse_settings
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.formats.times import epoch

GATES_CLOSED = 3

LEADER_TIMEOUT = 20.0
"""Seconds. A leader renews its Lease every two seconds."""


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `rotation` to the command line."""
    verbs = arguments.add_subject(
        subparsers, "rotation", "rotation of trust anchors and issuers, by Linkerd's own procedure"
    )
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
    session.show(Listing(MEMBERS, members, ROTATION_TITLES, rows), options.output, "there are no members")
    found_gates = gates(mesh, published, members)
    session.note(*advice(mesh, found_gates, members))
    return 0 if all(gate.is_open for gate in found_gates) else GATES_CLOSED


def _current_trust(session: Session, found: ClusterSnapshot, published: list[GroupTrust]) -> MeshTrust:
    """Raises ClusterError if Linkerd's anchors cannot be read."""
    anchors = _anchors(session, found)
    place = (found.installation.issuer_namespace, found.installation.issuer_secret)
    try:
        secret = session.kubectl.get(SECRETS, *place)
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        return trust_from_settings(anchors, published, has_leader=_has_leader(session, found))
    return trust_from_secret(anchors, f"{place[0]}/{place[1]}", _chain(secret))


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


def _chain(secret: Object | None) -> str:
    """The certificates of an issuer's Secret (PEM), without its key; "" if there are none."""
    content = (secret or {}).get("data") or {}
    for certificate, _ in LAYOUTS:
        try:
            return base64.b64decode(content[certificate], validate=True).decode()
        except (KeyError, binascii.Error, UnicodeDecodeError):
            continue
    return ""


def _has_leader(session: Session, found: ClusterSnapshot) -> bool:
    """Whether a controller leads: without one the groups' settings may be out of date."""
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
            session.warn(
                [
                    f"the settings of group {where}/{name} cannot be read: {problem}; "
                    "use the controller's version of kubectl exclave"
                ]
            )
            published.append(GroupTrust(f"{where}/{name}", "", ""))  # its gate stays closed
        else:
            published.append(GroupTrust(f"{where}/{name}", settings.anchors, settings.issuer))
    return published
