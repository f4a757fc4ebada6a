"""`member list|describe|renew|evict|cordon|uncordon`: the machines that have joined."""

import argparse
from collections.abc import Iterable, Sequence
from functools import partial

from exclave.admin import arguments
from exclave.admin.member.renew import add_renew
from exclave.admin.member.rows import TITLES, certificate_words, in_group, member_lines, member_row
from exclave.admin.session import Session
from exclave.admin.tables import Listing, describe_text
from exclave.api.member import view_member
from exclave.api.names import CORDONED, accounts_namespace, parse_member_name
from exclave.api.requests import EVENTS, EXTERNAL_WORKLOADS, MEMBERS, SERVICE_ACCOUNTS, Object
from exclave.errors import ApiRefusal, UsageError
from exclave.kit.host.output import print_out


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `member` to the command line."""
    verbs = arguments.add_subject(subparsers, "member", "members: the machines that have joined")
    examples = ("kubectl exclave member list -n shop --group web", "kubectl exclave member list -A -o name")
    listed = arguments.add_list(verbs, _list, "members", *examples)
    listed.add_argument("--group", metavar="GROUP", help="only this group's members")
    arguments.add_describe(
        verbs,
        _describe,
        "show a member with its workload, conditions and events",
        "kubectl exclave member describe web-k7q2x-1 -n shop",
    )
    add_renew(verbs)
    for verb, run, summary, names in (
        ("evict", _evict, "end memberships at once", "web-k7q2x-1 web-k7q2x-2"),
        ("cordon", partial(_annotate, "true"), "stop new traffic from pods to members, until uncordon", "web-k7q2x-1"),
        ("uncordon", partial(_annotate, None), "let pods send traffic to members again", "web-k7q2x-1"),
    ):
        parser = arguments.add_verb(verbs, verb, run, summary, f"kubectl exclave member {verb} {names} -n shop")
        parser.add_argument("names", nargs="+", metavar="NAME")


def _list(session: Session, options: argparse.Namespace) -> int:
    members = session.list(MEMBERS, options)
    if options.group is not None:
        members = in_group(members, options.group)
    rows = [member_row(member, session.now()) for member in members]
    whose = f" of group {options.group}" if options.group else ""
    session.show_list(Listing(MEMBERS, members, TITLES, rows), options, f"members{whose}")
    return 0


def _describe(session: Session, options: argparse.Namespace) -> int:
    member = session.find(MEMBERS, "member", options.name)
    if not session.show_object(MEMBERS, member, options.output):
        workload = session.kubectl.get(EXTERNAL_WORKLOADS, session.namespace, options.name)
        events = _events(session, options.name, [one for one in (member, workload) if one is not None])
        print_out(describe_text(member_lines(member, workload, events, session.now())))
    return 0


def _events(session: Session, name: str, current: Sequence[Object]) -> list[Object]:
    """The events of a member and its ExternalWorkload; none if the admin may not read events."""
    try:
        found = session.kubectl.list(EVENTS, session.namespace, fields=f"regarding.name={name}")
    except ApiRefusal:
        return []
    return events_of(found, current)


def events_of(events: Iterable[Object], current: Sequence[Object]) -> list[Object]:
    """The events of a Member and its ExternalWorkload, without those of earlier objects of the same name.

    `current` are the two objects, as far as they exist. Their uids tell objects of one name apart.
    """
    uids = {(one["kind"], one["metadata"].get("uid")) for one in current}
    with_uid = [(event, event.get("regarding") or {}) for event in events]
    return [event for event, regarding in with_uid if (regarding.get("kind"), regarding.get("uid")) in uids]


def _evict(session: Session, options: argparse.Namespace) -> int:
    for name in options.names:
        evict(session, name)
    return 0


def evict(session: Session, name: str) -> None:
    """End one membership and print the consequences. Raises ExclaveError."""
    kubectl = session.kubectl
    try:
        account = parse_member_name(name).account
    except ValueError as problem:
        raise UsageError(str(problem), "list them: kubectl exclave member list -A") from None
    member = kubectl.get(MEMBERS, session.namespace, name)
    # The account first, with the admin's own rights: so its credential becomes invalid even without a controller.
    had_account = kubectl.delete(SERVICE_ACCOUNTS, accounts_namespace(session.namespace), account)
    if member is None and not had_account:
        raise session.missing_error("member", name)
    kubectl.delete(MEMBERS, session.namespace, name)  # its finalizer lets the controller withdraw the ports
    print_out(f"member {name} evicted")
    ends = certificate_words(view_member(member), session.now()) if member is not None else "none yet"
    session.note(
        f"within about ten seconds the API server refuses its credential; its certificate: {ends}; the controller "
        "withdraws its ports"
    )


def _annotate(value: str | None, session: Session, options: argparse.Namespace) -> int:
    """Set or (None) remove the annotation of cordoned members, which machines cannot write."""
    for name in options.names:
        try:
            session.kubectl.patch(MEMBERS, session.namespace, name, {"metadata": {"annotations": {CORDONED: value}}})
        except ApiRefusal as refusal:
            if refusal.reason == "NotFound":
                raise session.missing_error("member", name) from None
            raise
        print_out(f"member {name} {'uncordoned' if value is None else 'cordoned'}")
    return 0
