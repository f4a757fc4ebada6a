"""`install` and `upgrade` of exclave in a cluster, from plain manifests, which `--dry-run` prints.

Nothing is created before all checks succeed. The issuer's key goes to kubectl through standard input only.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from exclave.admin import arguments
from exclave.admin.check.rights import ObjectIndex, controller_namespace_row, index_objects, pending_changes
from exclave.admin.check.rows import Row, anchor_row, report_text, row
from exclave.admin.check.snapshot import ClusterSnapshot, find_linkerd
from exclave.admin.check.verbs import TRUST_ROOTS, check_prerequisites
from exclave.admin.install.ownership import (
    NOT_OTHERS,
    PRUNED,
    is_applied_by_us,
    is_marked_as_others,
    labelled,
    obsolete,
    outcome,
    owners_row,
)
from exclave.admin.kubectl_errors import FieldConflicts, FieldOwner
from exclave.admin.objects import (
    CERT_MANAGER,
    CREDENTIAL_LIFE,
    IMAGE,
    Installation,
    KeyPair,
    Manifest,
    first_objects,
    is_managed_by_helm,
    is_ours,
    later_objects,
)
from exclave.admin.session import Session
from exclave.admin.tables import human_duration, yaml_file
from exclave.admin.token.verbs import LONGEST_CREDENTIAL, credential_note
from exclave.api import requests as kinds
from exclave.api.definitions.account_rights import adopted_names, adopted_text, foreign_to_controller
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.member import READY, condition_of
from exclave.api.names import ADOPTED, CONTROLLER, INSTALLATION, ISSUER, MADE_BY_OTHERS
from exclave.api.requests import Resource
from exclave.cluster.credential import read_token_times
from exclave.errors import ApiRefusal, UsageError
from exclave.kit.host.output import print_out

CERT_MANAGERS = {
    "Issuer": Resource("cert-manager.io", "v1", "issuers", "Issuer"),
    "ClusterIssuer": Resource("cert-manager.io", "v1", "clusterissuers", "ClusterIssuer", namespaced=False),
}


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `install` and `upgrade` to the command line."""
    install = arguments.add_verb(
        subparsers,
        "install",
        _install,
        "install exclave in this cluster",
        "# cert-manager makes the issuer, signed by Linkerd's trust anchor\n"
        "kubectl exclave install --issuer-from ClusterIssuer/linkerd-trust-anchor",
        "# your own intermediate certificate\n"
        "kubectl exclave install --issuer-certificate issuer.crt --issuer-key issuer.key",
        "kubectl exclave install --use-linkerd-issuer --dry-run | less",
    )
    _add_choices(install, "linkerd", "this version's")
    install.add_argument(
        "--adopt",
        action="store_true",
        help="use the controller's namespace also if others have made it or have rights in it, and accept these",
    )
    upgrade = arguments.add_verb(
        subparsers,
        "upgrade",
        _upgrade,
        "upgrade exclave to this version; issuer, groups and members stay",
        "kubectl exclave upgrade",
        "# another issuer; the controller loses its access to the former one\n"
        "kubectl exclave upgrade --issuer-certificate issuer.crt --issuer-key issuer.key",
    )
    _add_choices(upgrade, "as installed", "this version's, or as installed if it is your own")


def _add_choices(parser: argparse.ArgumentParser, linkerd: str, image: str) -> None:
    issuer = parser.add_argument_group("issuer of the machines' certificates, one of")
    issuer.add_argument(
        "--issuer-from", metavar="KIND/NAME", help="a cert-manager issuer that signs with Linkerd's trust anchor"
    )
    issuer.add_argument(
        "--issuer-certificate", type=Path, metavar="FILE", help="PEM file with an intermediate and its chain"
    )
    issuer.add_argument("--issuer-key", type=Path, metavar="FILE", help="PEM file with its key")
    issuer.add_argument(
        "--use-linkerd-issuer",
        action="store_true",
        help="Linkerd's own issuer; whoever has the controller's account can then sign for every workload of the mesh",
    )
    arguments.add_namespaces(parser, linkerd)
    parser.add_argument("--image", metavar="IMAGE", help=f"the controller's image; default: {image}")
    arguments.add_dry_run(parser)


