"""`rotation status`: which members have loaded which anchors and chain to which issuer; the gate of every step.

Rules: what members are told to load is read where they read it, from their groups' settings. Ends with 0 if both gates
are open, else with 3, so that a script can wait for it.
"""

import argparse
from collections.abc import Iterable

from exclave.admin.arguments import Subparsers, add_output, add_subject, add_verb
from exclave.admin.desk import Desk
from exclave.admin.rotation_rows import ROTATION_TITLES, Published, advice, gates, rotation_row
from exclave.admin.tables import Listing
from exclave.cluster.requests import CONFIG_MAPS, MEMBERS, WORKLOAD_GROUPS, Object
from exclave.errors import ClusterError, Fault
from exclave.member.settings import parse_settings
from exclave.member.spec import SETTINGS_KEY, settings_name

NOT_YET = 3


def add_commands(subparsers: Subparsers) -> None:
    """Add `rotation` to the command line."""
    verbs = add_subject(subparsers, "rotation", "rotating trust anchors and issuers, by Linkerd's own procedure")
    status = add_verb(
        verbs,
        "status",
        _status,
        "say which members have loaded what, and whether the next step may be taken",
        "kubectl exclave rotation status",
        "# wait for the gates\nuntil kubectl exclave rotation status; do sleep 10; done",
    )
    add_output(status)


def _status(desk: Desk, options: argparse.Namespace) -> int:
    published = _published(desk, desk.kubectl.list(WORKLOAD_GROUPS))
    members = desk.kubectl.list(MEMBERS)
    rows = [rotation_row(published, one) for one in members]
    desk.show(Listing(MEMBERS, members, ROTATION_TITLES, rows), options.output, "there are no members")
    found = gates(published, members)
    desk.note(*advice(published, found))
    return 0 if all(gate.is_open for gate in found) else NOT_YET


def _published(desk: Desk, groups: Iterable[Object]) -> Published:
    """What the controller has told the groups. Raises ClusterError if it has told none."""
    for group in groups:
        where, name = group["metadata"]["namespace"], group["metadata"]["name"]
        found = desk.kubectl.get(CONFIG_MAPS, where, settings_name(name))
        if found is None:
            continue
        try:
            settings = parse_settings(str((found.get("data") or {}).get(SETTINGS_KEY, "")))
        except ValueError as problem:
            raise ClusterError(
                Fault.UNREACHABLE, f"the settings of group {where}/{name} cannot be read: {problem}",
                "use a kubectl exclave as new as the controller",
            ) from None  # fmt: skip
        return Published(settings.anchors, settings.issuer)
    raise ClusterError(
        Fault.UNREACHABLE,
        "no group has settings yet, so there is nothing to compare members with",
        "see that the controller runs: kubectl exclave check",
    )
