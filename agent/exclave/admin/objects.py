"""The objects that an admin creates, in the order of creation, and the changes that existing ones need. Pure.

Most are the YAML files in `templates`. The controller cannot grant rights: all Roles are static.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from exclave import __version__
from exclave.admin.tables import object_name
from exclave.api import requests as kinds
from exclave.api.definitions.manifests import admission_objects, custom_resource_definitions
from exclave.api.names import (
    EXPIRES,
    ISSUER,
    accounts_namespace,
    parse_member_name,
)
from exclave.api.requests import Object, Resource
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.yaml_template import fill_template

FIELD_MANAGER = "exclave"
"""Who `install` and `upgrade` are for server-side apply."""

REPOSITORY = "ghcr.io/exclave/controller"
IMAGE = f"{REPOSITORY}:{__version__}"
"""The controller's image of this version. A new version rolls the Deployment out, because the image changes."""

LINKERDS_ISSUER = "linkerd-identity-issuer"
CREDENTIAL_LIFE = "exclave.dev/credential-life"
"""Annotation of the controller's namespace: seconds that a machine's credential lives in this cluster, as measured."""

CERT_MANAGER = "certificates.cert-manager.io"
"""The definition of cert-manager's certificates: cert-manager is installed if it exists."""

METRICS_PORT = 9995
NOBODY = 65532

MOST_USES = 999
SHORTEST_TTL = 600.0
LONGEST_TTL = 86400.0
"""Seconds. Kubernetes' shortest token lifetime is ten minutes; a join token is valid for a day at most."""


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
    """True if an image is exclave's released one, not the admin's own."""
    return image.partition("@")[0].rpartition(":")[0] == REPOSITORY or image == REPOSITORY


def is_managed_by_helm(deployment: Object) -> bool:
    """True if the Deployment belongs to a Helm release. Helm sets this label on all objects that it creates."""
    return (deployment["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") == "Helm"


def first_objects() -> list[Manifest]:
    """The CustomResourceDefinitions: the API server must serve them before the rest can be created."""
    return [_manifest(body) for body in custom_resource_definitions()]


def later_objects(choice: Installation) -> list[Manifest]:
    """Everything else. Policies are first: no account ever has a right without the policy that limits it."""
    return [
        *guard_manifests(choice.namespace),
        *choice.rights,
        *_issuer(choice),
        *_filled(
            "controller.yaml",
            NAMESPACE=choice.namespace,
            REPLICAS=choice.replicas,
            IMAGE=choice.image,
            ARGUMENTS=_arguments(choice),
            METRICS_PORT=METRICS_PORT,
            USER=NOBODY,
        ),
    ]


def guard_manifests(controller_namespace: str) -> list[Manifest]:
    """The admission policies as manifests."""
    return [_manifest(body) for body in admission_objects(controller_namespace)]


def _issuer(choice: Installation) -> Iterator[Manifest]:
    if choice.key_pair is not None:
        content = {"tls.crt": choice.key_pair.chain, "tls.key": choice.key_pair.private_key}
        data = {key: base64.b64encode(text.encode()).decode() for key, text in content.items()}
        metadata = {"name": ISSUER, "namespace": choice.namespace}
        kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
        yield _manifest({**kind, "metadata": metadata, "data": data})
    if choice.issuer == "cert-manager":
        kind_of_issuer, _, name = choice.issued_by.partition("/")
        yield from _filled("certificate.yaml", NAMESPACE=choice.namespace, ISSUER_KIND=kind_of_issuer, ISSUER_NAME=name)


def _arguments(choice: Installation) -> list[str]:
    arguments = [f"--namespace={choice.namespace}", f"--linkerd-namespace={choice.linkerd}"]
    if choice.issuer == "linkerd":
        arguments.append(f"--issuer={choice.linkerd}/{LINKERDS_ISSUER}")
    return [*arguments, f"--listen=:{METRICS_PORT}"]


def controller_objects(
    namespace: str, linkerd_namespace: str, issuer_secret: str, issuer_namespace: str | None = None
) -> list[Manifest]:
    """The controller's account and its rights. `issuer_namespace` defaults to the controller's namespace."""
    return _filled(
        "rights.yaml",
        NAMESPACE=namespace,
        LINKERD=linkerd_namespace,
        ISSUER_SECRET=issuer_secret,
        ISSUER_NAMESPACE=issuer_namespace or namespace,
    )


# A group, and the accounts of join tokens.


def group_objects(namespace: str, name: str, spec: dict[str, Any], controller_namespace: str) -> list[Manifest]:
    """A group and everything that it needs."""
    return _filled(
        "group.yaml",
        NAMESPACE=namespace,
        ACCOUNTS=accounts_namespace(namespace),
        GROUP=name,
        SERVICE_ACCOUNT=spec.get("serviceAccount") or name,
        CONTROLLER_NAMESPACE=controller_namespace,
        SPEC=spec,
    )


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
    where = {"name": account, "namespace": accounts_namespace(namespace)}
    metadata = {**where, "annotations": {EXPIRES: rfc3339(expires)}}
    return _manifest({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def _filled(name: str, **values: Any) -> list[Manifest]:
    """The objects of a file in `templates`."""
    return [_manifest(body) for body in fill_template(__package__, f"templates/{name}", **values)]


def _manifest(body: Object) -> Manifest:
    return Manifest(kinds.RESOURCE_OF_KIND[body["kind"]], body["metadata"].get("namespace"), body)


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
