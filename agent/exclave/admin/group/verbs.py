"""`group create|list|describe|delete`: which machines may join, and with which identity.

Creating an existing group changes only what the options name, and prints what was changed. `--dry-run` prints the
objects and does not need the cluster. A group with members is deleted only on request. Namespaces are never deleted,
because others may use them.
"""

import argparse

from exclave.admin.arguments import (
    Subparsers,
    add_all_namespaces,
    add_controller_namespace,
    add_output,
    add_subject,
    add_verb,
)
from exclave.admin.check.rights import foreign_objects
from exclave.admin.check.verbs import ClusterSnapshot
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
from exclave.admin.group.rows import GROUP_TITLES, broken_lines, group_lines, group_row
from exclave.admin.member.rows import in_group
from exclave.admin.member.verbs import evict
from exclave.admin.objects import Manifest, group_objects, group_roles
from exclave.admin.reconcile import Change, plan_change
from exclave.admin.session import Session
from exclave.admin.tables import Listing, describe_text, manifests
from exclave.admin.token.checks import TokenAccount, token_accounts
from exclave.api.group import INBOUND_POLICIES
from exclave.api.names import ADMISSION_POLICY_NAMES, accounts_namespace
from exclave.api.requests import (
    MEMBERS,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
)
from exclave.errors import ApiRefusal, ExclaveError, Fault


def add_commands(subparsers: Subparsers) -> None:
    """Add `group` to the command line."""
    verbs = add_subject(subparsers, "group", "groups: which machines may join, and with which identity")
    _add_create(verbs)
    listed = add_verb(verbs, "list", _list, "list groups", "kubectl exclave group list -A")
    add_all_namespaces(listed)
    add_output(listed)
    describe = add_verb(
        verbs,
        "describe",
        _describe,
        "show a group with its members, join tokens and Services",
        "kubectl exclave group describe web -n shop",
    )
    describe.add_argument("name", metavar="NAME")
    add_output(describe)
    delete = add_verb(
        verbs,
        "delete",
        _delete,
        "delete a group that has no members",
        "kubectl exclave group delete web -n shop --evict-members",
    )
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("--evict-members", action="store_true", help="evict its members first")


