"""Requests to the Kubernetes API as values, and what their answers mean. Pure.

Rules: a maker per verb, so that a reader of a call sees verb, resource and name; `judge` alone decides whether an
answer is worth another try; bodies are plain JSON trees.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as a JSON tree."""

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True)
class Resource:
    """A kind as the API's paths name it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apiVersion` of this kind's objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


MEMBERS = Resource("exclave.dev", "v1alpha1", "members", "Member")
WORKLOAD_GROUPS = Resource("exclave.dev", "v1alpha1", "workloadgroups", "WorkloadGroup")
EXTERNAL_WORKLOADS = Resource("workload.linkerd.io", "v1beta1", "externalworkloads", "ExternalWorkload")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)


@dataclass(frozen=True)
class Request:
    """One call: HTTP method, path below the server, query, JSON body. `what` names it in errors and counters."""

    method: str
    path: str
    verb: str
    what: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    content_type: str = JSON


def path_of(resource: Resource, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """The API path of a collection, an object or a subresource."""
    parts = ["api", resource.version] if not resource.group else ["apis", resource.group, resource.version]
    if resource.namespaced and namespace is not None:
        parts += ["namespaces", namespace]
    parts.append(resource.plural)
    parts += [part for part in (name, subresource) if part is not None]
    return "/" + "/".join(parts)


def get(resource: Resource, namespace: str | None, name: str) -> Request:
    """Read one object."""
    return Request("GET", path_of(resource, namespace, name), "get", f"{resource.plural} {name}")


def list_all(resource: Resource, namespace: str | None, **query: str) -> Request:
    """Read a collection."""
    return Request("GET", path_of(resource, namespace), "list", resource.plural, query)


def create(resource: Resource, namespace: str | None, body: Object) -> Request:
    """Make an object."""
    name = body.get("metadata", {}).get("name", "")
    return Request("POST", path_of(resource, namespace), "create", f"{resource.plural} {name}", body=body)


def replace(
    resource: Resource, namespace: str | None, name: str, body: Object, subresource: str | None = None
) -> Request:
    """Replace an object; `metadata.resourceVersion` in the body makes it conditional."""
    path = path_of(resource, namespace, name, subresource)
    return Request("PUT", path, "update", _what(resource, name, subresource), body=body)


def patch(
    resource: Resource, namespace: str | None, name: str, body: Object, subresource: str | None = None
) -> Request:
    """Merge into an object (RFC 7386): null removes a key, lists are replaced whole."""
    path = path_of(resource, namespace, name, subresource)
    what = _what(resource, name, subresource)
    return Request("PATCH", path, "patch", what, body=body, content_type=MERGE_PATCH)


def delete(resource: Resource, namespace: str | None, name: str) -> Request:
    """Delete an object; 404 is an answer, not a success."""
    return Request("DELETE", path_of(resource, namespace, name), "delete", f"{resource.plural} {name}")


def create_token(namespace: str, account: str, seconds: int) -> Request:
    """Ask for a token of a ServiceAccount, for the API server's own audience."""
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [API_AUDIENCE], "expirationSeconds": seconds},
    }
    path = path_of(SERVICE_ACCOUNTS, namespace, account, "token")
    return Request("POST", path, "create", f"serviceaccounts/token {account}", body=body)


API_AUDIENCE = "https://kubernetes.default.svc"


def _what(resource: Resource, name: str, subresource: str | None) -> str:
    return f"{resource.plural}{'/' + subresource if subresource else ''} {name}"
