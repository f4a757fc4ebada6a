"""Paths and methods."""

import pytest

from exclave_sandbox.apiserver.access import Attempt
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.refusal import Refusal
from exclave_sandbox.apiserver.route import Target, attempt_of, parse_path, verb_of
from exclave_sandbox.apiserver.selectors import parse_selector

MEMBERS = "/apis/exclave.dev/v1alpha1/namespaces/g/members"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (MEMBERS, Target(kinds.MEMBERS, "g")),
        (f"{MEMBERS}/", Target(kinds.MEMBERS, "g")),
        (f"{MEMBERS}/web-1", Target(kinds.MEMBERS, "g", "web-1")),
        (f"{MEMBERS}/web-1/status", Target(kinds.MEMBERS, "g", "web-1", "status")),
        ("/apis/exclave.dev/v1alpha1/members", Target(kinds.MEMBERS, None)),
        ("/api/v1/namespaces", Target(kinds.NAMESPACES, None)),
        ("/api/v1/namespaces/g", Target(kinds.NAMESPACES, None, "g")),
        ("/api/v1/namespaces/g/secrets/s", Target(kinds.SECRETS, "g", "s")),
        ("/api/v1/namespaces/g/serviceaccounts/a.b/token", Target(kinds.SERVICE_ACCOUNTS, "g", "a.b", "token")),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            Target(kinds.CLUSTER_ROLES, None, "system:node"),
        ),
    ],
)
def test_a_path_is_read(path: str, target: Target) -> None:
    assert parse_path(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v2/namespaces",
        "/apis/exclave.dev/v1alpha1",
        "/apis/exclave.dev/v1/namespaces/g/members",
        "/apis/exclave.dev/v1alpha1/members/web-1",
        f"{MEMBERS}/web-1/scale",
        f"{MEMBERS}/web-1/status/more",
        "/api/v1/namespaces/g/namespaces",
        "/api/v1/namespaces/g/nothing",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/g/clusterroles",
        "//",
    ],
)
def test_nothing_is_served_there(path: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_path(path)
    assert (refused.value.code, refused.value.message) == (404, "the server could not find the requested resource")


@pytest.mark.parametrize(
    ("method", "path", "query", "verb"),
    [
        ("GET", MEMBERS, {}, "list"),
        ("GET", MEMBERS, {"watch": "1"}, "watch"),
        ("GET", MEMBERS, {"watch": "true"}, "watch"),
        ("GET", MEMBERS, {"watch": "false"}, "list"),
        ("POST", MEMBERS, {}, "create"),
        ("DELETE", MEMBERS, {}, "deletecollection"),
        ("PUT", MEMBERS, {}, None),
        ("GET", f"{MEMBERS}/a", {}, "get"),
        ("PUT", f"{MEMBERS}/a", {}, "update"),
        ("PATCH", f"{MEMBERS}/a", {}, "patch"),
        ("DELETE", f"{MEMBERS}/a", {}, "delete"),
        ("POST", f"{MEMBERS}/a", {}, None),
        ("PATCH", f"{MEMBERS}/a/status", {}, "patch"),
        ("DELETE", f"{MEMBERS}/a/status", {}, None),
        ("POST", "/api/v1/namespaces/g/serviceaccounts/a/token", {}, "create"),
        ("GET", "/api/v1/namespaces/g/serviceaccounts/a/token", {}, None),
    ],
)
def test_verbs(method: str, path: str, query: dict[str, str], verb: str | None) -> None:
    if verb is not None:
        assert verb_of(method, parse_path(path), query) == verb
        return
    with pytest.raises(Refusal) as refused:
        verb_of(method, parse_path(path), query)
    assert refused.value.code == 405


@pytest.mark.parametrize(
    ("verb", "path", "fields", "attempt"),
    [
        ("get", f"{MEMBERS}/a/status", "", Attempt("get", "exclave.dev", "members/status", "g", "a")),
        ("watch", MEMBERS, "metadata.name=a", Attempt("watch", "exclave.dev", "members", "g", "a")),
        ("create", MEMBERS, "metadata.name=a", Attempt("create", "exclave.dev", "members", "g", "")),
        ("list", "/apis/exclave.dev/v1alpha1/members", "", Attempt("list", "exclave.dev", "members", "", "")),
        ("get", "/api/v1/namespaces/g", "", Attempt("get", "", "namespaces", "g", "g")),
    ],
)
def test_what_the_authorizer_is_asked(verb: str, path: str, fields: str, attempt: Attempt) -> None:
    assert attempt_of(verb, parse_path(path), parse_selector("", fields)) == attempt
