"""`rotation status`: which members have loaded which anchors and chain to which issuer; the gate of every step.

Rules: what is true now is read where an admin puts it, from Linkerd's trust roots and the issuer's Secret, so that a
step just taken closes the gate at once, whether a controller runs or not. Whoever may not read that Secret learns of a
new issuer from the settings of all groups, and only while a controller leads. Ends with 0 if every gate is open, else
with 3, so that a script can wait for it.
"""

import argparse
import base64
import binascii

from exclave.admin.arguments import Subparsers, add_output, add_subject, add_verb
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
from exclave.api.issuer import LAYOUTS, read_anchors
from exclave.api.names import ELECTION, SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, LEASES, MEMBERS, SECRETS, Object
from exclave.api.settings import parse_settings
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave.kit.formats.rfc3339 import epoch

GATES_CLOSED = 3

LEADER_TIMEOUT = 20.0
"""Seconds: a controller that leads renews its Lease every two."""


def add_commands(subparsers: Subparsers) -> None:
    """Add `rotation` to the command line."""
    verbs = add_subject(subparsers, "rotation", "rotating trust anchors and issuers, by Linkerd's own procedure")
    status = add_verb(
        verbs,
        "status",
        _status,
        "say which members have loaded what, and whether the next step may be taken",
        "kubectl exclave rotation status",
        "# after each step: wait until the next one may be taken\n"
        "until kubectl exclave rotation status; do sleep 10; done",
    )
    status.add_argument("-L", "--linkerd-namespace", metavar="NAME", help="where Linkerd is; as installed, if absent")
    status.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="where the controller is")
    add_output(status)


def _status(session: Session, options: argparse.Namespace) -> int:
    found = ClusterSnapshot(session.kubectl, options.controller_namespace, options.linkerd_namespace)
    told = _told(session, found)
    mesh = _mesh(session, found, told)
    members = session.kubectl.list(MEMBERS)
    rows = [rotation_row(mesh, one) for one in members]
    session.show(Listing(MEMBERS, members, ROTATION_TITLES, rows), options.output, "there are no members")
    looked_at = gates(mesh, told, members)
    session.note(*advice(mesh, looked_at, members))
    return 0 if all(gate.is_open for gate in looked_at) else GATES_CLOSED


def _mesh(session: Session, found: ClusterSnapshot, told: list[GroupTrust]) -> MeshTrust:
    """What is true now. Raises ClusterError if Linkerd's anchors cannot be read."""
    anchors = _anchors(session, found)
    place = (found.installation.issuer_namespace, found.installation.issuer_secret)
    try:
        secret = session.kubectl.get(SECRETS, *place)
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        return trust_from_settings(anchors, told, leads=_leads(session, found))
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
    """The certificates of an issuer's Secret as PEM, and not its key; "" if there are none."""
    content = (secret or {}).get("data") or {}
    for certificate, _ in LAYOUTS:
        try:
            return base64.b64decode(content[certificate], validate=True).decode()
        except (KeyError, binascii.Error, UnicodeDecodeError):
            continue
    return ""


def _leads(session: Session, found: ClusterSnapshot) -> bool:
    """Whether a controller leads, so that what groups have been told is not of long ago."""
    lease = session.kubectl.get(LEASES, found.installation.namespace, ELECTION) or {}
    spec = lease.get("spec") or {}
    renewed = epoch(str(spec.get("renewTime") or ""))
    return bool(spec.get("holderIdentity")) and renewed is not None and abs(session.now() - renewed) < LEADER_TIMEOUT


def _told(session: Session, found: ClusterSnapshot) -> list[GroupTrust]:
    """What the controller has told each group; nothing of a group that it has told nothing."""
    told = []
    for group in found.groups:
        where, name = group["metadata"]["namespace"], group["metadata"]["name"]
        settings_map = session.kubectl.get(CONFIG_MAPS, where, settings_name(name))
        if settings_map is None:
            continue
        try:
            settings = parse_settings(str((settings_map.get("data") or {}).get(SETTINGS_KEY, "")))
        except ValueError as problem:
            raise ClusterError(
                Fault.UNREACHABLE, f"the settings of group {where}/{name} cannot be read: {problem}",
                "use a kubectl exclave as new as the controller",
            ) from None  # fmt: skip
        told.append(GroupTrust(f"{where}/{name}", settings.anchors, settings.issuer))
    return told