def _install(session: Session, options: argparse.Namespace) -> int:
    linkerd, image = options.linkerd_namespace or "linkerd", options.image or IMAGE
    choice = _choice(options, Installation(options.controller_namespace, linkerd, image))
    if choice.issuer == "key" and choice.key_pair is None:
        raise UsageError(
            "no issuer for the machines' certificates was named",
            "name one: --issuer-from KIND/NAME, or --issuer-certificate and --issuer-key, or --use-linkerd-issuer",
        )
    if options.dry_run:
        _print(session, choice, [])
        return 0
    _require_prerequisites(session, choice, may_share=options.adopt)
    _apply_installation(session, choice, adopt=options.adopt)
    session.note(
        "check it: kubectl exclave check", "then create a group: kubectl exclave group create NAME -n NAMESPACE …"
    )
    return 0


def _upgrade(session: Session, options: argparse.Namespace) -> int:
    found = ClusterSnapshot(session.kubectl, options.controller_namespace, None)
    if found.deployment is None:
        raise UsageError(
            f"exclave is not installed in namespace {options.controller_namespace}",
            "install it: kubectl exclave install; or name its namespace: --controller-namespace",
        )
    before = found.installation
    base = replace(
        before,
        linkerd=options.linkerd_namespace or before.linkerd,
        image=options.image or (IMAGE if is_ours(before.image) else before.image),
    )
    choice = _choice(options, base)
    groups = found.wanted_by_groups if found.has_definitions else []
    if is_managed_by_helm(found.deployment):
        return _upgrade_groups(session, options, groups, found)
    if options.dry_run:
        _print(session, choice, groups)
        return 0
    _require_prerequisites(session, choice, may_share=True)
    if choice.image == before.image and not is_ours(before.image):
        session.note(f"the controller's image stays {before.image}; to change it: --image")
    _apply_installation(session, choice)
    _apply_groups(session, groups, found)
    # Rights of the former options that the new ones do not need, such as to read the former issuer's key.
    needed = {one.key for one in choice.rights}
    for one in reversed(before.rights):
        if one.key not in needed:
            session.delete(*one.key)
    session.note("check it: kubectl exclave check")
    return 0


def _apply_groups(session: Session, groups: list[Manifest], found: ClusterSnapshot) -> None:
    for change in pending_changes(groups, found.rights()):
        session.apply(change)
        print_out(str(change))


def _upgrade_groups(
    session: Session, options: argparse.Namespace, groups: list[Manifest], found: ClusterSnapshot
) -> int:
    """Update only what belongs to groups: the next `helm upgrade` would undo all other changes."""
    choices = {
        "--image": options.image,
        "--linkerd-namespace": options.linkerd_namespace,
        "--issuer-from": options.issuer_from,
        "--issuer-certificate": options.issuer_certificate,
        "--issuer-key": options.issuer_key,
        "--use-linkerd-issuer": options.use_linkerd_issuer,
    }
    if named := [option for option, value in choices.items() if value]:
        raise UsageError(
            f"Helm manages this installation, so {', '.join(named)} would not last",
            "set it as a value: helm upgrade RELEASE CHART --reuse-values --set KEY=VALUE",
        )
    if options.dry_run:
        print_out(yaml_file(one.body for one in groups))
        return 0
    _apply_groups(session, groups, found)
    session.note("Helm manages all but the groups: run helm upgrade, too", "check it: kubectl exclave check")
    return 0


def _print(session: Session, choice: Installation, groups: list[Manifest]) -> None:
    """Print all objects but the Secret with the issuer's key."""
    objects = [*first_objects(), *later_objects(choice), *groups]
    print_out(yaml_file(one.body for one in objects if one.resource != kinds.SECRETS))
    if choice.key_pair is not None:
        session.note(
            f"not printed: Secret {ISSUER}, which holds the issuer's key; create it when the namespace exists: "
            f"kubectl create secret tls {ISSUER} -n {choice.namespace} --cert FILE --key FILE"
        )


