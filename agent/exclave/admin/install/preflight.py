"""The checks before an installation or upgrade. They all run before anything is created.

The admin's own rights are checked for each kind of object to be created. Whether the admin may grant the roles is
checked by a dry run, because only the API server can apply its rule against privilege escalation.
"""

from exclave.admin.check.rows import Row, report_text, row
from exclave.admin.check.verbs import TRUST_ROOTS, check_prerequisites
from exclave.admin.manifests import KINDS, Installation, first_objects, later_objects
from exclave.admin.session import Session
from exclave.api.issuer import read_anchors, read_issuer
from exclave.api.requests import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    NAMESPACES,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
)
from exclave.errors import ApiRefusal, ExclaveError, Fault

CERT_MANAGERS = {
    "Issuer": Resource("cert-manager.io", "v1", "issuers", "Issuer"),
    "ClusterIssuer": Resource("cert-manager.io", "v1", "clusterissuers", "ClusterIssuer", namespaced=False),
}


def require_prerequisites(session: Session, choice: Installation) -> None:
    """Raise ExclaveError if a check fails; nothing has been created then."""
    rows = [*check_prerequisites(session, choice.linkerd), _namespace_row(session, choice), *_rights(session, choice)]
    if choice.issuer == "cert-manager":
        rows += _cert_manager(session, choice)
    if choice.key_pair is not None and all(one.result != "error" for one in rows):
        rows.append(_issuer(session, choice))
    failed = [one for one in rows if one.result == "error"]
    if failed:
        raise ExclaveError(Fault.USAGE, f"exclave cannot be installed here:\n{report_text(rows)}", failed[0].hint)
    session.warn([f"{one.problem}: {one.hint}" for one in rows if one.result == "warning"])


def _namespace_row(session: Session, choice: Installation) -> Row:
    found = session.kubectl.get(NAMESPACES, None, choice.namespace) or {}
    is_deleting = bool((found.get("metadata") or {}).get("deletionTimestamp"))
    problem = f"namespace {choice.namespace} is being deleted" if is_deleting else None
    return row("no earlier installation is being deleted", problem, "try again when it is gone")


def _rights(session: Session, choice: Installation) -> list[Row]:
    objects = [*first_objects(), *later_objects(choice)]
    places = dict.fromkeys((KINDS[one["kind"]], one["metadata"].get("namespace")) for one in objects)
    missing = [
        f"{verb} {resource.plural}{f' in {namespace}' if namespace else ''}"
        for resource, namespace in places
        for verb in ("create", "patch")
        if not session.kubectl.can_i(verb, resource, namespace)
    ]
    if not session.kubectl.can_i("create", SERVICE_ACCOUNTS, choice.namespace, subresource="token"):
        missing.append(f"create serviceaccounts/token in {choice.namespace}")
    title, hint = "you may install exclave", "ask a cluster admin to install it"
    if missing:
        return [Row(title, "error", f"you may not {', '.join(missing)}", hint)]
    try:
        session.kubectl.apply([one for one in objects if can_dry_run(one, choice)], force=True, dry_run=True)
    except ApiRefusal as refusal:
        return [Row(title, "error", refusal.message, "only who has a right, or may escalate, can grant it: " + hint)]
    return [Row(title)]


def can_dry_run(one: Object, choice: Installation) -> bool:
    """Whether an object grants rights in a namespace that exists already: a dry run needs the namespace."""
    return one["kind"] in (CLUSTER_ROLES.kind, ROLES.kind) and one["metadata"].get("namespace") != choice.namespace


def _cert_manager(session: Session, choice: Installation) -> list[Row]:
    """Is cert-manager installed, and the issuer that will sign ours?"""
    has_cert_manager = "cert-manager is installed"
    if session.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, "certificates.cert-manager.io") is None:
        problem = "there is no CustomResourceDefinition certificates.cert-manager.io"
        hint = "install it: https://cert-manager.io/docs/installation; or name an intermediate: --issuer-certificate"
        return [Row(has_cert_manager, "error", problem, hint)]
    kind, _, name = choice.issued_by.partition("/")
    resource = CERT_MANAGERS[kind]
    where = choice.namespace if resource.namespaced else None
    title = f"{kind} {name} is ready"
    found = session.kubectl.get(resource, where, name)
    if found is None:
        problem = f"there is no {kind} {name}{f' in namespace {where}' if where else ''}"
        return [
            Row("cert-manager is installed"),
            Row(title, "error", problem, "list them: kubectl get clusterissuers,issuers -A"),
        ]
    conditions = (found.get("status") or {}).get("conditions") or []
    ready: Object = next((one for one in conditions if one.get("type") == "Ready"), {})
    if ready.get("status") != "True":
        problem = str(ready.get("message") or "cert-manager has not reported that it is ready")
        return [
            Row("cert-manager is installed"),
            Row(title, "error", problem, f"kubectl describe {kind.lower()} {name}"),
        ]
    return [Row(has_cert_manager), Row(title)]


def _issuer(session: Session, choice: Installation) -> Row:
    title = "the issuer chains to Linkerd's trust anchors"
    roots = session.kubectl.get(CONFIG_MAPS, choice.linkerd, TRUST_ROOTS)
    try:
        (secret,) = [one for one in later_objects(choice) if one["kind"] == SECRETS.kind]
        read_issuer(secret, read_anchors(roots or {}), session.now())
    except ValueError as problem:
        return Row(title, "error", str(problem), "sign the intermediate with the key of Linkerd's trust anchor")
    return Row(title)
