"""`install`, `upgrade`, `uninstall`: exclave itself in a cluster.

Rules: everything is told by plain manifests, which `--dry-run` prints; nothing is made before all that must hold does.
Definitions first, then the admission policies, then rights. The issuer's key is read from a file and goes through
standard input alone. Uninstalling says whom it would strand, and does so only when told.
"""

import argparse
from pathlib import Path

from exclave.admin.arguments import Subparsers, add_verb
from exclave.admin.checking import rows_before
from exclave.admin.checks import Row, tell
from exclave.admin.desk import Desk
from exclave.admin.manifests import (
    IMAGE,
    ISSUER,
    KINDS,
    Installation,
    KeyPair,
    first_objects,
    later_objects,
)
from exclave.admin.objects import CONTROLLER
from exclave.admin.tables import human_duration, manifests
from exclave.cluster.credential import read_token_times
from exclave.cluster.requests import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    MEMBERS,
    NAMESPACES,
    SECRETS,
    VALIDATING_ADMISSION_POLICIES,
    WORKLOAD_GROUPS,
    Object,
    Resource,
)
from exclave.controller.issuer import read_issuer
from exclave.controller.publish import read_anchors
from exclave.errors import ExclaveError, Fault

LONGEST_CREDENTIAL = 30 * 86400


def add_commands(subparsers: Subparsers) -> None:
    """Add all three to the command line."""
    install = add_verb(
        subparsers,
        "install",
        _install,
        "install exclave: definitions, admission policies, rights, issuer, controllers",
        "# an issuer from cert-manager, signed by the issuer that holds Linkerd's trust anchor\n"
        "kubectl exclave install --issuer-from ClusterIssuer/linkerd-trust-anchor",
        "# an intermediate that was made by hand, given once\n"
        "kubectl exclave install --issuer-certificate issuer.crt --issuer-key issuer.key",
        "kubectl exclave install --use-linkerd-issuer --dry-run | less",
    )
    _add_choices(install)
    upgrade = add_verb(
        subparsers,
        "upgrade",
        _upgrade,
        "bring exclave to this version; issuer, groups and members stay",
        "kubectl exclave upgrade",
    )
    _add_choices(upgrade)
    uninstall = add_verb(
        subparsers, "uninstall", _uninstall, "remove exclave; says whom that would strand", "kubectl exclave uninstall"
    )
    uninstall.add_argument("--controller-namespace", default="exclave", metavar="NAME")
    uninstall.add_argument("--strand-members", action="store_true", help="though there are members")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    issuer = parser.add_argument_group("the issuer of machines' certificates: one of")
    issuer.add_argument("--issuer-from", metavar="KIND/NAME", help="an issuer of cert-manager, of Linkerd's anchor")
    issuer.add_argument("--issuer-certificate", type=Path, metavar="FILE", help="an intermediate's chain as PEM")
    issuer.add_argument("--issuer-key", type=Path, metavar="FILE", help="its key as PEM")
    issuer.add_argument(
        "--use-linkerd-issuer",
        action="store_true",
        help="Linkerd's own: whoever has the controller's account may then sign for any workload of the mesh",
    )
    parser.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="exclave, if absent")
    parser.add_argument("-L", "--linkerd-namespace", default="linkerd", metavar="NAME", help="linkerd, if absent")
    parser.add_argument("--image", default=IMAGE, metavar="IMAGE", help="the controller's")
    parser.add_argument("--dry-run", action="store_true", help="print the objects as YAML, and make nothing")


def _install(desk: Desk, options: argparse.Namespace) -> int:
    choice = _choice(options)
    if choice.issuer == "key" and choice.key_pair is None:
        raise ExclaveError(
            Fault.USAGE,
            "an issuer for machines' certificates was expected",
            "give one: --issuer-from KIND/NAME, or --issuer-certificate and --issuer-key, or --use-linkerd-issuer",
        )
    return _bring(desk, options, choice)


def _upgrade(desk: Desk, options: argparse.Namespace) -> int:
    choice = _choice(options)
    if not options.dry_run:
        found = desk.kubectl.get(DEPLOYMENTS, choice.namespace, CONTROLLER)
        if found is None:
            raise ExclaveError(
                Fault.USAGE, f"exclave is not installed in namespace {choice.namespace}", "kubectl exclave install"
            )
        arguments = found["spec"]["template"]["spec"]["containers"][0].get("args") or []
        if choice.key_pair is None and any(str(one).startswith("--issuer=") for one in arguments):
            choice = Installation(choice.namespace, choice.linkerd, choice.image, issuer="linkerd")
    return _bring(desk, options, choice)


def _bring(desk: Desk, options: argparse.Namespace, choice: Installation) -> int:
    first, later = first_objects(), later_objects(choice)
    if options.dry_run:
        print(manifests([*first, *later]))
        return 0
    _must_hold(desk, choice)
    kubectl = desk.kubectl
    kubectl.apply(first, force=True)
    for one in first:
        name = one["metadata"]["name"]
        desk.wait_until(lambda name=name: _is_served(desk, name), f"{name} to be served")  # type: ignore[misc]
    for batch in _batches(later):
        kubectl.apply(batch, force=True)
    for one in (*first, *later):
        print(f"{one['kind']} {one['metadata']['name']} applied")
    _tell_cap(desk, choice)
    desk.note("see that it stands: kubectl exclave check", "then: kubectl exclave group create NAME -n NAMESPACE …")
    return 0


def _batches(later: list[Object]) -> list[list[Object]]:
    """Policies before rights, the namespace before what lies in it."""
    policies = [one for one in later if one["kind"].startswith("ValidatingAdmission")]
    namespaces = [one for one in later if one["kind"] == "Namespace"]
    return [policies, namespaces, [one for one in later if one not in policies and one not in namespaces]]


