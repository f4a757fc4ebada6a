"""`group create|list|describe|delete`: which machines may join, and with which identity.

Creating an existing group changes only the given options. Namespaces are never deleted, because others may use them.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from exclave.admin import arguments
from exclave.admin.check.rights import MACHINE_ACCOUNT
from exclave.admin.check.snapshot import find_foreign, find_linkerd_namespace, find_opaque_ports
from exclave.admin.group.checks import (
    check_accounts_namespace,
    check_namespace,
    checked_spec,
    group_warnings,
    labels_of,
    merge_spec,
    parsed_spec,
    selecting,
    spec_from_options,
)
from exclave.admin.member.rows import TITLES as MEMBER_TITLES
from exclave.admin.member.rows import condition_table, in_group, is_live, member_row
from exclave.admin.member.verbs import evict
from exclave.admin.objects import group_objects, group_roles, plan_change
from exclave.admin.session import Session
from exclave.admin.tables import Listing, age, describe_text, table, yaml_file
from exclave.admin.token.verbs import TITLES as TOKEN_TITLES
from exclave.admin.token.verbs import TokenAccount, token_accounts, token_row
from exclave.api import requests as kinds
from exclave.api.definitions.account_rights import (
    adopted_names,
    adopted_text,
    bindings_text,
    foreign_bindings,
    not_adopted,
)
from exclave.api.group import INBOUND_POLICIES, GroupSpec, account_of
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.member import condition_of
from exclave.api.names import ADMISSION_POLICY_NAMES, ADOPTED, GROUPS_LABEL, accounts_namespace
from exclave.api.requests import Object, Resource
from exclave.errors import ApiRefusal, ExclaveError, UsageError
from exclave.kit.formats.times import format_duration
from exclave.kit.host.output import print_out

TITLES = ("NAMESPACE", "NAME", "ACCOUNT", "PORTS", "NETWORKS", "LIVE", "ACCEPTED", "AGE")


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `group` to the command line."""
    verbs = arguments.add_subject(subparsers, "group", "groups: which machines may join, and with which identity")
    _add_create(verbs)
    arguments.add_list(verbs, _list, "groups", "kubectl exclave group list -A")
    summary = "show a group with its members, join tokens and Services"
    arguments.add_describe(verbs, _describe, summary, "kubectl exclave group describe web -n shop")
    delete = arguments.add_verb(
        verbs,
        "delete",
        _delete,
        "delete a group that has no members",
        "kubectl exclave group delete web -n shop --evict-members",
    )
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("--evict-members", action="store_true", help="evict its members first")


def _add_create(verbs: arguments.Subparsers) -> None:
    create = arguments.add_verb(
        verbs,
        "create",
        _create,
        "create a group with the rights that its machines need, or change it",
        "# machines of 10.1.0.0/16 that serve HTTP on port 8080\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --port name=http,port=8080 --label app=web",
        "# a database whose protocol the proxy must not parse, with certificates of one hour\n"
        "kubectl exclave group create db -n shop --network 10.2.0.0/24 --port name=pg,port=5432,opaque "
        "--certificate-lifetime 1h",
        "# pods send traffic while port 8080 answers; a machine that is silent for a week is deleted\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --port 8080 --probe port=8080,every=2s "
        "--forget-after 168h",
        "# as a file, for kubectl apply or GitOps\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --dry-run >web.yaml",
    )
    create.add_argument("name", metavar="NAME")
    probe = "8080, or port=8080[,every=5s][,timeout=2s][,failures=3]"
    for option, metavar, summary in (
        ("--network", "CIDR", "a network of its machines' addresses"),
        ("--port", "PORT", "a port that its machines serve: 8080, or name=http,port=8080[,opaque]"),
        ("--label", "KEY=VALUE", "a label by which Services select its machines"),
        ("--probe", "PROBE", f"a TCP port that must answer before a machine gets traffic: {probe}"),
    ):
        create.add_argument(option, action="append", default=[], metavar=metavar, help=f"{summary}; repeatable")
    lost = "after=30s,outbound=open,inbound=closed, or a part of it"
    for option, metavar, summary in (
        ("--service-account", "NAME", "the ServiceAccount that is its mesh identity; default: the group's name"),
        ("--certificate-lifetime", "TIME", "lifetime of its machines' certificates; default: 24h"),
        ("--failure", "POLICY", f"what happens to traffic when the proxy is down: {lost}"),
        ("--forget-after", "TIME", "delete a member after so much time without a heartbeat; default: 720h"),
        ("--proxy-cores", "N", "threads of each proxy that carry traffic; default: as Linkerd sets it for pods"),
    ):
        create.add_argument(option, metavar=metavar, help=summary)
    outbound = "outbound traffic that goes through the proxy; default: cluster"
    create.add_argument("--capture", choices=("cluster", "all", "none"), help=outbound)
    inbound = f"who may connect by default: {', '.join(INBOUND_POLICIES)}"
    create.add_argument("--inbound-policy", choices=INBOUND_POLICIES, metavar="POLICY", help=inbound)
    adopt = "accept that others have rights in the namespace of its machines' accounts, or have made it; prints who"
    create.add_argument("--adopt", action="store_true", help=adopt)
    arguments.add_controller_namespace(create)
    arguments.add_dry_run(create)


