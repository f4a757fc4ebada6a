"""The objects of a cluster with Linkerd, for the demo's API server. Pure. Names and shapes are those of the chart.

Pods and Services have addresses in the cluster's networks, the VM has not.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

from exclave.api.requests import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Object,
    Request,
    create,
    patch,
)

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


@dataclass(frozen=True)
class MeshKeys:
    """PEM texts: the trust anchor, and exclave's issuer."""

    anchor: str
    issuer: str
    issuer_key_pem: str

    def __repr__(self) -> str:
        return "MeshKeys(…)"


def mesh_requests(keys: MeshKeys) -> list[Request]:
    """Linkerd's namespaces, configuration and Services, and exclave's issuer."""
    return [
        *(create(NAMESPACES, None, {"metadata": {"name": name}}) for name in (LINKERD, "kube-system", "exclave")),
        _config(),
        create(
            CONFIG_MAPS,
            LINKERD,
            {"metadata": {"name": "linkerd-identity-trust-roots"}, "data": {"ca-bundle.crt": keys.anchor}},
        ),
        create(
            SECRETS,
            "exclave",
            {
                "metadata": {"name": "exclave-issuer"},
                "type": "Opaque",
                "data": {"crt.pem": _base64(keys.issuer), "key.pem": _base64(keys.issuer_key_pem)},
            },
        ),
        _headless("linkerd-dst-headless", LINKERD, 8086),
        _headless("linkerd-policy", LINKERD, 8090),
        _headless("kube-dns", "kube-system", 53),
    ]


def application_requests() -> list[Request]:
    """A meshed pod in the group's namespace, and Services for it and for the group."""
    return [
        create(SERVICE_ACCOUNTS, NAMESPACE, {"metadata": {"name": POD_NAME}}),
        create(PODS, NAMESPACE, _pod()),
        # The API server accepts a status only by its subresource.
        patch(PODS, NAMESPACE, POD_NAME, {"status": _POD_STATUS}, subresource="status"),
        _service(POD_NAME, POD_SERVICE, POD_PORT),
        _service(GROUP, GROUP_SERVICE, GROUP_PORT),
    ]


def group_spec(certificate_lifetime: str) -> dict[str, Any]:
    """The demo's WorkloadGroup: one HTTP port, probed by TCP."""
    return {
        "labels": {"app": GROUP},
        "ports": [{"name": "http", "port": GROUP_PORT}],
        "networks": [VM_NETWORK],
        "certificateLifetime": certificate_lifetime,
        "probes": [{"kind": "tcp", "port": GROUP_PORT, "every": "1s", "timeout": "1s", "failures": 3}],
    }


def _config() -> Request:
    # JSON is YAML: the controller parses it as the chart's text.
    values = {
        "clusterDomain": CLUSTER_DOMAIN,
        "identityTrustDomain": TRUST_DOMAIN,
        "clusterNetworks": ",".join(CLUSTER_NETWORKS),
        "disableIPv6": True,
        "proxy": {
            "image": {"name": "cr.l5d.io/linkerd/proxy", "version": "edge-26.8.2"},
            "opaquePorts": "25,587,3306,4444,5432,6379,9300,11211",
            "defaultInboundPolicy": "all-unauthenticated",
        },
    }
    return create(
        CONFIG_MAPS, LINKERD, {"metadata": {"name": "linkerd-config"}, "data": {"values": json.dumps(values, indent=2)}}
    )


def _headless(name: str, namespace: str, port: int) -> Request:
    body = {
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [CONTROL_PLANE], "conditions": {"ready": True}}],
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
    }
    return create(ENDPOINT_SLICES, namespace, body)


def _pod() -> Object:
    return {
        "metadata": {
            "name": POD_NAME,
            "labels": {"app": POD_NAME, "linkerd.io/control-plane-ns": LINKERD},
            "annotations": {"linkerd.io/proxy-version": "edge-26.8.2"},
        },
        "spec": {
            "serviceAccountName": POD_NAME,
            "containers": [{"name": "app", "image": "echo", "ports": [{"containerPort": POD_PORT}]}],
        },
    }


_POD_STATUS = {"phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}]}


def _service(name: str, address: str, port: int) -> Request:
    body = {
        "metadata": {"name": name},
        "spec": {
            "clusterIP": address,
            "selector": {"app": name},
            "ports": [{"name": "http", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }
    return create(SERVICES, NAMESPACE, body)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
