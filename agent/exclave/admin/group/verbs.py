"""`group create|list|describe|delete`: which machines may join, and as whom.

Rules: making a group again brings it to what was told and leaves the rest as it stands, and says which was which;
`--dry-run` prints what would be made and asks nothing of the cluster. A group in use is not deleted by accident.
Namespaces are never deleted: others may live in them.
"""

import argparse

from exclave.admin.arguments import Subparsers, add_all_namespaces, add_output, add_subject, add_verb
from exclave.admin.check.rights import foreign_objects
from exclave.admin.group.checks import (
    INBOUND_POLICIES,
    changed_spec,
    checked_spec,
    group_warnings,
    labels_of,
    refuse_home,
    refuse_place,
    selecting,
    told_spec,
)
from exclave.admin.group.rows import GROUP_TITLES, broken_lines, group_lines, group_row
from exclave.admin.member.rows import in_group
from exclave.admin.member.verbs import evict
from exclave.admin.objects import Manifest, group_objects, group_roles
from exclave.admin.reconcile import Change, plan_change
from exclave.admin.session import Session
from exclave.admin.tables import Listing, describe_text, manifests
from exclave.admin.token.checks import TokenAccount, token_accounts
from exclave.api.names import GUARD_NAMES, accounts_namespace
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
    verbs = add_subject(subparsers, "group", "groups: which machines may join, and as whom")
    _add_create(verbs)
    listed = add_verb(verbs, "list", _list, "list groups", "kubectl exclave group list -A")
    add_all_namespaces(listed)
    add_output(listed)
    describe = add_verb(
        verbs,
        "describe",
        _describe,
        "say what a group is, who is in it, and which Services send it traffic",
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
    delete.add_argument("--evict-members", action="store_true", help="end its members' membership first")


def _add_create(verbs: Subparsers) -> None:
    create = add_verb(
        verbs,
        "create",
        _create,
        "make a group with the rights that its machines need, or bring one to what is told",
        "# machines of 10.1.0.0/16 that serve HTTP on port 8080\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --port name=http,port=8080 --label app=web",
        "# a database, whose protocol the proxy must not look into, with certificates of one hour\n"
        "kubectl exclave group create db -n shop --network 10.2.0.0/24 --port name=pg,port=5432,opaque "
        "--certificate-lifetime 1h",
        "# pods send traffic while port 8080 answers; a machine that is silent for a week is forgotten\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --port 8080 --probe port=8080,every=2s "
        "--forget-after 168h",
        "# as files for whoever applies them\n"
        "kubectl exclave group create web -n shop --network 10.1.0.0/16 --dry-run >web.yaml",
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument(
        "--network", action="append", default=[], metavar="CIDR", help="where its machines' addresses lie; repeatable"
    )
    create.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="PORT",
        help="8080, or name=http,port=8080[,opaque]; repeatable",
    )
    create.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="by which Services select it; repeatable"
    )
    create.add_argument("--service-account", metavar="NAME", help="its mesh identity; the group's name, if absent")
    create.add_argument("--certificate-lifetime", metavar="TIME", help="24h, if absent")
    create.add_argument("--capture", choices=("cluster", "all", "none"), help="which outbound traffic the proxy takes")
    create.add_argument(
        "--inbound-policy", choices=INBOUND_POLICIES, metavar="POLICY", help=", ".join(INBOUND_POLICIES)
    )
    create.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="PROBE",
        help="8080, or port=8080[,every=5s][,timeout=2s][,failures=3]: a TCP port of the machine that must answer "
        "before it gets traffic; repeatable",
    )
    create.add_argument(
        "--failure",
        metavar="POLICY",
        help="after=30s,outbound=open,inbound=closed, or some of it: what becomes of traffic when the proxy is down",
    )
    create.add_argument("--forget-after", metavar="TIME", help="how long a silent member is kept; 720h, if absent")
    create.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="where the controller is")
    create.add_argument("--dry-run", action="store_true", help="print the objects as YAML, and make nothing")