def _create(session: Session, options: argparse.Namespace) -> int:
    name, namespace = options.name, session.namespace
    check_namespace(namespace, name, options.controller_namespace)
    chosen = spec_from_options(**vars(options))
    if options.dry_run:
        if options.adopt:
            raise UsageError("--adopt reads the cluster, and --dry-run does not", f"annotate the group: {ADOPTED}")
        checked_spec(name, chosen)
        print_out(yaml_file(one.body for one in group_objects(namespace, name, chosen, options.controller_namespace)))
        return 0
    linkerd = find_linkerd_namespace(session.kubectl, options.controller_namespace)
    check_namespace(namespace, name, options.controller_namespace, linkerd)
    found = session.kubectl.get(kinds.WORKLOAD_GROUPS, namespace, name)
    odd, foreign = _check_accounts_namespace(session, options, found)
    spec = merge_spec(chosen, (found or {}).get("spec") or {})
    session.warn([f"{one} is no machine's but has a machine's rights: move it to another namespace" for one in odd])
    session.warn(_rights_warnings(session, foreign))
    session.warn(_warnings(session, name, spec, linkerd))
    for manifest in group_objects(namespace, name, spec, options.controller_namespace):
        if manifest.resource is kinds.WORKLOAD_GROUPS and (foreign or adopted_names(found)):
            manifest.body["metadata"]["annotations"] = {ADOPTED: adopted_text(foreign) or None}
        change = session.apply(plan_change(manifest, session.kubectl.get(*manifest.key)))
        if change.verb != "none" or manifest.resource is kinds.WORKLOAD_GROUPS:
            print_out(str(change))
    session.note(f"to let a machine join: kubectl exclave token create {name} -n {namespace}")
    return 0


def _check_accounts_namespace(
    session: Session, options: argparse.Namespace, group: Object | None
) -> tuple[list[str], list[Object]]:
    """The foreign objects among the machines' accounts, and the RoleBindings of others there, which are accepted.

    `group`: the group, if it exists. Raises ExclaveError if the namespace belongs to others.
    """
    kubectl, home = session.kubectl, accounts_namespace(session.namespace)
    found = kubectl.get(kinds.NAMESPACES, None, home)
    odd = find_foreign(kubectl, home) if found else []
    bindings = kubectl.list(kinds.ROLE_BINDINGS, home) if found else []
    foreign = foreign_bindings(bindings, home, options.controller_namespace)
    new = not_adopted(foreign, adopted_names(group))
    claims = [bindings_text(new)] if new else []
    if found and group is None:  # somebody may have tokens of accounts that are older than the group
        claims += [f"ServiceAccount {one}" for one in _accounts_of(session, options.name)]
    check_accounts_namespace(found, session.namespace, odd, claims, adopt=options.adopt)
    return odd, foreign


def _rights_warnings(session: Session, foreign: list[Object]) -> list[str]:
    """Warnings about who else has rights: `foreign` among the machines' accounts, others in the group's namespace."""
    kubectl, namespace = session.kubectl, session.namespace
    warnings = []
    if foreign:
        home = accounts_namespace(namespace)
        warnings.append(f"who has rights in namespace {home} can be any machine of the group: {bindings_text(foreign)}")
    found = kubectl.get(kinds.NAMESPACES, None, namespace)
    is_new = found is not None and GROUPS_LABEL not in (found["metadata"].get("labels") or {})
    if is_new and (bindings := kubectl.list(kinds.ROLE_BINDINGS, namespace)):
        warnings.append(
            f"namespace {namespace} exists already; who has rights in it has them over the group: "
            f"{bindings_text(bindings)}"
        )
    return warnings