def _apply_installation(session: Session, choice: Installation, *, adopt: bool = False) -> None:
    first, later = ([labelled(one, choice.namespace) for one in some] for some in _objects(choice))
    found = _existing(session, [*first, *later])
    annotations = _namespace_annotations(session, choice, adopt=adopt)
    _apply(session, first, found)
    for one in first:
        session.wait_until(lambda name=one.name: _is_served(session, name), f"{one.name} to be served")  # type: ignore[misc]
    policies = [one for one in later if one.resource.kind.startswith("ValidatingAdmission")]
    namespaces = [one for one in later if one.resource is kinds.NAMESPACES]
    # Policies before rights, the namespace before its objects.
    for one in namespaces:
        if annotations:
            one.body["metadata"]["annotations"] = annotations
    for batch in (policies, namespaces, [one for one in later if one not in policies and one not in namespaces]):
        _apply(session, batch, found)
    _prune(session, choice)
    _measure_credential_life(session, choice)


def _objects(choice: Installation) -> tuple[list[Manifest], list[Manifest]]:
    return first_objects(), later_objects(choice)


def _existing(session: Session, wanted: Sequence[Manifest]) -> ObjectIndex:
    return index_objects(session.kubectl.existing([one.body for one in wanted]))


def _index_key(one: Manifest) -> tuple[str, str, str]:
    return one.resource.kind, one.namespace or "", one.name


def _namespace_annotations(session: Session, choice: Installation, *, adopt: bool) -> dict[str, str]:
    """The annotations of the namespace that name others' accepted RoleBindings, and that others have made it."""
    found = session.kubectl.get(kinds.NAMESPACES, None, choice.namespace)
    foreign = foreign_to_controller(session.kubectl.list(kinds.ROLE_BINDINGS, choice.namespace), choice.namespace)
    names = adopted_names(found)
    annotations = {}
    if accepted := adopted_text([one for one in foreign if adopt or one["metadata"]["name"] in names]):
        annotations[ADOPTED] = accepted
    if found is not None and (is_marked_as_others(found) or not is_applied_by_us(found)):
        annotations[MADE_BY_OTHERS] = "true"
    return annotations


def _apply(session: Session, batch: Sequence[Manifest], found: ObjectIndex) -> None:
    """Apply objects, and print what this has done to each. `found`: as they were before."""
    applied = index_objects(session.kubectl.apply([one.body for one in batch]))
    for one in batch:
        key = _index_key(one)
        print_out(f"{one} {outcome(found.get(key), applied[key])}")


def _prune(session: Session, choice: Installation) -> None:
    """Delete what an earlier version has made here, and this one does not need."""
    selector = f"{INSTALLATION}={choice.namespace}"
    for resource in PRUNED:
        for one in obsolete(session.kubectl.list(resource, None, selector), later_objects(choice)):
            session.delete(resource, one["metadata"].get("namespace"), one["metadata"]["name"])


def _is_served(session: Session, name: str) -> bool:
    established = condition_of(session.kubectl.get(kinds.CUSTOM_RESOURCE_DEFINITIONS, None, name), "Established")
    return established is not None and established.status


def _measure_credential_life(session: Session, choice: Installation) -> None:
    """Measure the longest lifetime of a token, which some clouds limit, and store it for `token create`."""
    token = session.kubectl.create_token(choice.namespace, CONTROLLER, int(LONGEST_CREDENTIAL))
    issued, ends = read_token_times(token)
    life = round(ends - issued)
    body = {"metadata": {"annotations": {CREDENTIAL_LIFE: str(life)}}}
    session.kubectl.patch(kinds.NAMESPACES, None, choice.namespace, body)
    whole = (
        f"machines' credentials are valid for {human_duration(life)} in this cluster, and are renewed at half of that"
    )
    session.note(credential_note(life) or whole)


