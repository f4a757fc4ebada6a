"""Which policies hold at a port: as Linkerd's policy controller decides."""

from typing import Any

import pytest

from exclave.admin.diagnostics.policy import PolicyObjects, matches, port_lines, server_of
from exclave.api.requests import Object

LABELS = {"app": "web"}
WORKLOAD: Object = {
    "metadata": {"name": "web-k7q2x-1", "namespace": "shop", "labels": LABELS},
    "spec": {"ports": [{"name": "http", "port": 8080}, {"name": "pg", "port": 5432}]},
}


def made(kind: str, name: str, spec: Any, **metadata: Any) -> Object:
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop", **metadata}, "spec": spec}


def server(name: str = "web", port: object = 8080, labels: Any = None, **spec: Any) -> Object:
    selector = {"matchLabels": LABELS if labels is None else labels}
    return made("Server", name, {"externalWorkloadSelector": selector, "port": port, **spec})


def policy(name: str, kind: str, target: str, *references: tuple[str, str]) -> Object:
    wanted = [{"kind": kind_of, "name": name_of} for kind_of, name_of in references]
    return made(
        "AuthorizationPolicy", name, {"targetRef": {"kind": kind, "name": target}, "requiredAuthenticationRefs": wanted}
    )


SELECTORS: dict[str, tuple[Any, bool]] = {
    "an empty one": ({}, True),
    "labels that are there": ({"matchLabels": {"app": "web"}}, True),
    "another value": ({"matchLabels": {"app": "api"}}, False),
    "a label that is missing": ({"matchLabels": {"tier": "web"}}, False),
    "in a list": ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]}, True),
    "not in a list": ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
    "missing, so not in a list": ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]}, True),
    "there": ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
    "not there": ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    "both kinds must hold": (
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]},
        False,
    ),
}


@pytest.mark.parametrize(("selector", "selected"), SELECTORS.values(), ids=SELECTORS)
def test_a_selector_selects_labels_as_in_kubernetes(selector: Any, selected: bool) -> None:
    assert matches(selector, LABELS) == selected


@pytest.mark.parametrize(
    ("found", "selected"),
    [
        (server(port=8080), True),
        (server(port="http"), True),
        (server(port="8080"), False),
        (server(port=8081), False),
        (server(port="pg"), False),
        (server(labels={"app": "api"}), False),
        (made("Server", "pods", {"podSelector": {}, "port": 8080}), False),
        (made("Server", "odd", {"externalWorkloadSelector": {}, "port": ["x"]}), False),
    ],
    ids=["its number", "its name", "a number as a name", "another number", "another name", "labels", "pods", "odd"],
)
def test_a_server_selects_one_port_of_external_workloads(found: Object, selected: bool) -> None:
    assert (server_of(WORKLOAD, 8080, [found]) is found) == selected


def test_the_oldest_of_several_servers_holds_and_then_the_first_by_name() -> None:
    old, new, twin = server("z"), server("a"), server("y")
    old["metadata"]["creationTimestamp"] = twin["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    new["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    assert server_of(WORKLOAD, 8080, [new, old, twin]) is twin


def test_without_a_server_the_default_policy_holds() -> None:
    annotated = {
        **WORKLOAD,
        "metadata": {**WORKLOAD["metadata"], "annotations": {"config.linkerd.io/default-inbound-policy": "deny"}},
    }
    assert port_lines(annotated, 8080, PolicyObjects(), "all-unauthenticated") == [
        ("Port", "8080 (http)"),
        ("Server", "none selects it"),
        ("Default", "deny (annotation of the ExternalWorkload)"),
    ]
    assert port_lines(WORKLOAD, 22, PolicyObjects(), "all-unauthenticated")[0::2] == [
        ("Port", "22 (not listed)"),
        ("Default", "all-unauthenticated (Linkerd's default)"),
    ]


TLS = made(
    "MeshTLSAuthentication",
    "callers",
    {"identities": ["*.shop"], "identityRefs": [{"kind": "ServiceAccount", "name": "orders"}]},
)
NETWORK = made("NetworkAuthentication", "office", {"networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]})


def test_all_authorizations_of_a_server_are_listed() -> None:
    found = PolicyObjects(
        servers=[server(proxyProtocol="HTTP/2", accessPolicy="audit")],
        authorizations=[
            policy("both", "Server", "web", ("MeshTLSAuthentication", "callers"), ("NetworkAuthentication", "office")),
            policy("everywhere", "Namespace", "shop", ("ServiceAccount", "admin")),
            policy("lost", "Server", "web", ("MeshTLSAuthentication", "gone")),
            policy("open", "Server", "web"),
            policy("other", "Server", "api"),
            policy("readers", "HTTPRoute", "get", ("ServiceAccount", "reader")),
        ],
        server_authorizations=[
            made(
                "ServerAuthorization",
                "old",
                {"server": {"name": "web"}, "client": {"meshTLS": {"identities": ["a.b"]}}},
            ),
            made(
                "ServerAuthorization",
                "by-label",
                {"server": {"selector": {}}, "client": {"unauthenticated": True, "networks": [{"cidr": "::/0"}]}},
            ),
            made("ServerAuthorization", "elsewhere", {"server": {"name": "api"}, "client": {}}),
        ],
        routes=[
            made("HTTPRoute", "get", {"parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": "web"}]}),
            made("HTTPRoute", "of-a-service", {"parentRefs": [{"kind": "Service", "name": "web"}]}),
        ],
        authentications=[TLS, NETWORK],
    )
    assert dict(port_lines(WORKLOAD, 8080, found, "deny")) == {
        "Port": "8080 (http)",
        "Server": "web, protocol HTTP/2",
        "Others": "audit (accessPolicy of the Server)",
        "Clients": "\n".join(
            [
                "AuthorizationPolicy both: MeshTLSAuthentication shop/callers (*.shop, ServiceAccount shop/orders) and "
                "NetworkAuthentication shop/office (10.0.0.0/8 except 10.1.0.0/16)",
                "AuthorizationPolicy everywhere: ServiceAccount shop/admin",
                "AuthorizationPolicy lost: MeshTLSAuthentication shop/gone (missing: Linkerd ignores the policy)",
                "AuthorizationPolicy open: anybody",
                "ServerAuthorization old: a.b",
                "ServerAuthorization by-label: anybody from ::/0",
            ]
        ),
        "Routes": "HTTPRoute get: AuthorizationPolicy readers: ServiceAccount shop/reader",
    }


def test_a_server_without_authorizations_admits_nobody() -> None:
    lines = dict(port_lines(WORKLOAD, 8080, PolicyObjects(servers=[server()]), "all-unauthenticated"))
    assert (lines["Others"], lines["Clients"], lines["Routes"]) == (
        "deny (accessPolicy of the Server)",
        "nobody",
        "all paths",
    )


@pytest.mark.parametrize(
    "spec", [None, [], {"server": [], "client": 1, "targetRef": 2, "parentRefs": {}, "networks": 3}]
)
def test_objects_of_another_shape_are_read_without_an_error(spec: Any) -> None:
    odd = made("Any", "odd", spec)
    found = PolicyObjects([odd, server()], [odd], [odd], [odd], [odd])
    assert dict(port_lines(WORKLOAD, 8080, found, "deny"))["Server"] == "web, protocol unknown (detected)"
