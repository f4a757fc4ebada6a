"""`install` and `upgrade` of exclave in a cluster.

An installation is plain manifests, which `--dry-run` prints. Nothing is created before all checks succeed. The issuer's
key is read from a file, goes to kubectl through standard input, and is never printed. An upgrade keeps the admin's
earlier choices, updates the rights of every group, and deletes rights that the new choice does not need.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from exclave.admin.arguments import Subparsers, add_controller_namespace, add_linkerd_namespace, add_verb
from exclave.admin.check.rights import pending_changes
from exclave.admin.check.verbs import ClusterSnapshot
from exclave.admin.install.preflight import require_prerequisites
from exclave.admin.manifests import (
    CREDENTIAL_LIFE,
    IMAGE,
    ISSUER,
    Installation,
    KeyPair,
    first_objects,
    is_ours,
    later_objects,
)
from exclave.admin.objects import Manifest
from exclave.admin.session import Session
from exclave.admin.tables import human_duration, manifests
from exclave.admin.token.checks import LONGEST_CREDENTIAL, credential_note
from exclave.api.names import CONTROLLER
from exclave.api.requests import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, SECRETS, Object
from exclave.cluster.credential import read_token_times
from exclave.errors import ExclaveError, Fault


def add_commands(subparsers: Subparsers) -> None:
    """Add `install` and `upgrade` to the command line."""
    install = add_verb(
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
    upgrade = add_verb(
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
    add_controller_namespace(parser)
    add_linkerd_namespace(parser, linkerd)
    parser.add_argument("--image", metavar="IMAGE", help=f"the controller's image; default: {image}")
    parser.add_argument("--dry-run", action="store_true", help="print the objects as YAML and change nothing")


def _install(session: Session, options: argparse.Namespace) -> int:
    choice = _choice(
        options,
        Installation(options.controller_namespace, options.linkerd_namespace or "linkerd", options.image or IMAGE),
    )
    if choice.issuer == "key" and choice.key_pair is None:
        raise ExclaveError(
            Fault.USAGE,
            "no issuer for the machines' certificates was named",
            "name one: --issuer-from KIND/NAME, or --issuer-certificate and --issuer-key, or --use-linkerd-issuer",
        )
    if options.dry_run:
        _print(session, choice, [])
        return 0
    require_prerequisites(session, choice)
    _apply_installation(session, choice)
    session.note(
        "check it: kubectl exclave check", "then create a group: kubectl exclave group create NAME -n NAMESPACE …"
    )
    return 0


def _upgrade(session: Session, options: argparse.Namespace) -> int:
    found = ClusterSnapshot(session.kubectl, options.controller_namespace, None)
    if found.deployment is None:
        raise ExclaveError(
            Fault.USAGE,
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
    if options.dry_run:
        _print(session, choice, groups)
        return 0
    require_prerequisites(session, choice)
    if choice.image == before.image and not is_ours(before.image):
        session.note(f"the controller's image stays {before.image}; to change it: --image")
    _apply_installation(session, choice)
    for change in pending_changes(groups, found.rights()):
        session.apply(change)
        print(change)
    for one in reversed(_stale(before, choice)):
        if session.kubectl.delete(one.resource, one.namespace, one.name):
            print(f"{one.resource.kind} {one.body['metadata']['name']} in {one.namespace} deleted")
    session.note("check it: kubectl exclave check")
    return 0


def _stale(before: Installation, choice: Installation) -> list[Manifest]:
    """Rights of the former choice that this one does not need, such as to read the former issuer's key."""
    needed = {(one.resource, one.namespace, one.name) for one in choice.rights}
    return [one for one in before.rights if (one.resource, one.namespace, one.name) not in needed]


def _print(session: Session, choice: Installation, groups: list[Manifest]) -> None:
    """Print all objects but the Secret with the issuer's key."""
    objects = [*first_objects(), *later_objects(choice), *(one.body for one in groups)]
    print(manifests([one for one in objects if one["kind"] != SECRETS.kind]))
    if choice.key_pair is not None:
        session.note(
            f"not printed: Secret {ISSUER}, which holds the issuer's key; create it when the namespace exists: "
            f"kubectl create secret tls {ISSUER} -n {choice.namespace} --cert FILE --key FILE"
        )


def _apply_installation(session: Session, choice: Installation) -> None:
    first, later = first_objects(), later_objects(choice)
    kubectl = session.kubectl
    kubectl.apply(first, force=True)
    for one in first:
        name = one["metadata"]["name"]
        session.wait_until(lambda name=name: _is_served(session, name), f"{name} to be served")  # type: ignore[misc]
    for batch in _batches(later):
        kubectl.apply(batch, force=True)
    for one in (*first, *later):
        print(f"{one['kind']} {one['metadata']['name']} applied")
    _measure_credential_life(session, choice)


def _batches(later: list[Object]) -> list[list[Object]]:
    """Policies before rights, the namespace before its objects."""
    policies = [one for one in later if one["kind"].startswith("ValidatingAdmission")]
    namespaces = [one for one in later if one["kind"] == "Namespace"]
    return [policies, namespaces, [one for one in later if one not in policies and one not in namespaces]]


def _is_served(session: Session, name: str) -> bool:
    found = session.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, name) or {}
    conditions = (found.get("status") or {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)


def _measure_credential_life(session: Session, choice: Installation) -> None:
    """Measure the longest lifetime of a token, which some clouds limit, and store it for `token create`."""
    token = session.kubectl.create_token(choice.namespace, CONTROLLER, int(LONGEST_CREDENTIAL))
    issued, ends = read_token_times(token)
    life = round(ends - issued)
    body = {"metadata": {"annotations": {CREDENTIAL_LIFE: str(life)}}}
    session.kubectl.patch(NAMESPACES, None, choice.namespace, body)
    note = (
        f"machines' credentials are valid for {human_duration(life)} in this cluster, and are renewed at half of that"
    )
    session.note(credential_note(life) or note)


def _choice(options: argparse.Namespace, base: Installation) -> Installation:
    """The chosen installation; without an issuer on the command line, that of `base`."""
    own = [bool(options.issuer_from), bool(options.issuer_certificate or options.issuer_key)]
    if sum((*own, options.use_linkerd_issuer)) > 1:
        raise ExclaveError(Fault.USAGE, "several issuers were named", "name one of the three")
    if options.use_linkerd_issuer:
        return replace(base, issuer="linkerd")
    if options.issuer_from:
        kind, _, name = options.issuer_from.partition("/")
        if kind not in ("Issuer", "ClusterIssuer") or not name:
            raise ExclaveError(
                Fault.USAGE,
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
            raise ExclaveError(Fault.USAGE, f"{option} is missing", "name the certificate and its key")
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError) as problem:
            why = getattr(problem, "strerror", None) or "it is not text"
            raise ExclaveError(Fault.USAGE, f"{option} {path}: {why}", "name a PEM file") from None
    return KeyPair(*texts)
