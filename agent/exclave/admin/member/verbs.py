"""`member list|describe|evict|cordon|uncordon`: the machines that have joined.

Rules: evicting deletes the machine's account first, with the admin's own rights, so that its credential dies whether
the controller is there or not; then the Member, whose finalizer lets the controller walk it back. Cordoning is an
annotation, which machines cannot write.
"""

import argparse

from exclave.admin.arguments import Subparsers, add_everywhere, add_output, add_subject, add_verb
from exclave.admin.member.rows import certificate_words, in_group, member_lines, member_row, member_titles
from exclave.admin.session import Desk
from exclave.admin.tables import Listing, labelled
from exclave.api.member import view_member
from exclave.api.names import CORDONED, accounts_namespace, parse_member_name
from exclave.api.requests import EVENTS, EXTERNAL_WORKLOADS, MEMBERS, SERVICE_ACCOUNTS, Object
from exclave.errors import ApiRefusal, ExclaveError, Fault


def add_commands(subparsers: Subparsers) -> None:
    """Add `member` to the command line."""
    verbs = add_subject(subparsers, "member", "members: the machines that have joined")
    listed = add_verb(
        verbs,
        "list",
        _list,
        "list members",
        "kubectl exclave member list -n shop --group web",
        "kubectl exclave member list -A -o name",
    )
    listed.add_argument("--group", metavar="GROUP", help="of this group only")
    add_everywhere(listed)
    add_output(listed)
    describe = add_verb(
        verbs,
        "describe",
        _describe,
        "say everything that is known of a member",
        "kubectl exclave member describe web-k7q2x-1 -n shop",
    )
    describe.add_argument("name", metavar="NAME")
    add_output(describe)
    evict = add_verb(
        verbs,
        "evict",
        _evict,
        "end memberships at once: account first, then the member",
        "kubectl exclave member evict web-k7q2x-1 web-k7q2x-2 -n shop",
    )
    evict.add_argument("names", nargs="+", metavar="NAME")
    for verb, run, told in (
        ("cordon", _cordon, "let pods send a member no new traffic, until uncordon"),
        ("uncordon", _uncordon, "let pods send a member traffic again"),
    ):
        parser = add_verb(verbs, verb, run, told, f"kubectl exclave member {verb} web-k7q2x-1 -n shop")
        parser.add_argument("names", nargs="+", metavar="NAME")


def _list(desk: Desk, options: argparse.Namespace) -> int:
    everywhere = options.all_namespaces
    members = desk.kubectl.list(MEMBERS, None if everywhere else desk.namespace)
    if options.group is not None:
        members = in_group(members, options.group)
    rows = [member_row(member, desk.now(), everywhere) for member in members]
    where = "any namespace" if everywhere else f"namespace {desk.namespace}"
    whose = f" of group {options.group}" if options.group else ""
    desk.show(
        Listing(MEMBERS, members, member_titles(everywhere), rows), options.output, f"no members{whose} in {where}"
    )
    return 0


def _describe(desk: Desk, options: argparse.Namespace) -> int:
    member = _need(desk, options.name)
    if options.output not in (None, "wide"):
        desk.show(Listing(MEMBERS, [member], single=True), options.output, "")
        return 0
    workload = desk.kubectl.get(EXTERNAL_WORKLOADS, desk.namespace, options.name)
    print(labelled(member_lines(member, workload, _events(desk, options.name), desk.now())))
    return 0


def _evict(desk: Desk, options: argparse.Namespace) -> int:
    for name in options.names:
        evict(desk, name)
    return 0


def evict(desk: Desk, name: str) -> None:
    """End one membership, and say what that means. Raises ExclaveError."""
    kubectl = desk.kubectl
    try:
        account = parse_member_name(name).account
    except ValueError as problem:
        raise ExclaveError(Fault.USAGE, str(problem), "see: kubectl exclave member list -A") from None
    member = kubectl.get(MEMBERS, desk.namespace, name)
    had_account = kubectl.delete(SERVICE_ACCOUNTS, accounts_namespace(desk.namespace), account)
    if member is None and not had_account:
        raise _nobody(name, desk.namespace)
    kubectl.delete(MEMBERS, desk.namespace, name)
    print(f"member {name} evicted")
    ends = certificate_words(view_member(member), desk.now()) if member is not None else "none yet"
    desk.note(
        f"new requests with its credential fail within about ten seconds; its certificate: {ends}; the controller "
        "withdraws its ports"
    )


def _cordon(desk: Desk, options: argparse.Namespace) -> int:
    return _annotate(desk, options.names, "true", "cordoned")


def _uncordon(desk: Desk, options: argparse.Namespace) -> int:
    return _annotate(desk, options.names, None, "uncordoned")


def _annotate(desk: Desk, names: list[str], value: str | None, told: str) -> int:
    for name in names:
        try:
            desk.kubectl.patch(MEMBERS, desk.namespace, name, {"metadata": {"annotations": {CORDONED: value}}})
        except ApiRefusal as refusal:
            if refusal.reason == "NotFound":
                raise _nobody(name, desk.namespace) from None
            raise
        print(f"member {name} {told}")
    return 0


def _need(desk: Desk, name: str) -> Object:
    found = desk.kubectl.get(MEMBERS, desk.namespace, name)
    if found is None:
        raise _nobody(name, desk.namespace)
    return found


def _nobody(name: str, namespace: str) -> ExclaveError:
    return ExclaveError(
        Fault.USAGE, f"there is no member {name} in namespace {namespace}", "see: kubectl exclave member list -A"
    )


def _events(desk: Desk, name: str) -> list[Object]:
    """The events that concern a member or its ExternalWorkload; none if they may not be read."""
    try:
        found = desk.kubectl.list(EVENTS, desk.namespace, fields=f"regarding.name={name}")
    except ApiRefusal:
        return []
    kinds = (MEMBERS.kind, EXTERNAL_WORKLOADS.kind)
    return [event for event in found if (event.get("regarding") or {}).get("kind") in kinds]