def _create(session: Session, options: argparse.Namespace) -> int:
    name, namespace = options.name, session.namespace
    refuse_place(namespace, name, options.controller_namespace)
    told = told_spec(
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
        checked_spec(name, told)
        print(manifests([one.body for one in group_objects(namespace, name, told, options.controller_namespace)]))
        return 0
    odd = _check_accounts_namespace(session, namespace)
    found = session.kubectl.get(WORKLOAD_GROUPS, namespace, name)
    spec = changed_spec(told, (found or {}).get("spec") or {})
    session.warn([f"{one} is no machine's, and has a machine's rights: move it elsewhere" for one in odd])
    session.warn(_warnings(session, name, spec))
    steps = [
        session.apply(_step(session, one)) for one in group_objects(namespace, name, spec, options.controller_namespace)
    ]
    for step in steps:
        if step.verb != "none" or step.manifest.resource is WORKLOAD_GROUPS:
            print(step)
    session.note(f"let a machine join: kubectl exclave token create {name} -n {namespace}")
    return 0


def _check_accounts_namespace(session: Session, namespace: str) -> list[str]:
    """What lives where machines' accounts go and is none of theirs. Raises ExclaveError if it is somebody else's."""
    kubectl, home = session.kubectl, accounts_namespace(namespace)
    found = kubectl.get(NAMESPACES, None, home)
    odd = foreign_objects(home, kubectl.list(SERVICE_ACCOUNTS, home), kubectl.list(PODS, home)) if found else []
    refuse_home(found, namespace, odd)
    return odd


def _step(session: Session, manifest: Manifest) -> Change:
    """What is still to be done for one object."""
    return plan_change(manifest, session.kubectl.get(manifest.resource, manifest.namespace, manifest.name))


def _warnings(session: Session, name: str, spec: Object) -> list[str]:
    """Check the spec, and look around for what may surprise. Raises ExclaveError."""
    kubectl, namespace = session.kubectl, session.namespace
    known = {key: value for key, value in (spec.get("labels") or {}).items() if value is not None}
    checked = checked_spec(name, {**spec, "labels": known})
    around = [kubectl.list(kind, namespace) for kind in (WORKLOAD_GROUPS, SERVICES, PODS)]
    warnings = group_warnings(name, checked, *around)
    try:
        guarded = all(kubectl.get(VALIDATING_ADMISSION_POLICY_BINDINGS, None, one) for one in GUARD_NAMES)
    except ApiRefusal:
        return [*warnings, "whether exclave's admission policies stand cannot be seen with your rights"]
    if not guarded:
        warnings.append(
            "exclave's admission policies are not installed, and without them the controller admits nobody: "
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
        spec = checked_spec(name, group.get("spec") or {})
    except ExclaveError as problem:  # whoever looks at it may be about to mend it
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
            "let them leave (exclave leave, on each), or end their membership with it: --evict-members",
        )
    accounts = accounts_namespace(namespace)
    for token in _tokens(session, name):  # first, so that nobody joins while the rest goes
        _remove(session, SERVICE_ACCOUNTS, accounts, token.name)
    for member in members:
        evict(session, member)
    if members and not session.wait_until(lambda: not _left(session, name), "its members to be gone"):
        session.warn(
            [f"still leaving: {', '.join(_left(session, name))}; the group goes when the controller has let go of them"]
        )
    _remove(session, WORKLOAD_GROUPS, namespace, name)
    for role in group_roles(name):
        for resource in (ROLE_BINDINGS, ROLES):
            _remove(session, resource, namespace, role)
    account = (group.get("spec") or {}).get("serviceAccount") or name
    session.note(
        f"left as they are: namespaces {namespace} and {accounts}, the Roles in them that other groups use, and "
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
            "see: kubectl exclave group list -A",
        )
    return found
