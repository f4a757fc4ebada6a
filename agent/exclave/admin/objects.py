"""The objects that an admin creates, each list in the order of creation, and the changes that existing ones need. Pure.

Machines' accounts are in `<ns>-vms`, apart from all accounts that linkerd-identity certifies. Their rights come from a
few static Roles for the whole namespace: there is no Role for a single machine, and the controller cannot grant rights.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from exclave import __version__
from exclave.admin.tables import object_name
from exclave.api import requests as kinds
from exclave.api.definitions.manifests import admission_objects, custom_resource_definitions
from exclave.api.names import (
    ACCOUNTS_LABEL,
    ADMISSION_POLICY_NAMES,
    CONTROLLER,
    ELECTION,
    EXPIRES,
    GROUPS_LABEL,
    accounts_namespace,
    parse_member_name,
    settings_name,
)
from exclave.api.requests import Object, Resource
from exclave.kit.formats.times import rfc3339

REPOSITORY = "ghcr.io/exclave/controller"
IMAGE = f"{REPOSITORY}:{__version__}"
"""The controller's image of this version. A new version rolls the Deployment out, because the image changes."""

MACHINES_ROLE = "exclave-machines"
ISSUER = "exclave-issuer"
LINKERDS_ISSUER = "linkerd-identity-issuer"
CREDENTIAL_LIFE = "exclave.dev/credential-life"
"""Annotation of the controller's namespace: seconds that a machine's credential lives in this cluster, as measured."""

RBAC = "rbac.authorization.k8s.io"
METRICS_PORT = 9995
NOBODY = 65532

MOST_USES = 999
SHORTEST_TTL = 600.0
LONGEST_TTL = 86400.0
"""Seconds. Kubernetes' shortest token lifetime is ten minutes; a join token is valid for a day at most."""

Rule = dict[str, list[str]]


@dataclass(frozen=True)
class Manifest:
    """An object with its kind and namespace (None: cluster-scoped)."""

    resource: Resource
    namespace: str | None
    body: Object

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def key(self) -> tuple[Resource, str | None, str]:
        """Kind, namespace and name."""
        return self.resource, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.name}{self.where}"

    @property
    def where(self) -> str:
        """Its namespace, as the end of a sentence."""
        return f" in {self.namespace}" if self.namespace else ""


# An installation.


@dataclass(frozen=True)
class KeyPair:
    """An intermediate's certificate chain and key (PEM)."""

    chain: str
    private_key: str = field(repr=False)


@dataclass(frozen=True)
class Installation:
    """The admin's choices. `issued_by`: the cert-manager issuer, `Kind/name`, that signs with the trust anchor.

    The issuer is an intermediate of its own under the mesh's trust anchor, so that it can be revoked alone. Linkerd's
    own issuer is used only on request: with it, the controller's account can sign for every workload of the mesh.
    """

    namespace: str = "exclave"
    linkerd: str = "linkerd"
    image: str = IMAGE
    replicas: int = 2
    issuer: Literal["cert-manager", "key", "linkerd"] = "key"
    issued_by: str = ""
    key_pair: KeyPair | None = None

    @property
    def issuer_secret(self) -> str:
        """The only Secret that the controller reads."""
        return LINKERDS_ISSUER if self.issuer == "linkerd" else ISSUER

    @property
    def issuer_namespace(self) -> str:
        """The namespace of this Secret."""
        return self.linkerd if self.issuer == "linkerd" else self.namespace

    @property
    def rights(self) -> list[Manifest]:
        """The controller's account and rights."""
        return controller_objects(self.namespace, self.linkerd, self.issuer_secret, self.issuer_namespace)


def read_installation(deployment: Object) -> Installation:
    """The admin's choices, from the controller's Deployment. It does not show which kind of own issuer there is."""
    spec = deployment["spec"]
    container = spec["template"]["spec"]["containers"][0]
    arguments = dict(str(one).lstrip("-").partition("=")[::2] for one in container.get("args") or ())
    return Installation(
        namespace=str(deployment["metadata"]["namespace"]),
        linkerd=arguments.get("linkerd-namespace") or "linkerd",
        image=str(container.get("image") or IMAGE),
        replicas=int(spec.get("replicas") or 2),
        issuer="linkerd" if arguments.get("issuer", "").endswith(f"/{LINKERDS_ISSUER}") else "key",
    )


