"""`member list|describe|evict|cordon|uncordon`: the machines that have joined.

Evicting first deletes the machine's account, with the admin's own rights, so that its credential becomes invalid also
without a controller; then the Member, whose finalizer lets the controller withdraw its ports. Cordoning sets an
annotation that machines cannot write.
"""

import argparse

from exclave.admin.arguments import Subparsers, add_all_namespaces, add_output, add_subject, add_verb
from exclave.admin.member.rows import certificate_words, in_group, member_lines, member_row, member_titles
from exclave.admin.session import Session
from exclave.admin.tables import Listing, describe_text
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
    listed.add_argument("--group", metavar="GROUP", help="only this group's members")
    add_all_namespaces(listed)
    add_output(listed)
    describe = add_verb(
        verbs,
        "describe",
        _describe,
        "show a member with its workload, conditions and events",
        "kubectl exclave member describe web-k7q2x-1 -n shop",
    )
    describe.add_argument("name", metavar="NAME")
    add_output(describe)
    evict = add_verb(
        verbs,
        "evict",
        _evict,
        "end memberships at once",
        "kubectl exclave member evict web-k7q2x-1 web-k7q2x-2 -n shop",
    )
    evict.add_argument("names", nargs="+", metavar="NAME")
    for verb, run, summary in (
        ("cordon", _cordon, "stop new traffic from pods to members, until uncordon"),
        ("uncordon", _uncordon, "let pods send traffic to members again"),
    ):
        parser = add_verb(verbs, verb, run, summary, f"kubectl exclave member {verb} web-k7q2x-1 -n shop")
        parser.add_argument("names", nargs="+", metavar="NAME")


def _list(session: Session, options: argparse.Namespace) -> int:
    all_namespaces = options.all_namespaces
    members = session.kubectl.list(MEMBERS, None if all_namespaces else session.namespace)
    if options.group is not None:
        members = in_group(members, options.group)
    rows = [member_row(member, session.now(), all_namespaces) for member in members]
    where = "any namespace" if all_namespaces else f"namespace {session.namespace}"
    whose = f" of group {options.group}" if options.group else ""
    session.show(
        Listing(MEMBERS, members, member_titles(all_namespaces), rows), options.output, f"no members{whose} in {where}"
    )
    return 0


def _describe(session: Session, options: argparse.Namespace) -> int:
    member = _get_existing(session, options.name)
    if options.output not in (None, "wide"):
        session.show(Listing(MEMBERS, [member], single=True), options.output, "")
        return 0
    workload = session.kubectl.get(EXTERNAL_WORKLOADS, session.namespace, options.name)
    print(describe_text(member_lines(member, workload, _events(session, options.name), session.now())))
    return 0


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
        raise ExclaveError(Fault.USAGE, str(problem), "list them: kubectl exclave member list -A") from None
    member = kubectl.get(MEMBERS, session.namespace, name)
    had_account = kubectl.delete(SERVICE_ACCOUNTS, accounts_namespace(session.namespace), account)
    if member is None and not had_account:
        raise _no_member(name, session.namespace)
    kubectl.delete(MEMBERS, session.namespace, name)
    print(f"member {name} evicted")
    ends = certificate_words(view_member(member), session.now()) if member is not None else "none yet"
    session.note(
        f"within about ten seconds the API server refuses its credential; its certificate: {ends}; the controller "
        "withdraws its ports"
    )


def _cordon(session: Session, options: argparse.Namespace) -> int:
    return _annotate(session, options.names, "true", "cordoned")


def _uncordon(session: Session, options: argparse.Namespace) -> int:
    return _annotate(session, options.names, None, "uncordoned")


def _annotate(session: Session, names: list[str], value: str | None, done: str) -> int:
    for name in names:
        try:
            session.kubectl.patch(MEMBERS, session.namespace, name, {"metadata": {"annotations": {CORDONED: value}}})
        except ApiRefusal as refusal:
            if refusal.reason == "NotFound":
                raise _no_member(name, session.namespace) from None
            raise
        print(f"member {name} {done}")
    return 0


def _get_existing(session: Session, name: str) -> Object:
    found = session.kubectl.get(MEMBERS, session.namespace, name)
    if found is None:
        raise _no_member(name, session.namespace)
    return found


def _no_member(name: str, namespace: str) -> ExclaveError:
    return ExclaveError(
        Fault.USAGE, f"there is no member {name} in namespace {namespace}", "list them: kubectl exclave member list -A"
    )


def _events(session: Session, name: str) -> list[Object]:
    """The events of a member and its ExternalWorkload; none if the admin may not read events."""
    try:
        found = session.kubectl.list(EVENTS, session.namespace, fields=f"regarding.name={name}")
    except ApiRefusal:
        return []
    kinds = (MEMBERS.kind, EXTERNAL_WORKLOADS.kind)
    return [event for event in found if (event.get("regarding") or {}).get("kind") in kinds]