def _choice(options: argparse.Namespace, base: Installation) -> Installation:
    """The chosen options; without an issuer on the command line, the issuer of `base`."""
    own = [bool(options.issuer_from), bool(options.issuer_certificate or options.issuer_key)]
    if sum((*own, options.use_linkerd_issuer)) > 1:
        raise UsageError("several issuers were named", "name one of the three")
    if options.use_linkerd_issuer:
        return replace(base, issuer="linkerd")
    if options.issuer_from:
        kind, _, name = options.issuer_from.partition("/")
        if kind not in CERT_MANAGERS or not name:
            raise UsageError(
                f"--issuer-from: Issuer/NAME or ClusterIssuer/NAME was expected, found {options.issuer_from!r}",
                "list them: kubectl get clusterissuers,issuers -A",
            )
        return replace(base, issuer="cert-manager", issued_by=options.issuer_from)
    key_pair = _key_pair(options)
    return base if key_pair is None else replace(base, issuer="key", key_pair=key_pair)


def _key_pair(options: argparse.Namespace) -> KeyPair | None:
    if not options.issuer_certificate and not options.issuer_key:
        return None
    texts = []
    for option, path in (("--issuer-certificate", options.issuer_certificate), ("--issuer-key", options.issuer_key)):
        if path is None:
            raise UsageError(f"{option} is missing", "name the certificate and its key")
        texts.append(arguments.load_pem(option, path))
    return KeyPair(*texts)


# The checks before an installation or upgrade: all run before anything is created.


def _require_prerequisites(session: Session, choice: Installation, *, may_share: bool) -> None:
    """Raise UsageError if a check fails; nothing has been created by then.

    `may_share`: others may have rights in the controller's namespace.
    """
    rows = [
        *check_prerequisites(session, choice.linkerd),
        *_namespace_rows(session, choice, may_share=may_share),
        _rights_row(session, choice),
    ]
    if choice.issuer == "cert-manager":
        rows += _cert_manager(session, choice)
    if choice.key_pair is not None and all(one.result != "error" for one in rows):
        rows += _issuer_rows(session, choice)
    if all(one.result != "error" for one in rows):
        rows.append(_owners_row(session, choice))
    failed = [one for one in rows if one.result == "error"]
    if failed:
        raise UsageError(f"exclave cannot be installed here:\n{report_text(rows)}", failed[0].hint)
    session.warn([f"{one.problem}: {one.hint}" for one in rows if one.result == "warning"])


def _namespace_rows(session: Session, choice: Installation, *, may_share: bool) -> list[Row]:
    where, kubectl = choice.namespace, session.kubectl
    found = kubectl.get(kinds.NAMESPACES, None, where)
    is_deleting = found is not None and bool(found["metadata"].get("deletionTimestamp"))
    problem = f"namespace {where} is being deleted" if is_deleting else None
    deleting = row("no earlier installation is being deleted", problem, "try again when it is gone")
    if found is None or is_deleting:
        return [deleting]
    foreign = foreign_to_controller(kubectl.list(kinds.ROLE_BINDINGS, where), where)
    has_account = kubectl.get(kinds.SERVICE_ACCOUNTS, where, CONTROLLER) is not None
    return [deleting, controller_namespace_row(found, foreign, has_account=has_account, may_share=may_share)]


def _owners_row(session: Session, choice: Installation) -> Row:
    """Do other programs manage fields that would change? A dry run without force shows their owners."""
    first, later = _objects(choice)
    found = _existing(session, [*first, *later])
    deployment = found.get((kinds.DEPLOYMENTS.kind, choice.namespace, CONTROLLER))
    if deployment is not None and is_managed_by_helm(deployment):
        return Row(NOT_OTHERS, "error", "Helm manages this installation", "upgrade it: helm upgrade RELEASE CHART")
    there = [one for one in (*first, *later) if _index_key(one) in found]
    conflicts: dict[str, tuple[FieldOwner, ...]] = {}
    if _conflicts(session, there):  # kubectl's message does not name the objects
        conflicts = {str(one): owners for one in there if (owners := _conflicts(session, [one]))}
    return owners_row(conflicts)


