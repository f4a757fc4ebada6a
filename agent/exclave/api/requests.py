"""Requests to the Kubernetes API as values, with one function per verb, and the errors for responses. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exclave.errors import ApiRefusal, ClusterError, Fault

Object = dict[str, Any]  # a Kubernetes object as a JSON tree

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True)
class Resource:
    """A kind, as in the API's paths."""

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
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
_RBAC = ("rbac.authorization.k8s.io", "v1")
ROLES = Resource(*_RBAC, "roles", "Role")
ROLE_BINDINGS = Resource(*_RBAC, "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource(*_RBAC, "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(*_RBAC, "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
_ADMISSION = ("admissionregistration.k8s.io", "v1")
VALIDATING_ADMISSION_POLICIES = Resource(
    *_ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
VALIDATING_ADMISSION_POLICY_BINDINGS = Resource(
    *_ADMISSION, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
MESH_TLS_AUTHENTICATIONS = Resource("policy.linkerd.io", "v1alpha1", "meshtlsauthentications", "MeshTLSAuthentication")
_POLICY = "policy.linkerd.io"
NETWORK_AUTHENTICATIONS = Resource(_POLICY, "v1alpha1", "networkauthentications", "NetworkAuthentication")
AUTHORIZATION_POLICIES = Resource(_POLICY, "v1alpha1", "authorizationpolicies", "AuthorizationPolicy")
SERVERS = Resource(_POLICY, "v1beta3", "servers", "Server")
SERVER_AUTHORIZATIONS = Resource(_POLICY, "v1beta1", "serverauthorizations", "ServerAuthorization")
_GATEWAY = ("gateway.networking.k8s.io", "v1")
ROUTES = (
    Resource(_POLICY, "v1beta3", "httproutes", "HTTPRoute"),
    Resource(*_GATEWAY, "httproutes", "HTTPRoute"),
    Resource(*_GATEWAY, "grpcroutes", "GRPCRoute"),
)
CERTIFICATES = Resource("cert-manager.io", "v1", "certificates", "Certificate")
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
RESOURCE_OF_KIND = {one.kind: one for one in tuple(globals().values()) if isinstance(one, Resource)}  # all of the above


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


def get(resource: Resource, namespace: str | None, name: str, subresource: str | None = None) -> Request:
    """Read one object, or one of its subresources."""
    return Request("GET", path_of(resource, namespace, name, subresource), "get", _what(resource, name, subresource))


def list_all(resource: Resource, namespace: str | None, **query: str) -> Request:
    """Read a collection."""
    return Request("GET", path_of(resource, namespace), "list", resource.plural, query)


def create(resource: Resource, namespace: str | None, body: Object) -> Request:
    """Create an object."""
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


def delete(resource: Resource, namespace: str | None, name: str, *, uid: str = "") -> Request:
    """Delete an object. With `uid`, only the object that has it: for another of this name, the answer is 409."""
    # Source: DeleteOptions in k8s.io/apimachinery/pkg/apis/meta/v1/types.go.
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}} if uid else None
    return Request("DELETE", path_of(resource, namespace, name), "delete", f"{resource.plural} {name}", body=options)


def create_token(namespace: str, account: str, seconds: int) -> Request:
    """Request a token of a ServiceAccount for the API server's own audience."""
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


# Timeouts, overload, a server that starts or stops, an admission webhook that does not answer.
WORTH_ANOTHER_TRY = frozenset({408, 429, 500, 502, 503, 504})


def is_transient(problem: ClusterError) -> bool:
    """True if the same request may succeed later: no server was reached, or the response means "not now"."""
    if isinstance(problem, ApiRefusal):
        return problem.status in WORTH_ANOTHER_TRY
    return problem.fault is Fault.UNREACHABLE


def is_answer_to(request: Request, status: int, body: object) -> bool:
    """True if an API server gives this refusal to this request. `body` is parsed JSON.

    Load balancers, portals and API servers that do not serve a kind yet answer 404 and others for objects that exist.
    """
    # Source: Status in k8s.io/apimachinery/pkg/apis/meta/v1/types.go; NewNotFound in its pkg/api/errors/errors.go.
    if status in WORTH_ANOTHER_TRY:
        return True
    if not isinstance(body, dict) or body.get("kind") != "Status" or body.get("code") not in (None, status):
        return False
    details = body.get("details")
    missing = details.get("name") if isinstance(details, dict) else None
    # The object in the path, or its namespace. Without a name, the kind is not served.
    return status != 404 or (body.get("reason") == "NotFound" and missing in request.path.split("/"))


def refusal(
    request: Request, status: int, body: object, *, server: str, who: str, retry_after: str | None = None
) -> ApiRefusal:
    """The error for a response without success. `who`: the caller. `retry_after`: the header. `body` is parsed JSON."""
    # Source: Status in k8s.io/apimachinery/pkg/apis/meta/v1/types.go.
    answer = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
    reason = str(answer.get("reason") or "")
    details: Any = answer.get("details")
    in_body = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    server_text = str(answer.get("message") or "")[:LONGEST_MESSAGE]
    again = status in WORTH_ANOTHER_TRY
    message, hint = _words(request, status, reason, server, who, again)
    return ApiRefusal(
        status,
        reason,
        f"{message}: {server_text}" if server_text else message,
        hint,
        fault=Fault.UNREACHABLE if again else Fault.NOT_PERMITTED,
        retry_after=_seconds(retry_after) or _seconds(in_body),
    )


LONGEST_MESSAGE = 1000  # characters of a server's message in an error: a Status may quote a whole object
LONGEST_RETRY_AFTER = 300.0  # seconds at most until a request is sent again, also after a longer Retry-After


def _words(request: Request, status: int, reason: str, server: str, who: str, again: bool) -> tuple[str, str]:
    action = f"{request.verb} {request.what}"
    named = f"{status} {reason}".rstrip()
    if again:
        return f"{server} could not {action} now ({named})", "the API server is busy, starting or stopping: try again"
    if status == 401:
        return (
            f"{server} does not accept the token of {who}, which asked to {action} ({named})",
            "the token has expired or its account was deleted: join again with a new token",
        )
    if status == 403:
        return (
            f"{server} does not permit {who} to {action} ({named})",
            "check the group's Roles and RoleBindings, and the admission policy, if the message names it",
        )
    if status == 404:
        return f"{server} has no {request.what} to {request.verb} ({named})", "check its name and namespace"
    if status == 409:
        return f"{server} did not {action} ({named})", "read the object again, then decide again"
    return f"{server} refused to {action} ({named})", "compare the versions of exclave here and in the cluster"


def _seconds(value: object) -> float | None:
    """Retry-After in seconds. Its other form, a date, is ignored: API servers do not use it."""
    text = str(value)
    return min(float(text), LONGEST_RETRY_AFTER) if text.isascii() and text.isdecimal() else None
