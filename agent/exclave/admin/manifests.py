"""The objects of an installation, in the order in which they are created. Pure.

Definitions first, then the admission policies, then rights: no account ever has a right without the policy that limits
it. The issuer is an intermediate of its own under the mesh's trust anchor, so that it can be revoked alone: made by
cert-manager, or from a key of the admin's. Linkerd's own issuer is used only on request: whoever holds the controller's
account could then sign for every workload of the mesh.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from exclave import __version__
from exclave.admin.objects import Manifest, controller_objects
from exclave.api.definitions.admission import admission_objects
from exclave.api.definitions.crds import custom_resource_definitions
from exclave.api.names import CONTROLLER
from exclave.api.requests import (
    CERTIFICATES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    Object,
)

REPOSITORY = "ghcr.io/exclave/controller"
IMAGE = f"{REPOSITORY}:{__version__}"
"""The controller's image of this version. A new version rolls the Deployment out, because the image changes."""

EXTENSION_LABEL = "linkerd.io/extension"
EXTENSION = "exclave"
ISSUER = "exclave-issuer"
LINKERDS_ISSUER = "linkerd-identity-issuer"
CREDENTIAL_LIFE = "exclave.dev/credential-life"
"""Annotation of the controller's namespace: seconds that a machine's credential lives in this cluster, as measured."""

METRICS_PORT = 9995
NOBODY = 65532

KINDS = {
    one.kind: one
    for one in (
        CERTIFICATES, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CUSTOM_RESOURCE_DEFINITIONS, DEPLOYMENTS, NAMESPACES,
        ROLE_BINDINGS, ROLES, SECRETS, SERVICE_ACCOUNTS, SERVICES, VALIDATING_ADMISSION_POLICIES,
        VALIDATING_ADMISSION_POLICY_BINDINGS,
    )
}  # fmt: skip
"""The kinds that an installation consists of."""

IssuerKind = Literal["cert-manager", "key", "linkerd"]


@dataclass(frozen=True)
class KeyPair:
    """An intermediate's certificate chain and key (PEM)."""

    chain: str
    private_key: str = field(repr=False)


@dataclass(frozen=True)
class Installation:
    """The admin's choices. `issued_by`: the cert-manager issuer, `Kind/name`, that signs with the trust anchor."""

    namespace: str = "exclave"
    linkerd: str = "linkerd"
    image: str = IMAGE
    replicas: int = 2
    issuer: IssuerKind = "key"
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
    namespace = str(deployment["metadata"]["namespace"])
    return Installation(
        namespace=namespace,
        linkerd=arguments.get("linkerd-namespace") or "linkerd",
        image=str(container.get("image") or IMAGE),
        replicas=int(spec.get("replicas") or 2),
        issuer="linkerd" if arguments.get("issuer", "").endswith(f"/{LINKERDS_ISSUER}") else "key",
    )


def is_ours(image: str) -> bool:
    """Whether an image is exclave's released one, not the admin's own."""
    return image.partition("@")[0].rpartition(":")[0] == REPOSITORY or image == REPOSITORY


def first_objects() -> list[Object]:
    """The CustomResourceDefinitions: the API server must serve them before the rest can be created."""
    return custom_resource_definitions()


def later_objects(choice: Installation) -> list[Object]:
    """Everything else: policies, rights, issuer, controllers."""
    return [
        *admission_objects(choice.namespace),
        *_rights(choice),
        *_issuer(choice),
        _deployment(choice),
        _service(choice),
    ]


def _rights(choice: Installation) -> Iterator[Object]:
    for manifest in choice.rights:
        body = manifest.body
        if body["kind"] == "Namespace":
            body = {**body, "metadata": {**body["metadata"], "labels": {EXTENSION_LABEL: EXTENSION}}}
        yield body


def _issuer(choice: Installation) -> Iterator[Object]:
    if choice.key_pair is not None:
        content = {"tls.crt": choice.key_pair.chain, "tls.key": choice.key_pair.private_key}
        yield {
            "apiVersion": SECRETS.api_version,
            "kind": SECRETS.kind,
            "metadata": {"name": ISSUER, "namespace": choice.namespace},
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(text.encode()).decode() for key, text in content.items()},
        }
    if choice.issuer == "cert-manager":
        kind, _, name = choice.issued_by.partition("/")
        yield {
            "apiVersion": CERTIFICATES.api_version,
            "kind": CERTIFICATES.kind,
            "metadata": {"name": ISSUER, "namespace": choice.namespace},
            "spec": {
                "secretName": ISSUER,
                "commonName": f"identity.{choice.namespace}.exclave.dev",
                "isCA": True,
                "duration": "2160h0m0s",
                "renewBefore": "720h0m0s",
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "usages": ["cert sign", "crl sign", "server auth", "client auth"],
                "issuerRef": {"kind": kind, "name": name},
            },
        }


def _deployment(choice: Installation) -> Object:
    labels = {"app.kubernetes.io/name": CONTROLLER}
    apart = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": {"name": CONTROLLER, "namespace": choice.namespace, "labels": labels},
        "spec": {
            "replicas": choice.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                # Not meshed: it must work while the mesh does not, and it connects to the API server only.
                "metadata": {"labels": labels, "annotations": {"linkerd.io/inject": "disabled"}},
                "spec": {
                    "serviceAccountName": CONTROLLER,
                    "affinity": {
                        "podAntiAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [
                                {"weight": 100, "podAffinityTerm": apart}
                            ]
                        }
                    },
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": NOBODY,
                        "runAsGroup": NOBODY,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container(choice)],
                },
            },
        },
    }


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


def _service(choice: Installation) -> Object:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": {"name": CONTROLLER, "namespace": choice.namespace},
        "spec": {
            "selector": {"app.kubernetes.io/name": CONTROLLER},
            "ports": [{"name": "metrics", "port": METRICS_PORT, "targetPort": "metrics"}],
        },
    }
