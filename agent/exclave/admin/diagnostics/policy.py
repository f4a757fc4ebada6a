"""Which of Linkerd's policies hold at a member's port, by the objects in the cluster. Pure.

A Server selects workloads by labels, and one port by number or name. Of several, the oldest counts. Then clients need
one of the authorizations, or what the access policy of the Server admits. Without a Server, the default inbound policy
of the ExternalWorkload holds. Source: linkerd2, policy-controller/k8s/index/src/inbound/index.rs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.requests import Object
from exclave.kit.formats.visible_text import join_lines

POLICY_GROUP = "policy.linkerd.io"
INBOUND_POLICY = "config.linkerd.io/default-inbound-policy"


@dataclass(frozen=True)
class PolicyObjects:
    """The policies of one namespace; authentications are those of all namespaces."""

    servers: list[Object] = field(default_factory=list)
    authorizations: list[Object] = field(default_factory=list)  # AuthorizationPolicy
    server_authorizations: list[Object] = field(default_factory=list)
    routes: list[Object] = field(default_factory=list)  # HTTPRoute, GRPCRoute
    authentications: list[Object] = field(default_factory=list)  # MeshTLSAuthentication, NetworkAuthentication


def server_of(workload: Object, port: int, servers: Iterable[Object]) -> Object | None:
    """The Server that holds at a port; None if none does."""
    labels = mapping_in(workload["metadata"], "labels")
    names = [one.get("name") for one in mappings_in(workload.get("spec"), "ports") if one.get("port") == port]
    for server in sorted(servers, key=_by_age):
        spec = mapping_in(server, "spec")
        selects = isinstance(spec.get("externalWorkloadSelector"), dict)
        if selects and spec.get("port") in [port, *names] and matches(spec["externalWorkloadSelector"], labels):
            return server
    return None


def matches(selector: Mapping[str, object], labels: Mapping[str, object]) -> bool:
    """True if a label selector of Kubernetes selects these labels. An empty one selects everything."""
    if any(labels.get(key) != value for key, value in mapping_in(selector, "matchLabels").items()):
        return False
    return all(_expression_holds(one, labels) for one in mappings_in(selector, "matchExpressions"))


def _expression_holds(expression: Mapping[str, object], labels: Mapping[str, object]) -> bool:
    key, operator, values = str(expression.get("key")), expression.get("operator"), expression.get("values")
    listed = values if isinstance(values, list) else []
    if operator == "In":
        return labels.get(key) in listed
    if operator == "NotIn":
        return labels.get(key) not in listed
    return (key in labels) == (operator == "Exists")


def port_lines(workload: Object, port: int, found: PolicyObjects, default: str) -> list[tuple[str, str]]:
    """Labels and texts of what holds at a port. `default`: Linkerd's default inbound policy."""
    names = [str(one.get("name")) for one in mappings_in(workload.get("spec"), "ports") if one.get("port") == port]
    title = f"{port} ({', '.join(names)})" if names else f"{port} (not listed)"
    server = server_of(workload, port, found.servers)
    if server is None:
        annotated = mapping_in(workload["metadata"], "annotations").get(INBOUND_POLICY)
        text = f"{annotated} (annotation of the ExternalWorkload)" if annotated else f"{default} (Linkerd's default)"
        return [("Port", title), ("Server", "none selects it"), ("Default", text)]
    spec, name = mapping_in(server, "spec"), str(server["metadata"]["name"])
    routes = [one for one in found.routes if _is_attached(one, name)]
    return [
        ("Port", title),
        ("Server", f"{name}, protocol {spec.get('proxyProtocol') or 'unknown (detected)'}"),
        ("Others", f"{spec.get('accessPolicy') or 'deny'} (accessPolicy of the Server)"),
        ("Clients", join_lines(_clients(server, found)) or "nobody"),
        ("Routes", join_lines(_route_text(one, found) for one in routes) or "all paths"),
    ]