def is_ours(image: str) -> bool:
    """Whether an image is exclave's released one, not the admin's own."""
    return image.partition("@")[0].rpartition(":")[0] == REPOSITORY or image == REPOSITORY


def first_objects() -> list[Manifest]:
    """The CustomResourceDefinitions: the API server must serve them before the rest can be created."""
    return [Manifest(kinds.CUSTOM_RESOURCE_DEFINITIONS, None, body) for body in custom_resource_definitions()]


def later_objects(choice: Installation) -> list[Manifest]:
    """Everything else. Policies are first: no account ever has a right without the policy that limits it."""
    extension = {"labels": {"linkerd.io/extension": "exclave"}}  # by this label `linkerd check` finds extensions
    rights = [_manifest(*one.key, extension) if one.resource is kinds.NAMESPACES else one for one in choice.rights]
    port = {"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}
    service = {"selector": {"app.kubernetes.io/name": CONTROLLER}, "ports": [port]}
    return [
        *guard_manifests(choice.namespace),
        *rights,
        *_issuer(choice),
        _deployment(choice),
        _manifest(kinds.SERVICES, choice.namespace, CONTROLLER, spec=service),
    ]


def guard_manifests(controller_namespace: str) -> list[Manifest]:
    """The admission policies as manifests."""
    policies, bindings = kinds.VALIDATING_ADMISSION_POLICIES, kinds.VALIDATING_ADMISSION_POLICY_BINDINGS
    bodies = admission_objects(controller_namespace)
    return [Manifest(policies if body["kind"] == policies.kind else bindings, None, body) for body in bodies]


def _issuer(choice: Installation) -> Iterator[Manifest]:
    if choice.key_pair is not None:
        content = {"tls.crt": choice.key_pair.chain, "tls.key": choice.key_pair.private_key}
        data = {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}
        yield _manifest(kinds.SECRETS, choice.namespace, ISSUER, type="kubernetes.io/tls", data=data)
    if choice.issuer == "cert-manager":
        kind, _, name = choice.issued_by.partition("/")
        spec = {
            "secretName": ISSUER,
            "commonName": f"identity.{choice.namespace}.exclave.dev",
            "isCA": True,
            "duration": "2160h0m0s",
            "renewBefore": "720h0m0s",
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["cert sign", "crl sign", "server auth", "client auth"],
            "issuerRef": {"kind": kind, "name": name},
        }
        yield _manifest(kinds.CERTIFICATES, choice.namespace, ISSUER, spec=spec)


def _deployment(choice: Installation) -> Manifest:
    labels = {"app.kubernetes.io/name": CONTROLLER}
    apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    affinity = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]}
    pod = {
        "serviceAccountName": CONTROLLER,
        "affinity": {"podAntiAffinity": affinity},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(choice)],
    }
    # Not meshed: it must work while the mesh does not, and it connects to the API server only.
    metadata = {"labels": labels, "annotations": {"linkerd.io/inject": "disabled"}}
    spec = {
        "replicas": choice.replicas,
        "selector": {"matchLabels": labels},
        "strategy": {"rollingUpdate": {"maxUnavailable": 1}},
        "template": {"metadata": metadata, "spec": pod},
    }
    return _manifest(kinds.DEPLOYMENTS, choice.namespace, CONTROLLER, {"labels": labels}, spec=spec)