def _conflicts(session: Session, objects: Sequence[Manifest]) -> tuple[FieldOwner, ...]:
    """The other owners of fields that applying these objects would change; () without objects."""
    try:
        if objects:
            session.kubectl.apply([one.body for one in objects], dry_run=True, force=False)
    except FieldConflicts as found:
        return found.owners
    return ()


def _rights_row(session: Session, choice: Installation) -> Row:
    """May the admin create each kind of object? A dry run shows whether the API server lets them grant the Roles."""
    objects = [*first_objects(), *later_objects(choice)]
    places = dict.fromkeys((one.resource, one.namespace) for one in objects)
    missing = [
        f"{verb} {resource.plural}{f' in {namespace}' if namespace else ''}"
        for resource, namespace in places
        for verb in ("create", "patch")
        if not session.kubectl.can_i(verb, resource, namespace)
    ]
    if not session.kubectl.can_i("create", kinds.SERVICE_ACCOUNTS, choice.namespace, subresource="token"):
        missing.append(f"create serviceaccounts/token in {choice.namespace}")
    title, hint = "you may install exclave", "ask a cluster admin to install it"
    if missing:
        return Row(title, "error", f"you may not {', '.join(missing)}", hint)
    try:
        session.kubectl.apply([one.body for one in objects if can_dry_run(one, choice)], dry_run=True)
    except ApiRefusal as refusal:
        return Row(title, "error", refusal.message, f"only who has a right, or may escalate, can grant it: {hint}")
    return Row(title)


def can_dry_run(one: Manifest, choice: Installation) -> bool:
    """True if an object grants rights in a namespace that exists already: a dry run needs the namespace."""
    return one.resource in (kinds.CLUSTER_ROLES, kinds.ROLES) and one.namespace != choice.namespace


def _cert_manager(session: Session, choice: Installation) -> list[Row]:
    """Is cert-manager installed, and the issuer that will sign ours?"""
    title = "cert-manager is installed"
    if session.kubectl.get(kinds.CUSTOM_RESOURCE_DEFINITIONS, None, CERT_MANAGER) is None:
        problem = f"there is no CustomResourceDefinition {CERT_MANAGER}"
        hint = "install it: https://cert-manager.io/docs/installation; or name an intermediate: --issuer-certificate"
        return [Row(title, "error", problem, hint)]
    kind, _, name = choice.issued_by.partition("/")
    where = choice.namespace if CERT_MANAGERS[kind].namespaced else None
    found = session.kubectl.get(CERT_MANAGERS[kind], where, name)
    ready = condition_of(found, READY)
    hint, fault = f"kubectl describe {kind.lower()} {name}", None
    if found is None:
        fault = f"there is no {kind} {name}{f' in namespace {where}' if where else ''}"
        hint = "list them: kubectl get clusterissuers,issuers -A"
    elif ready is None or not ready.status:
        fault = (ready and ready.message) or "cert-manager has not reported that it is ready"
    return [Row(title), row(f"{kind} {name} is ready", fault, hint)]


def _issuer_rows(session: Session, choice: Installation) -> list[Row]:
    title = "the issuer chains to Linkerd's trust anchors"
    roots = session.kubectl.get(kinds.CONFIG_MAPS, choice.linkerd, TRUST_ROOTS)
    try:
        (secret,) = [one.body for one in later_objects(choice) if one.resource == kinds.SECRETS]
        anchors = read_anchors(roots or {})
        linkerd, _ = find_linkerd(session.kubectl, choice.linkerd)
        issuer = read_issuer(secret, anchors, session.now(), linkerd)
    except ValueError as problem:
        return [row(title, str(problem), "sign the intermediate with the key of Linkerd's trust anchor")]
    return [Row(title), anchor_row(f"{choice.namespace}/{ISSUER}", issuer, anchors)]
