"""The names and addresses of the demo's cluster with Linkerd, and its objects: the YAML files beside this module.

Pods and Services have addresses in the cluster's networks, the VM has not.
"""

import base64
from collections.abc import Iterator
from typing import Any

from exclave.api.requests import RESOURCE_OF_KIND, Request, create, patch
from exclave.kit.formats.yaml_template import fill_template

LINKERD = "linkerd"
TRUST_DOMAIN = CLUSTER_DOMAIN = "cluster.local"
CLUSTER_NETWORKS = ("10.42.0.0/16", "10.96.0.0/16")
CONTROL_PLANE = "10.42.0.2"
POD = "10.42.0.10"
VM = "10.77.0.20"
VM_NETWORK = "10.77.0.0/24"

NAMESPACE = "shop"
GROUP = "web"
GROUP_PORT = 8080
GROUP_SERVICE = "10.96.0.80"
POD_NAME = "orders"
POD_PORT = 8080
POD_SERVICE = "10.96.0.90"


def mesh_requests(anchor: str, issuer: str, issuer_key: str) -> list[Request]:
    """Linkerd's namespaces, configuration and Services, and exclave's issuer; the keys are PEM."""
    certificate, key = (base64.b64encode(text.encode()).decode() for text in (issuer, issuer_key))
    return list(_requests("linkerd.yaml", ANCHOR=anchor, ISSUER=certificate, ISSUER_KEY=key))


def application_requests() -> list[Request]:
    """A meshed pod in the group's namespace, and Services for it and for the group."""
    return list(_requests("application.yaml"))


def group_spec(certificate_lifetime: str) -> dict[str, Any]:
    """The demo's WorkloadGroup: one HTTP port, probed by TCP."""
    return {
        "labels": {"app": GROUP},
        "ports": [{"name": "http", "port": GROUP_PORT}],
        "networks": [VM_NETWORK],
        "certificateLifetime": certificate_lifetime,
        "probes": [{"kind": "tcp", "port": GROUP_PORT, "every": "1s", "timeout": "1s", "failures": 3}],
    }


_VALUES = {
    "LINKERD": LINKERD, "TRUST_DOMAIN": TRUST_DOMAIN, "CLUSTER_NETWORKS": ",".join(CLUSTER_NETWORKS),
    "CONTROL_PLANE": CONTROL_PLANE, "NAMESPACE": NAMESPACE,
    "POD": POD, "POD_NAME": POD_NAME, "POD_PORT": POD_PORT, "POD_SERVICE": POD_SERVICE,
    "GROUP": GROUP, "GROUP_PORT": GROUP_PORT, "GROUP_SERVICE": GROUP_SERVICE,
}  # fmt: skip


def _requests(file: str, **values: str) -> Iterator[Request]:
    for found in fill_template(__package__, file, **_VALUES, **values):
        resource, metadata = RESOURCE_OF_KIND[found["kind"]], found["metadata"]
        status = found.pop("status", None)
        yield create(resource, metadata.get("namespace"), found)
        if status is not None:  # the API server accepts it only by its subresource
            yield patch(resource, metadata["namespace"], metadata["name"], {"status": status}, subresource="status")