def _container(choice: Installation) -> Object:
    arguments = [f"--namespace={choice.namespace}", f"--linkerd-namespace={choice.linkerd}"]
    if choice.issuer == "linkerd":
        arguments.append(f"--issuer={choice.linkerd}/{LINKERDS_ISSUER}")
    return {
        "name": "controller",
        "image": choice.image,
        "args": [*arguments, f"--listen=:{METRICS_PORT}"],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}, "initialDelaySeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def controller_objects(
    namespace: str, linkerd_namespace: str, issuer_secret: str, issuer_namespace: str | None = None
) -> list[Manifest]:
    """The controller's account and its rights: in the whole cluster, on Linkerd's settings, on the issuer's Secret.

    `issuer_namespace` defaults to the controller's namespace.
    """
    controller = _controller_account(namespace)
    slices = _rule("discovery.k8s.io", "endpointslices", "get", "list", "watch")
    linkerds_maps = _rule("", "configmaps", "get", "watch", names=("linkerd-config", "linkerd-identity-trust-roots"))
    own_rules = [
        _rule("coordination.k8s.io", "leases", "create"),
        _rule("coordination.k8s.io", "leases", "get", "update", names=[ELECTION]),
        _rule("events.k8s.io", "events", "create"),
    ]
    cluster_role = _role_ref("ClusterRole", CONTROLLER)
    issuer_rule = _rule("", "secrets", "get", "watch", names=[issuer_secret])
    return [
        _manifest(kinds.NAMESPACES, None, namespace),
        _manifest(kinds.SERVICE_ACCOUNTS, namespace, CONTROLLER),
        _manifest(kinds.CLUSTER_ROLES, None, CONTROLLER, rules=_controller_rules()),
        _manifest(kinds.CLUSTER_ROLE_BINDINGS, None, CONTROLLER, roleRef=cluster_role, subjects=[controller]),
        *_bound_role(linkerd_namespace, CONTROLLER, controller, linkerds_maps, slices),
        *_bound_role("kube-system", CONTROLLER, controller, slices),
        *_bound_role(namespace, CONTROLLER, controller, *own_rules),
        *_bound_role(issuer_namespace or namespace, ISSUER, controller, issuer_rule),
    ]


def _controller_rules() -> list[Rule]:
    """In the whole cluster it reads and deletes only, and creates where Roles allow it, in a group's two namespaces.

    Deleting needs a ClusterRole: a namespace that is being deleted loses its Roles before its finalizers are removed.
    """
    policies, registration = ADMISSION_POLICY_NAMES, "admissionregistration.k8s.io"
    return [
        _rule("exclave.dev", "workloadgroups", "get", "list", "watch", "patch"),
        _rule("exclave.dev", "workloadgroups/status", "patch"),
        _rule("exclave.dev", "members", "get", "list", "watch", "patch", "delete"),
        _rule("exclave.dev", "members/status", "patch"),
        _rule("workload.linkerd.io", "externalworkloads", "get", "list", "watch", "patch", "delete"),
        _rule("workload.linkerd.io", "externalworkloads/status", "patch"),
        _rule("coordination.k8s.io", "leases", "get", "list", "watch", "delete"),
        _rule(registration, "validatingadmissionpolicies", "get", "watch", names=policies),
        _rule(registration, "validatingadmissionpolicybindings", "get", "watch", names=policies),
    ]


# A group, and the accounts of join tokens.


def group_objects(namespace: str, name: str, spec: dict[str, Any], controller_namespace: str) -> list[Manifest]:
    """A group and everything that it needs."""
    accounts = accounts_namespace(namespace)
    machines = {"kind": "Group", "apiGroup": RBAC, "name": f"system:serviceaccounts:{accounts}"}
    controller = _controller_account(controller_namespace)
    settings, publisher = group_roles(name)
    machine_rules = [
        _rule("exclave.dev", "members", "create", "get", "watch", "patch", "delete"),
        _rule("workload.linkerd.io", "externalworkloads/status", "get", "patch"),
        _rule("coordination.k8s.io", "leases", "get", "patch"),
    ]
    # RBAC cannot limit the names of objects to be created; the admission policies do.
    create_rules = [
        _rule("", "configmaps", "create"),
        _rule("coordination.k8s.io", "leases", "create"),
        _rule("workload.linkerd.io", "externalworkloads", "create"),
        _rule("events.k8s.io", "events", "create"),
        _rule("", "services", "list"),  # to warn about headless ones
    ]
    mint = _rule("", "serviceaccounts/token", "create")
    account_rules = [_rule("", "serviceaccounts", "list", "create", "delete"), mint]
    settings_map = [settings_name(name)]
    return [
        _manifest(kinds.NAMESPACES, None, namespace, {"labels": {GROUPS_LABEL: accounts}}),
        _manifest(kinds.NAMESPACES, None, accounts, {"labels": {ACCOUNTS_LABEL: namespace}}),
        _manifest(kinds.SERVICE_ACCOUNTS, namespace, spec.get("serviceAccount") or name),
        *_bound_role(namespace, MACHINES_ROLE, machines, *machine_rules),
        *_bound_role(accounts, MACHINES_ROLE, machines, mint),
        *_bound_role(namespace, settings, machines, _rule("", "configmaps", "get", names=settings_map)),
        *_bound_role(namespace, publisher, controller, _rule("", "configmaps", "patch", names=settings_map)),
        *_bound_role(namespace, CONTROLLER, controller, *create_rules),
        *_bound_role(accounts, CONTROLLER, controller, *account_rules),
        _manifest(kinds.WORKLOAD_GROUPS, namespace, name, spec=spec),
    ]