def _add_create(verbs: Subparsers) -> None:
    create = add_verb(
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
    for option, metavar, summary in (
        ("--network", "CIDR", "a network of its machines' addresses"),
        ("--port", "PORT", "a port that its machines serve: 8080, or name=http,port=8080[,opaque]"),
        ("--label", "KEY=VALUE", "a label by which Services select its machines"),
        (
            "--probe",
            "PROBE",
            "a TCP port that must answer before a machine gets traffic: 8080, or "
            "port=8080[,every=5s][,timeout=2s][,failures=3]",
        ),
    ):
        create.add_argument(option, action="append", default=[], metavar=metavar, help=f"{summary}; repeatable")
    policies = ", ".join(INBOUND_POLICIES)
    lost = "after=30s,outbound=open,inbound=closed, or a part of it"
    for option, metavar, summary in (
        ("--service-account", "NAME", "the ServiceAccount that is its mesh identity; default: the group's name"),
        ("--certificate-lifetime", "TIME", "lifetime of its machines' certificates; default: 24h"),
        ("--failure", "POLICY", f"what happens to traffic when the proxy is down: {lost}"),
        ("--forget-after", "TIME", "delete a member after so much time without a heartbeat; default: 720h"),
    ):
        create.add_argument(option, metavar=metavar, help=summary)
    outbound = "outbound traffic that goes through the proxy; default: cluster"
    create.add_argument("--capture", choices=("cluster", "all", "none"), help=outbound)
    inbound = f"who may connect by default: {policies}"
    create.add_argument("--inbound-policy", choices=INBOUND_POLICIES, metavar="POLICY", help=inbound)
    add_controller_namespace(create)
    create.add_argument("--dry-run", action="store_true", help="print the objects as YAML and change nothing")


def _create(session: Session, options: argparse.Namespace) -> int:
    name, namespace = options.name, session.namespace
    check_namespace(namespace, name, options.controller_namespace)
    options_spec = spec_from_options(
        networks=options.network,
        ports=options.port,
        labels=options.label,
        service_account=options.service_account,
        lifetime=options.certificate_lifetime,
        capture=options.capture,
        inbound_policy=options.inbound_policy,
        probes=options.probe,
        failure=options.failure,
        forget_after=options.forget_after,
    )
    if options.dry_run:
        checked_spec(name, options_spec)
        print(
            manifests([one.body for one in group_objects(namespace, name, options_spec, options.controller_namespace)])
        )
        return 0
    check_namespace(namespace, name, options.controller_namespace, _linkerd_namespace(session, options))
    odd = _check_accounts_namespace(session, namespace)
    found = session.kubectl.get(WORKLOAD_GROUPS, namespace, name)
    spec = merge_spec(options_spec, (found or {}).get("spec") or {})
    session.warn([f"{one} is no machine's but has a machine's rights: move it to another namespace" for one in odd])
    session.warn(_warnings(session, name, spec))
    steps = [
        session.apply(_step(session, one)) for one in group_objects(namespace, name, spec, options.controller_namespace)
    ]
    for step in steps:
        if step.verb != "none" or step.manifest.resource is WORKLOAD_GROUPS:
            print(step)
    session.note(f"to let a machine join: kubectl exclave token create {name} -n {namespace}")
    return 0


def _linkerd_namespace(session: Session, options: argparse.Namespace) -> str:
    """Linkerd's namespace as chosen at the installation; the usual one if there is none, or it may not be read."""
    try:
        return ClusterSnapshot(session.kubectl, options.controller_namespace, None).linkerd
    except ApiRefusal:
        return "linkerd"


def _check_accounts_namespace(session: Session, namespace: str) -> list[str]:
    """The foreign objects among the machines' accounts. Raises ExclaveError if the namespace is somebody else's."""
    kubectl, home = session.kubectl, accounts_namespace(namespace)
    found = kubectl.get(NAMESPACES, None, home)
    odd = foreign_objects(home, kubectl.list(SERVICE_ACCOUNTS, home), kubectl.list(PODS, home)) if found else []
    check_accounts_namespace(found, namespace, odd)
    return odd


def _step(session: Session, manifest: Manifest) -> Change:
    """The change that one object needs."""
    return plan_change(manifest, session.kubectl.get(manifest.resource, manifest.namespace, manifest.name))


def _warnings(session: Session, name: str, spec: Object) -> list[str]:
    """Check the spec; returns what may surprise the admin. Raises ExclaveError for an invalid spec."""
    kubectl, namespace = session.kubectl, session.namespace
    labels = {key: value for key, value in (spec.get("labels") or {}).items() if value is not None}
    checked = checked_spec(name, {**spec, "labels": labels})
    around = [kubectl.list(kind, namespace) for kind in (WORKLOAD_GROUPS, SERVICES, PODS)]
    warnings = group_warnings(name, checked, *around)
    try:
        guarded = all(kubectl.get(VALIDATING_ADMISSION_POLICY_BINDINGS, None, one) for one in ADMISSION_POLICY_NAMES)
    except ApiRefusal:
        return [*warnings, "your rights do not allow to check whether exclave's admission policies are installed"]
    if not guarded:
        warnings.append(
            "exclave's admission policies are not installed; without them the controller admits no machine: "
            "kubectl exclave install"
        )
    return warnings


def _list(session: Session, options: argparse.Namespace) -> int:
    all_namespaces = options.all_namespaces
    namespace = None if all_namespaces else session.namespace
    groups = session.kubectl.list(WORKLOAD_GROUPS, namespace)
    members = session.kubectl.list(MEMBERS, namespace) if groups and options.output in (None, "wide") else []
    rows = [group_row(group, _members_of(group, members), session.now(), all_namespaces) for group in groups]
    titles = ["NAMESPACE", *GROUP_TITLES] if all_namespaces else list(GROUP_TITLES)
    where = "any namespace" if all_namespaces else f"namespace {namespace}"
    session.show(Listing(WORKLOAD_GROUPS, groups, titles, rows), options.output, f"no groups in {where}")
    return 0


def _members_of(group: Object, members: list[Object]) -> list[Object]:
    metadata = group["metadata"]
    here = [one for one in members if one["metadata"].get("namespace") == metadata.get("namespace")]
    return in_group(here, metadata["name"])


def _describe(session: Session, options: argparse.Namespace) -> int:
    name, kubectl, namespace = options.name, session.kubectl, session.namespace
    group = _get_existing(session, name)
    if options.output not in (None, "wide"):
        session.show(Listing(WORKLOAD_GROUPS, [group], single=True), options.output, "")
        return 0
    try:
        spec = parsed_spec(name, group.get("spec") or {})
    except ExclaveError as problem:  # an invalid group must be shown, too, so that it can be corrected
        print(describe_text(broken_lines(group, problem.message)))
        return 0
    members = in_group(kubectl.list(MEMBERS, namespace), name)
    services = selecting(kubectl.list(SERVICES, namespace), labels_of(name, spec))
    print(describe_text(group_lines(group, spec, members, _tokens(session, name), services, session.now())))
    return 0


def _delete(session: Session, options: argparse.Namespace) -> int:
    name, kubectl, namespace = options.name, session.kubectl, session.namespace
    group = _get_existing(session, name)
    members = [one["metadata"]["name"] for one in in_group(kubectl.list(MEMBERS, namespace), name)]
    if members and not options.evict_members:
        count = "1 member" if len(members) == 1 else f"{len(members)} members"
        raise ExclaveError(
            Fault.USAGE,
            f"group {name} has {count}: {', '.join(members[:10])}{', …' if len(members) > 10 else ''}",
            "let them leave (exclave leave, on each machine), or evict them: --evict-members",
        )
    accounts = accounts_namespace(namespace)
    for token in _tokens(session, name):  # first, so that no machine joins meanwhile
        _remove(session, SERVICE_ACCOUNTS, accounts, token.name)
    for member in members:
        evict(session, member)
    if members and not session.wait_until(lambda: not _left(session, name), "its members to be gone"):
        session.warn([f"still leaving: {', '.join(_left(session, name))}; the group goes when they are gone"])
    _remove(session, WORKLOAD_GROUPS, namespace, name)
    for role in group_roles(name):
        for resource in (ROLE_BINDINGS, ROLES):
            _remove(session, resource, namespace, role)
    account = (group.get("spec") or {}).get("serviceAccount") or name
    session.note(
        f"not deleted: namespaces {namespace} and {accounts}, the Roles in them that other groups use, and "
        f"ServiceAccount {account}"
    )
    return 0


def _left(session: Session, group: str) -> list[str]:
    return [one["metadata"]["name"] for one in in_group(session.kubectl.list(MEMBERS, session.namespace), group)]


def _remove(session: Session, resource: Resource, namespace: str, name: str) -> None:
    if session.kubectl.delete(resource, namespace, name):
        print(f"{resource.kind.lower()} {name} in {namespace} deleted")


def _tokens(session: Session, group: str) -> list[TokenAccount]:
    found = session.kubectl.list(SERVICE_ACCOUNTS, accounts_namespace(session.namespace))
    return [token for token in token_accounts(found) if token.group == group]


def _get_existing(session: Session, name: str) -> Object:
    found = session.kubectl.get(WORKLOAD_GROUPS, session.namespace, name)
    if found is None:
        raise ExclaveError(
            Fault.USAGE,
            f"there is no group {name} in namespace {session.namespace}",
            "list them: kubectl exclave group list -A",
        )
    return found