def _accounts_of(session: Session, group: str) -> list[str]:
    """The names of a group's accounts of machines and join tokens."""
    found = session.kubectl.list(kinds.SERVICE_ACCOUNTS, accounts_namespace(session.namespace))
    names = [str(one["metadata"]["name"]) for one in found]
    return [name for name in names if MACHINE_ACCOUNT.fullmatch(name) and name.partition(".")[0] == group]


def _warnings(session: Session, name: str, spec: Object, linkerd: str) -> list[str]:
    """Check the spec; returns warnings. Raises ExclaveError for an invalid spec. `linkerd`: Linkerd's namespace."""
    kubectl, namespace = session.kubectl, session.namespace
    labels = {key: value for key, value in (spec.get("labels") or {}).items() if value is not None}
    checked = checked_spec(name, {**spec, "labels": labels})
    groups, services, pods = (
        kubectl.list(kind, namespace) for kind in (kinds.WORKLOAD_GROUPS, kinds.SERVICES, kinds.PODS)
    )
    opaque_ports = find_opaque_ports(kubectl, linkerd)
    warnings = group_warnings(name, checked, groups, services, pods, opaque_ports=opaque_ports)
    bindings = kinds.VALIDATING_ADMISSION_POLICY_BINDINGS
    try:
        guarded = all(kubectl.get(bindings, None, one) for one in ADMISSION_POLICY_NAMES)
    except ApiRefusal:
        return [*warnings, "your rights do not allow to check whether exclave's admission policies are installed"]
    if not guarded:
        warnings.append(
            "exclave's admission policies are not installed; without them the controller admits no machine: "
            "kubectl exclave install"
        )
    return warnings


def _list(session: Session, options: argparse.Namespace) -> int:
    groups = session.list(kinds.WORKLOAD_GROUPS, options)
    members = session.list(kinds.MEMBERS, options) if groups and options.output in (None, "wide") else []
    rows = [group_row(group, _members_of(group, members), session.now()) for group in groups]
    session.show_list(Listing(kinds.WORKLOAD_GROUPS, groups, TITLES, rows), options, "groups")
    return 0


def _members_of(group: Object, members: list[Object]) -> list[Object]:
    metadata = group["metadata"]
    here = [one for one in members if one["metadata"].get("namespace") == metadata.get("namespace")]
    return in_group(here, metadata["name"])


def _describe(session: Session, options: argparse.Namespace) -> int:
    name, kubectl, namespace = options.name, session.kubectl, session.namespace
    group = session.find(kinds.WORKLOAD_GROUPS, "group", name)
    if session.show_object(kinds.WORKLOAD_GROUPS, group, options.output):
        return 0
    try:
        spec = parsed_spec(name, group.get("spec") or {})
    except ExclaveError as problem:  # an invalid group must be printed, too, so that it can be corrected
        print_out(describe_text(broken_lines(group, problem.message)))
        return 0
    members = in_group(kubectl.list(kinds.MEMBERS, namespace), name)
    services = selecting(kubectl.list(kinds.SERVICES, namespace), labels_of(name, spec))
    print_out(describe_text(group_lines(group, spec, members, _tokens(session, name), services, session.now())))
    return 0


def _delete(session: Session, options: argparse.Namespace) -> int:
    name, kubectl, namespace = options.name, session.kubectl, session.namespace
    group = session.find(kinds.WORKLOAD_GROUPS, "group", name)
    members = [one["metadata"]["name"] for one in in_group(kubectl.list(kinds.MEMBERS, namespace), name)]
    if members and not options.evict_members:
        count = "1 member" if len(members) == 1 else f"{len(members)} members"
        raise UsageError(
            f"group {name} has {count}: {', '.join(members[:10])}{', …' if len(members) > 10 else ''}",
            "let them leave (exclave leave, on each machine), or evict them: --evict-members",
        )
    accounts = accounts_namespace(namespace)
    for token in _tokens(session, name):  # first, so that no machine joins meanwhile
        _remove(session, kinds.SERVICE_ACCOUNTS, accounts, token.name)
    for member in members:
        evict(session, member)
    if members and not session.wait_until(lambda: not _left(session, name), "its members to be gone"):
        session.warn([f"still leaving: {', '.join(_left(session, name))}; the group goes when they are gone"])
    _remove(session, kinds.WORKLOAD_GROUPS, namespace, name)
    for role in group_roles(name):
        for resource in (kinds.ROLE_BINDINGS, kinds.ROLES):
            _remove(session, resource, namespace, role)
    account = (group.get("spec") or {}).get("serviceAccount") or name
    session.note(
        f"not deleted: namespaces {namespace} and {accounts}, the Roles in them that other groups use, and "
        f"ServiceAccount {account}"
    )
    return 0