def group_roles(name: str) -> tuple[str, str]:
    """The names of the two Roles of one group: reading its settings, and writing them."""
    return f"exclave-settings.{name}", f"exclave-publisher.{name}"


def join_account(namespace: str, group: str, token_id: str, uses: int, expires: float) -> Manifest:
    """The account of a join token. `expires` in epoch seconds. Raises ValueError for a wrong number of uses."""
    if not 1 <= uses <= MOST_USES:
        raise ValueError(f"uses: a number from 1 to {MOST_USES} was expected, found {uses}")
    return _expiring(namespace, f"{group}.join.{token_id}-{uses}", expires)


def rejoin_account(namespace: str, member: str, expires: float) -> Manifest:
    """The account of a token with which one member's machine joins again. Raises ValueError for a wrong name."""
    name = parse_member_name(member)
    return _expiring(namespace, f"{name.group}.rejoin.{name.token_id}-{name.slot}", expires)


def _expiring(namespace: str, account: str, expires: float) -> Manifest:
    metadata = {"annotations": {EXPIRES: rfc3339(expires)}}
    return _manifest(kinds.SERVICE_ACCOUNTS, accounts_namespace(namespace), account, metadata)


# Parts of objects.


def _manifest(
    resource: Resource, namespace: str | None, name: str, metadata: Object | None = None, **fields: Any
) -> Manifest:
    where = {"namespace": namespace} if namespace is not None else {}
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, **where, **(metadata or {})},
        **fields,
    }
    return Manifest(resource, namespace, body)


def _bound_role(namespace: str, name: str, subject: Object, *rules: Rule) -> list[Manifest]:
    """A Role, and the binding of the same name that gives it to one subject."""
    return [
        _manifest(kinds.ROLES, namespace, name, rules=list(rules)),
        _manifest(kinds.ROLE_BINDINGS, namespace, name, roleRef=_role_ref("Role", name), subjects=[subject]),
    ]


def _rule(group: str, resource: str, *verbs: str, names: Sequence[str] = ()) -> Rule:
    rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return {**rule, "resourceNames": list(names)} if names else rule


def _role_ref(kind: str, name: str) -> Object:
    return {"apiGroup": RBAC, "kind": kind, "name": name}


def _controller_account(namespace: str) -> Object:
    return {"kind": "ServiceAccount", "name": CONTROLLER, "namespace": namespace}


# Changes to existing objects.


@dataclass(frozen=True)
class Change:
    """Create the object, patch it (JSON merge patch), do nothing, or report that the existing one blocks it."""

    verb: Literal["create", "patch", "none", "blocked"]
    manifest: Manifest
    patch: Object = field(default_factory=dict)

    def __str__(self) -> str:
        name = object_name(self.manifest.resource, self.manifest.body) + self.manifest.where
        if self.verb == "patch":
            return f"{name} changed: {', '.join(paths(self.patch))}"
        words = {"create": "created", "none": "unchanged", "blocked": "has another roleRef, which cannot be changed"}
        return f"{name} {words[self.verb]}"


def plan_change(manifest: Manifest, found: Object | None) -> Change:
    """The change that an object needs to match its manifest; `found` is the existing one.

    Only the manifest's fields are changed; lists are replaced whole. The API server refuses a change of roleRef.
    """
    if found is None:
        return Change("create", manifest)
    wanted = {key: value for key, value in manifest.body.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = manifest.body["metadata"]
    wanted["metadata"] = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    patch = difference(wanted, found)
    if "roleRef" in patch:
        return Change("blocked", manifest)
    return Change("patch", manifest, patch) if patch else Change("none", manifest)


def difference(wanted: Object, found: Object) -> Object:
    """The merge patch from `found` to `wanted`; empty if nothing differs."""
    patch: Object = {}
    for key, value in wanted.items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if inner := difference(value, there):
                patch[key] = inner
        elif value != there:
            patch[key] = value
    return patch


def paths(tree: Object, before: str = "") -> list[str]:
    """The keys that a patch changes, dotted, at most two levels deep."""
    found = []
    for key, value in tree.items():
        path = f"{before}{key}"
        found += paths(value, f"{path}.") if isinstance(value, dict) and value and not before else [path]
    return found