def _clients(server: Object, found: PolicyObjects) -> list[str]:
    metadata = server["metadata"]
    name, namespace = str(metadata["name"]), str(metadata.get("namespace", ""))
    lines = [
        _policy_text(one, found.authentications)
        for one in found.authorizations
        if _targets(one, "Server", name) or _targets(one, "Namespace", namespace)
    ]
    for one in found.server_authorizations:
        chosen = mapping_in(mapping_in(one, "spec"), "server")
        by_label = isinstance(chosen.get("selector"), dict)
        if chosen.get("name") == name or (by_label and matches(chosen["selector"], mapping_in(metadata, "labels"))):
            lines.append(f"ServerAuthorization {one['metadata']['name']}: {_client_text(mapping_in(one, 'spec'))}")
    return lines


def _client_text(spec: Mapping[str, object]) -> str:
    """The clients of a ServerAuthorization."""
    client = mapping_in(spec, "client")
    tls = mapping_in(client, "meshTLS")
    accounts = [f"{one.get('namespace', '')}/{one.get('name')}" for one in mappings_in(tls, "serviceAccounts")]
    names = [*_texts(tls, "identities"), *accounts]
    networks = [str(one.get("cidr")) for one in mappings_in(client, "networks")]
    if client.get("unauthenticated") is True:
        who = "anybody"
    else:
        who = ", ".join(names) or ("anybody with TLS" if tls.get("unauthenticatedTLS") is True else "nobody")
    return f"{who} from {', '.join(networks)}" if networks else who


def _route_text(route: Object, found: PolicyObjects) -> str:
    kind, name = str(route.get("kind")), str(route["metadata"]["name"])
    policies = [_policy_text(one, found.authentications) for one in found.authorizations if _targets(one, kind, name)]
    return f"{kind} {name}: {'; '.join(policies) or 'as the Server'}"


def _policy_text(policy: Object, authentications: Sequence[Object]) -> str:
    references = mappings_in(mapping_in(policy, "spec"), "requiredAuthenticationRefs")
    namespace = str(policy["metadata"].get("namespace", ""))
    texts = [_authentication_text(one, namespace, authentications) for one in references]
    return f"AuthorizationPolicy {policy['metadata']['name']}: {' and '.join(texts) or 'anybody'}"


def _authentication_text(reference: Mapping[str, object], namespace: str, authentications: Sequence[Object]) -> str:
    kind, name = str(reference.get("kind")), str(reference.get("name"))
    where = str(reference.get("namespace") or namespace)
    if kind == "ServiceAccount":
        return f"ServiceAccount {where}/{name}"
    for one in authentications:
        if (one.get("kind"), one["metadata"].get("namespace"), one["metadata"]["name"]) == (kind, where, name):
            return f"{kind} {where}/{name} ({', '.join(_admitted(mapping_in(one, 'spec'), where)) or 'nobody'})"
    return f"{kind} {where}/{name} (missing: Linkerd ignores the policy)"


def _admitted(spec: Mapping[str, object], namespace: str) -> list[str]:
    """The identities or networks of an authentication."""
    accounts = [
        f"{one.get('kind')} {one.get('namespace') or namespace}/{one.get('name')}"
        for one in mappings_in(spec, "identityRefs")
    ]
    networks = []
    for one in mappings_in(spec, "networks"):
        excluded = ", ".join(_texts(one, "except"))
        networks.append(f"{one.get('cidr')} except {excluded}" if excluded else str(one.get("cidr")))
    return [*_texts(spec, "identities"), *accounts, *networks]


def _targets(policy: Object, kind: str, name: str) -> bool:
    target = mapping_in(mapping_in(policy, "spec"), "targetRef")
    return (target.get("kind"), target.get("name")) == (kind, name)


def _is_attached(route: Object, server: str) -> bool:
    parents = mappings_in(mapping_in(route, "spec"), "parentRefs")
    wanted = (POLICY_GROUP, "Server", server)
    return any((one.get("group"), one.get("kind"), one.get("name")) == wanted for one in parents)


def _texts(found: Mapping[str, object], key: str) -> list[str]:
    value = found.get(key)
    return [str(one) for one in value] if isinstance(value, list) else []


def _by_age(server: Object) -> tuple[str, str]:
    """Sorts the oldest first: RFC 3339 in UTC and whole seconds, as Kubernetes writes it, sorts as text."""
    return str(server["metadata"].get("creationTimestamp", "")), str(server["metadata"]["name"])
