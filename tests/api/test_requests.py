"""Requests as values, and what responses mean."""

import pytest

from exclave.api.requests import (
    API_AUDIENCE,
    CONFIG_MAPS,
    MEMBERS,
    NAMESPACES,
    Request,
    create,
    create_token,
    delete,
    get,
    is_transient,
    list_all,
    patch,
    path_of,
    refusal,
    replace,
)
from exclave.errors import ApiRefusal, ClusterError, Fault

SERVER = "https://10.0.0.1:6443"
WHO = "system:serviceaccount:shop-vms:web.vm.k7q2x-1"
MEMBER = "web-k7q2x-1"


@pytest.mark.parametrize(
    ("request_", "method", "path", "verb", "what"),
    [
        (
            get(MEMBERS, "shop", MEMBER),
            "GET",
            "/apis/exclave.dev/v1alpha1/namespaces/shop/members/web-k7q2x-1",
            "get",
            "members web-k7q2x-1",
        ),
        (list_all(MEMBERS, None), "GET", "/apis/exclave.dev/v1alpha1/members", "list", "members"),
        (
            create(CONFIG_MAPS, "shop", {"metadata": {"name": "a"}}),
            "POST",
            "/api/v1/namespaces/shop/configmaps",
            "create",
            "configmaps a",
        ),
        (
            patch(MEMBERS, "shop", MEMBER, {}, "status"),
            "PATCH",
            "/apis/exclave.dev/v1alpha1/namespaces/shop/members/web-k7q2x-1/status",
            "patch",
            "members/status web-k7q2x-1",
        ),
        (replace(NAMESPACES, None, "shop", {}), "PUT", "/api/v1/namespaces/shop", "update", "namespaces shop"),
        (
            delete(MEMBERS, "shop", MEMBER),
            "DELETE",
            "/apis/exclave.dev/v1alpha1/namespaces/shop/members/web-k7q2x-1",
            "delete",
            "members web-k7q2x-1",
        ),
    ],
    ids=lambda value: value.verb if isinstance(value, Request) else "",
)
def test_each_verb_has_a_function(request_: Request, method: str, path: str, verb: str, what: str) -> None:
    assert (request_.method, request_.path, request_.verb, request_.what) == (method, path, verb, what)


def test_a_deletion_of_one_uid_names_it_as_a_precondition() -> None:
    assert delete(MEMBERS, "shop", MEMBER).body is None
    assert delete(MEMBERS, "shop", MEMBER, uid="1-2").body == {
        "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "1-2"},
    }  # fmt: skip


def test_a_patch_is_a_merge_patch() -> None:
    assert patch(MEMBERS, "shop", MEMBER, {}).content_type == "application/merge-patch+json"


def test_a_token_is_for_the_api_server_alone() -> None:
    request = create_token("shop-vms", "web.vm.k7q2x-1", 600)
    assert request.path == "/api/v1/namespaces/shop-vms/serviceaccounts/web.vm.k7q2x-1/token"
    assert request.body is not None
    assert request.body["spec"] == {"audiences": [API_AUDIENCE], "expirationSeconds": 600}


def test_a_cluster_scoped_kind_has_no_namespace_in_its_path() -> None:
    assert path_of(NAMESPACES, "shop", "a") == "/api/v1/namespaces/a"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_temporary_refusal_is_worth_another_try(status: int) -> None:
    assert is_transient(ApiRefusal(status, "", "", ""))


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 501, 505])
def test_a_lasting_refusal_is_not_worth_another_try(status: int) -> None:
    assert not is_transient(ApiRefusal(status, "", "", ""))


def test_unreachable_is_transient_and_a_refusal_by_its_status() -> None:
    assert is_transient(ClusterError(Fault.UNREACHABLE, "", ""))
    assert not is_transient(ClusterError(Fault.CLOCK_SKEW, "", ""))
    assert is_transient(ApiRefusal(503, "", "", ""))
    assert not is_transient(ApiRefusal(403, "Forbidden", "", ""))


def _status(code: int, reason: str, message: str, **details: object) -> dict[str, object]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


@pytest.mark.parametrize(
    ("status", "reason", "message", "hint"),
    [
        (
            401,
            "Unauthorized",
            f"{SERVER} does not accept the token of {WHO}, which asked to get members web-k7q2x-1 (401 Unauthorized)"
            ": said so",
            "the token has expired or its account was deleted: join again with a new token",
        ),
        (
            403,
            "Forbidden",
            f"{SERVER} does not permit {WHO} to get members web-k7q2x-1 (403 Forbidden): said so",
            "check the group's Roles and RoleBindings, and the admission policy, if the message names it",
        ),
        (
            404,
            "NotFound",
            f"{SERVER} has no members web-k7q2x-1 to get (404 NotFound): said so",
            "check its name and namespace",
        ),
        (
            409,
            "Conflict",
            f"{SERVER} did not get members web-k7q2x-1 (409 Conflict): said so",
            "read the object again, then decide again",
        ),
        (
            422,
            "Invalid",
            f"{SERVER} refused to get members web-k7q2x-1 (422 Invalid): said so",
            "compare the versions of exclave here and in the cluster",
        ),
        (
            503,
            "ServiceUnavailable",
            f"{SERVER} could not get members web-k7q2x-1 now (503 ServiceUnavailable): said so",
            "the API server is busy, starting or stopping: try again",
        ),
    ],
)
def test_a_refusal_names_verb_resource_and_caller(status: int, reason: str, message: str, hint: str) -> None:
    problem = refusal(get(MEMBERS, "shop", MEMBER), status, _status(status, reason, "said so"), server=SERVER, who=WHO)
    assert (problem.status, problem.reason, problem.message, problem.hint) == (status, reason, message, hint)


def test_a_temporary_refusal_is_the_clusters_and_a_lasting_one_is_the_admins() -> None:
    asked = get(MEMBERS, "shop", MEMBER)
    assert refusal(asked, 503, None, server=SERVER, who=WHO).fault is Fault.UNREACHABLE
    assert refusal(asked, 403, None, server=SERVER, who=WHO).fault is Fault.NOT_PERMITTED


@pytest.mark.parametrize("body", [None, [], "text", {"kind": "Pod"}, {"kind": "Status", "details": None}])
def test_a_refusal_without_a_status_object_has_a_message(body: object) -> None:
    problem = refusal(get(MEMBERS, "shop", MEMBER), 404, body, server=SERVER, who=WHO)
    assert problem.message == f"{SERVER} has no members web-k7q2x-1 to get (404)"
    assert problem.reason == ""


def test_a_servers_own_message_is_cut_short() -> None:
    body = _status(422, "Invalid", "x" * 100_000)
    problem = refusal(get(MEMBERS, "shop", MEMBER), 422, body, server=SERVER, who=WHO)
    assert len(problem.message) < 1_200


@pytest.mark.parametrize(
    ("header", "details", "expected"),
    [
        ("7", {}, 7.0),
        (None, {"retryAfterSeconds": 3}, 3.0),
        ("7", {"retryAfterSeconds": 3}, 7.0),
        (None, {}, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", {}, None),
        ("-4", {}, None),
        ("3600", {}, 300.0),
        ("nan", {}, None),
    ],
)
def test_retry_after_comes_from_the_header_or_the_body(
    header: str | None, details: dict[str, object], expected: float | None
) -> None:
    body = _status(429, "TooManyRequests", "", **details)
    problem = refusal(get(MEMBERS, "shop", MEMBER), 429, body, server=SERVER, who=WHO, retry_after=header)
    assert problem.retry_after == expected
