"""What must hold before exclave is installed or upgraded: all of it is asked before anything is made.

Rules: rights are asked for one by one, by the very objects that will be made; that they may be given away is asked by a
trial run of the API server's own rule against giving more than one has.
"""

from exclave.admin.check.rows import Row, row, tell
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
    """Raise ExclaveError if anything is not as an installation needs it; nothing has been made then."""
    rows = [*check_prerequisites(session, choice.linkerd), _place(session, choice), *_rights(session, choice)]
    if choice.issuer == "cert-manager":
        rows += _cert_manager(session, choice)
    if choice.key_pair is not None and all(one.result != "error" for one in rows):
        rows.append(_issuer(session, choice))
    bad = [one for one in rows if one.result == "error"]
    if bad:
        raise ExclaveError(Fault.USAGE, f"exclave cannot be installed here:\n{tell(rows)}", bad[0].hint)
    session.warn([f"{one.met}: {one.hint}" for one in rows if one.result == "warning"])


def _place(session: Session, choice: Installation) -> Row:
    found = session.kubectl.get(NAMESPACES, None, choice.namespace) or {}
    goes = bool((found.get("metadata") or {}).get("deletionTimestamp"))
    met = f"namespace {choice.namespace} is being deleted" if goes else None
    return row("nothing of an earlier installation is still going", met, "try again when it has gone")


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
    told, hint = "you may install it", "ask a cluster admin to"
    if missing:
        return [Row(told, "error", f"you may not {', '.join(missing)}", hint)]
    try:
        session.kubectl.apply([one for one in objects if can_dry_run(one, choice)], force=True, dry_run=True)
    except ApiRefusal as refusal:
        return [Row(told, "error", refusal.message, "whoever gives rights must have them, or may escalate: " + hint)]
    return [Row(told)]


def can_dry_run(one: Object, choice: Installation) -> bool:
    """Whether it gives rights, in a place that is there before the installation."""
    return one["kind"] in (CLUSTER_ROLES.kind, ROLES.kind) and one["metadata"].get("namespace") != choice.namespace


def _cert_manager(session: Session, choice: Installation) -> list[Row]:
    """Whether cert-manager is there, and the issuer that shall sign ours."""
    other = "; or give an intermediate by --issuer-certificate and --issuer-key"
    if session.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, "certificates.cert-manager.io") is None:
        met = "there is no CustomResourceDefinition certificates.cert-manager.io"
        return [Row("cert-manager is installed", "error", met, "https://cert-manager.io/docs/installation" + other)]
    kind, _, name = choice.issued_by.partition("/")
    resource = CERT_MANAGERS[kind]
    where = choice.namespace if resource.namespaced else None
    told = f"{kind} {name} is ready"
    found = session.kubectl.get(resource, where, name)
    if found is None:
        met = f"there is no {kind} {name}{f' in namespace {where}' if where else ''}"
        return [Row("cert-manager is installed"), Row(told, "error", met, "see: kubectl get clusterissuers,issuers -A")]
    conditions = (found.get("status") or {}).get("conditions") or []
    ready: Object = next((one for one in conditions if one.get("type") == "Ready"), {})
    if ready.get("status") != "True":
        met = str(ready.get("message") or "cert-manager has not said that it is")
        return [Row("cert-manager is installed"), Row(told, "error", met, f"kubectl describe {kind.lower()} {name}")]
    return [Row("cert-manager is installed"), Row(told)]


def _issuer(session: Session, choice: Installation) -> Row:
    told = "the issuer leads to Linkerd's trust anchors"
    roots = session.kubectl.get(CONFIG_MAPS, choice.linkerd, TRUST_ROOTS)
    try:
        (secret,) = [one for one in later_objects(choice) if one["kind"] == SECRETS.kind]
        read_issuer(secret, read_anchors(roots or {}), session.now())
    except ValueError as problem:
        return Row(told, "error", str(problem), "sign the intermediate with the key of Linkerd's trust anchor")
    return Row(told)