def _left(session: Session, group: str) -> list[str]:
    return [one["metadata"]["name"] for one in in_group(session.kubectl.list(kinds.MEMBERS, session.namespace), group)]


def _remove(session: Session, resource: Resource, namespace: str, name: str) -> None:
    if session.kubectl.delete(resource, namespace, name):
        print_out(f"{resource.kind.lower()} {name} in {namespace} deleted")


def _tokens(session: Session, group: str) -> list[TokenAccount]:
    found = session.kubectl.list(kinds.SERVICE_ACCOUNTS, accounts_namespace(session.namespace))
    return [token for token in token_accounts(found) if token.group == group]


# Rows and descriptions.


def group_row(group: Object, members: Sequence[Object], now: float) -> list[str]:
    """A row of `group list`. LIVE is the number of live members, then of all."""
    metadata, spec = group["metadata"], mapping_in(group, "spec")
    networks = spec.get("networks")
    return [
        str(metadata.get("namespace", "")),
        metadata["name"],
        account_of(group),
        ",".join(_port_words(port) for port in mappings_in(spec, "ports")),
        ",".join(map(str, networks if isinstance(networks, list) else ())),
        f"{sum(map(is_live, members))}/{len(members)}",
        accepted_words(group),
        age(metadata.get("creationTimestamp"), now),
    ]


def accepted_words(group: Object) -> str:
    """The controller's verdict in one word."""
    accepted = condition_of(group, "Accepted")
    if accepted is None:
        return "Unknown"
    return "True" if accepted.status else accepted.reason


def group_lines(
    group: Object,
    spec: GroupSpec,
    members: Sequence[Object],
    tokens: Sequence[TokenAccount],
    services: Sequence[Object],
    now: float,
) -> list[tuple[str, str]]:
    """Labels and texts of a description."""
    metadata = group["metadata"]
    labels = [f"{key}={value}" for key, value in sorted(labels_of(metadata["name"], spec).items())]
    lost = spec.failure
    member_names = [member["metadata"]["name"] for member in members]
    member_rows = [member_row(member, now)[1:] for member in members]
    token_rows = [token_row(token, member_names, now) for token in tokens]
    return [
        ("Name", metadata["name"]),
        ("Namespace", str(metadata.get("namespace", ""))),
        ("Age", age(metadata.get("creationTimestamp"), now)),
        ("Service account", spec.service_account),
        ("Networks", ", ".join(spec.networks)),
        ("Ports", ", ".join(_port_words(vars(port)) for port in spec.ports)),
        ("Labels", ", ".join(labels)),
        ("Certificates", f"valid for {format_duration(spec.certificate_lifetime)}"),
        ("Capture", spec.capture),
        ("Inbound policy", spec.inbound_policy or "the mesh's"),
        ("Proxy cores", str(spec.proxy_cores or "the mesh's")),
        ("Probes", ", ".join(f"{probe.kind} {probe.port}" for probe in spec.probes)),
        ("On failure", f"after {format_duration(lost.after)}: outbound {lost.outbound}, inbound {lost.inbound}"),
        ("Forgotten", f"{format_duration(spec.forget_after)} after the last heartbeat"),
        ("Conditions", condition_table(group)),
        ("Services", ", ".join(service["metadata"]["name"] for service in services)),
        ("Tokens", table(TOKEN_TITLES, token_rows)),
        ("Members", table(MEMBER_TITLES[1:], member_rows)),
    ]


def broken_lines(group: Object, why: str) -> list[tuple[str, str]]:
    """The description of a group with an invalid spec."""
    metadata = group["metadata"]
    return [
        ("Name", metadata["name"]),
        ("Namespace", str(metadata.get("namespace", ""))),
        ("Spec", f"invalid: {why}"),
        ("Conditions", condition_table(group)),
    ]


def _port_words(port: Any) -> str:
    name, number = port.get("name"), port.get("port")
    words = str(number) if name in (None, "", str(number)) else f"{name}:{number}"
    return f"{words}/opaque" if port.get("opaque") else words