def _is_served(desk: Desk, name: str) -> bool:
    found = desk.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, name) or {}
    conditions = (found.get("status") or {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)


def _must_hold(desk: Desk, choice: Installation) -> None:
    """Raise ExclaveError if anything is not as an installation needs it; nothing has been made then."""
    rows = [*rows_before(desk, choice.linkerd), *_rights(desk)]
    if choice.key_pair is not None and all(one.result == "success" for one in rows):
        rows.append(_issuer_row(desk, choice))
    bad = [one for one in rows if one.result == "error"]
    if bad:
        raise ExclaveError(Fault.USAGE, f"exclave cannot be installed here:\n{tell(rows)}", bad[0].hint)


def _rights(desk: Desk) -> list[Row]:
    wanted: tuple[Resource, ...] = (
        CUSTOM_RESOURCE_DEFINITIONS,
        VALIDATING_ADMISSION_POLICIES,
        CLUSTER_ROLES,
        CLUSTER_ROLE_BINDINGS,
        NAMESPACES,
    )
    missing = [one.plural for one in wanted if not desk.kubectl.can_i("create", one)]
    if not missing:
        return [Row("you may install it")]
    return [Row("you may install it", "error", f"you may not create {', '.join(missing)}", "ask a cluster admin")]


def _issuer_row(desk: Desk, choice: Installation) -> Row:
    told = "the issuer leads to Linkerd's trust anchors"
    roots = desk.kubectl.get(CONFIG_MAPS, choice.linkerd, "linkerd-identity-trust-roots")
    try:
        (secret,) = [one for one in later_objects(choice) if one["kind"] == SECRETS.kind]
        read_issuer(secret, read_anchors(roots or {}), desk.now())
    except ValueError as problem:
        return Row(told, "error", str(problem), "sign the intermediate with the key of Linkerd's trust anchor")
    return Row(told)


def _tell_cap(desk: Desk, choice: Installation) -> None:
    """Measure how long a token may live here: some clouds cap it."""
    token = desk.kubectl.mint(choice.namespace, CONTROLLER, LONGEST_CREDENTIAL)
    issued, ends = read_token_times(token)
    life = ends - issued
    if life < LONGEST_CREDENTIAL:
        desk.note(
            f"this API server lets a token live {human_duration(life)} at most: a machine that is off for longer needs "
            "a token of its own to come back (kubectl exclave token create --for MEMBER)"
        )
    else:
        desk.note("machines' credentials live 30 days here, and are renewed at half of that")


def _choice(options: argparse.Namespace) -> Installation:
    given = [bool(options.issuer_from), bool(options.issuer_certificate or options.issuer_key)]
    if sum((*given, options.use_linkerd_issuer)) > 1:
        raise ExclaveError(Fault.USAGE, "one issuer was expected, found several", "choose one of the three")
    where = (options.controller_namespace, options.linkerd_namespace, options.image)
    if options.use_linkerd_issuer:
        return Installation(*where, issuer="linkerd")
    if options.issuer_from:
        kind, _, name = options.issuer_from.partition("/")
        if kind not in ("Issuer", "ClusterIssuer") or not name:
            raise ExclaveError(
                Fault.USAGE,
                f"--issuer-from: Issuer/NAME or ClusterIssuer/NAME was expected, found {options.issuer_from!r}",
                "see: kubectl get clusterissuers,issuers -A",
            )
        return Installation(*where, issuer="cert-manager", issued_by=options.issuer_from)
    return Installation(*where, key_pair=_key_pair(options))


def _key_pair(options: argparse.Namespace) -> KeyPair | None:
    if not options.issuer_certificate and not options.issuer_key:
        return None
    texts = []
    for option, path in (("--issuer-certificate", options.issuer_certificate), ("--issuer-key", options.issuer_key)):
        if path is None:
            raise ExclaveError(Fault.USAGE, f"{option} was expected, too", "a certificate and its key belong together")
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError) as problem:
            why = getattr(problem, "strerror", None) or "it is not text"
            raise ExclaveError(Fault.USAGE, f"{option} {path}: {why}", "name a file of PEM") from None
    return KeyPair(*texts)


def _uninstall(desk: Desk, options: argparse.Namespace) -> int:
    kubectl = desk.kubectl
    members, groups = kubectl.list(MEMBERS), kubectl.list(WORKLOAD_GROUPS)
    if members and not options.strand_members:
        names = ", ".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in members[:5])
        more = f" and {len(members) - 5} more" if len(members) > 5 else ""
        raise ExclaveError(
            Fault.USAGE,
            f"{len(members)} members would be stranded: {names}{more}; their certificates would end and not be renewed",
            "have them leave (exclave leave) or evict them (kubectl exclave member evict) while the controller runs; "
            "or, to strand them: --strand-members",
        )
    for resource, kept in ((MEMBERS, members), (WORKLOAD_GROUPS, groups)):
        for one in kept:  # nobody is left who would take these off
            where, name = one["metadata"]["namespace"], one["metadata"]["name"]
            kubectl.patch(resource, where, name, {"metadata": {"finalizers": None}})
    choice = Installation(options.controller_namespace)
    for one in (*reversed(later_objects(choice)), *first_objects()):
        if one["kind"] == SECRETS.kind and one["metadata"]["name"] == ISSUER:
            continue  # goes with its namespace
        if kubectl.delete(KINDS[one["kind"]], one["metadata"].get("namespace"), one["metadata"]["name"]):
            print(f"{one['kind']} {one['metadata']['name']} deleted")
    desk.note("what groups have made stays: their namespaces, accounts and Roles; delete those with the namespaces")
    return 0
