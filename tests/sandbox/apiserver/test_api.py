"""From a request to an answer."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.api.requests import path_of
from exclave_sandbox.apiserver.access import Attempt, TokenKey
from exclave_sandbox.apiserver.api import MOST_BODY, Api, Target, Watch, attempt_of, discover, parse_path, verb_of
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.kinds.kinds import KINDS, Kind
from exclave_sandbox.apiserver.lists import parse_selector
from exclave_sandbox.apiserver.messages import HttpRequest, Refusal, Reply
from exclave_sandbox.apiserver.store import Store
from support.store import START, config_map, make_store, member


def document(path: str) -> Any:
    found = discover(path, anonymous=False)
    assert found is not None
    assert found.status == 200
    return found.body


def test_groups_and_their_resources_are_listed() -> None:
    assert document("/api")["versions"] == ["v1"]
    assert {"exclave.dev", "workload.linkerd.io"} < {one["name"] for one in document("/apis")["groups"]}
    listed = {one["name"]: one for one in document("/apis/exclave.dev/v1alpha1")["resources"]}
    assert set(listed) == {"members", "members/status", "workloadgroups", "workloadgroups/status"}
    assert listed["members"]["namespaced"] is True
    names = {one["name"]: one for one in document("/api/v1")["resources"]}
    assert names["serviceaccounts/token"]["verbs"] == ["create"]
    assert names["namespaces"]["shortNames"] == ["ns"]


def test_health_and_version_are_open_to_all_and_the_rest_is_not() -> None:
    for path in ("/livez", "/readyz", "/healthz", "/version"):
        assert discover(path, anonymous=True) is not None
    with pytest.raises(Refusal) as refused:
        discover("/apis", anonymous=True)
    assert refused.value.message == 'forbidden: User "system:anonymous" cannot get path "/apis"'


def test_a_resource_is_not_discovery() -> None:
    assert discover("/api/v1/namespaces", anonymous=False) is None


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
def test_the_attempt_that_is_authorized(verb: str, path: str, fields: str, attempt: Attempt) -> None:
    assert attempt_of(verb, parse_path(path), parse_selector("", fields)) == attempt


MERGE = "application/merge-patch+json"
FIELDS = [
    "metadata", "name", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "uid", "generateName",
    "resourceVersion", "spec", "data", "stringData", "type", "rules", "verbs", "apiGroups", "resources", "roleRef",
    "subjects", "kind", "regarding", "eventTime", "status", "immutable", "preconditions", "renewTime",
    "propagationPolicy",
]  # fmt: skip
CORE = "/api/v1/namespaces"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/g"


@dataclass
class Caller:
    """Speaks to an Api as somebody, without HTTP."""

    store: Store
    api: Api
    authorization: str = "Bearer admin"
    clock: list[float] = field(default_factory=lambda: [START])

    def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"content-type": content_type}
        if self.authorization:
            headers["authorization"] = self.authorization
        return self.api.respond(HttpRequest(method, path, query, headers, content))

    def token(self, account: str, seconds: int = 600) -> str:
        made = self.ask("POST", f"{CORE}/g/serviceaccounts/{account}/token", {"spec": {"expirationSeconds": seconds}})
        assert made.status == 201, made
        return str(made.body["status"]["token"])

    def as_account(self, account: str, seconds: int = 600) -> "Caller":
        self.ask("POST", f"{CORE}/g/serviceaccounts", {"metadata": {"name": account}})
        return Caller(self.store, self.api, f"Bearer {self.token(account, seconds)}", self.clock)


@pytest.fixture
def admin() -> Caller:
    store, clock, ids = make_store(), [START], itertools.count()
    key = TokenKey(ec.generate_private_key(ec.SECP256R1()))
    api = Api(store, key, "admin", lambda: clock[0], lambda: f"jti-{next(ids)}")
    return Caller(store, api, clock=clock)


def status_of(reply: Reply) -> tuple[int, str, str]:
    assert isinstance(reply.body, dict)
    assert reply.body["kind"] == "Status"
    return reply.status, reply.body["reason"], reply.body["message"]


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic YTpi", "Bearer", "Bearer ü"])
def test_an_unknown_caller_is_unauthorized(admin: Caller, authorization: str) -> None:
    caller = Caller(admin.store, admin.api, authorization)
    assert status_of(caller.ask("GET", CORE)) == (401, "Unauthorized", "Unauthorized")


def test_a_caller_without_a_token_is_anonymous_and_has_no_rights(admin: Caller) -> None:
    caller = Caller(admin.store, admin.api, "")
    assert status_of(caller.ask("GET", f"{CORE}/g/secrets/s")) == (
        403,
        "Forbidden",
        'secrets "s" is forbidden: User "system:anonymous" cannot get resource "secrets" in API group "" in the '
        'namespace "g"',
    )
    assert caller.ask("GET", "/readyz").status == 200


def test_an_account_has_the_rights_of_its_bindings_and_no_more(admin: Caller) -> None:
    machine = admin.as_account("web.vm.abcde-1")
    admin.ask("POST", MEMBERS, member())
    refused = status_of(machine.ask("PATCH", f"{MEMBERS}/web-abcde-1", {}, "application/merge-patch+json"))
    assert refused == (
        403,
        "Forbidden",
        'members.exclave.dev "web-abcde-1" is forbidden: User "system:serviceaccount:g:web.vm.abcde-1" cannot patch '
        'resource "members" in API group "exclave.dev" in the namespace "g"',
    )
    rule = {"apiGroups": ["exclave.dev"], "resources": ["members"], "verbs": ["patch"]}
    assert admin.ask("POST", f"{RBAC}/roles", {"metadata": {"name": "r"}, "rules": [rule]}).status == 201
    binding = {
        "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "Group", "name": "system:serviceaccounts:g"}],
    }
    assert admin.ask("POST", f"{RBAC}/rolebindings", binding).status == 201
    allowed = machine.ask(
        "PATCH", f"{MEMBERS}/web-abcde-1", {"spec": {"serving": True}}, "application/merge-patch+json"
    )
    assert allowed.body["spec"]["serving"] is True
    assert machine.ask("DELETE", f"{MEMBERS}/web-abcde-1").status == 403
    assert admin.ask("DELETE", f"{RBAC}/rolebindings/r").status == 200
    assert machine.ask("PATCH", f"{MEMBERS}/web-abcde-1", {}, "application/merge-patch+json").status == 403


def test_a_token_dies_with_its_account_and_a_new_account_does_not_revive_it(admin: Caller) -> None:
    machine = admin.as_account("a.vm.x-1")
    assert machine.ask("GET", CORE).status == 403
    admin.ask("DELETE", f"{CORE}/g/serviceaccounts/a.vm.x-1")
    assert machine.ask("GET", CORE).status == 401
    admin.ask("POST", f"{CORE}/g/serviceaccounts", {"metadata": {"name": "a.vm.x-1"}})
    assert machine.ask("GET", CORE).status == 401
    assert admin.as_account("a.vm.x-1").ask("GET", CORE).status == 403


def test_a_token_dies_with_its_time(admin: Caller) -> None:
    machine = admin.as_account("a.vm.x-1", 700)
    admin.clock[0] += 699
    assert machine.ask("GET", CORE).status == 403
    admin.clock[0] += 1
    assert machine.ask("GET", CORE).status == 401


def test_tokens_of_a_deleted_account_with_finalizers_are_valid_for_a_minute(admin: Caller) -> None:
    body = {"metadata": {"name": "a.vm.x-1", "finalizers": ["exclave.dev/x"]}}
    admin.ask("POST", f"{CORE}/g/serviceaccounts", body)
    machine = Caller(admin.store, admin.api, f"Bearer {admin.token('a.vm.x-1')}", admin.clock)
    admin.ask("DELETE", f"{CORE}/g/serviceaccounts/a.vm.x-1")
    admin.clock[0] += 60
    assert machine.ask("GET", CORE).status == 403
    admin.clock[0] += 1
    assert machine.ask("GET", CORE).status == 401


def test_a_token_request_is_answered_with_its_expiry(admin: Caller) -> None:
    admin.ask("POST", f"{CORE}/g/serviceaccounts", {"metadata": {"name": "a"}})
    made = admin.ask("POST", f"{CORE}/g/serviceaccounts/a/token", {"spec": {"expirationSeconds": 600}})
    assert made.body["kind"] == "TokenRequest"
    assert made.body["status"]["expirationTimestamp"] == "2023-11-14T22:23:20Z"
    assert admin.ask("POST", f"{CORE}/g/serviceaccounts/b/token", {}).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "query", "expected"),
    [
        ("GET", "/apis/nothing/v1/x", None, "application/json", {}, (404, "NotFound")),
        ("PUT", MEMBERS, {}, "application/json", {}, (405, "MethodNotAllowed")),
        ("POST", f"{CORE}/g/configmaps", config_map(), "application/yaml", {}, (415, "UnsupportedMediaType")),
        ("PATCH", f"{CORE}/g/configmaps/c", {}, "application/json-patch+json", {}, (415, "UnsupportedMediaType")),
        ("POST", f"{CORE}/g/configmaps", config_map(), "application/json", {"dryRun": "All"}, (400, "BadRequest")),
        ("GET", f"{CORE}/g/configmaps", None, "application/json", {"labelSelector": "a b c"}, (400, "BadRequest")),
        ("GET", f"{CORE}/g/configmaps", None, "application/json", {"resourceVersion": "x"}, (400, "BadRequest")),
        ("GET", f"{CORE}/g/configmaps", None, "application/json", {"resourceVersion": "99"}, (504, "Timeout")),
        ("GET", f"{CORE}/g/configmaps", None, "application/json", {"continue": "old"}, (400, "BadRequest")),
        ("POST", f"{CORE}/g/configmaps", "x" * MOST_BODY, "application/json", {}, (413, "RequestEntityTooLarge")),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 50 else "",
)
def test_requests_that_are_refused(
    admin: Caller,
    method: str,
    path: str,
    body: Any,
    content_type: str,
    query: dict[str, str],
    expected: tuple[int, str],
) -> None:
    assert status_of(admin.ask(method, path, body, content_type, **query))[:2] == expected


def test_a_body_that_is_no_json_is_refused(admin: Caller) -> None:
    headers = {"authorization": "Bearer admin"}
    reply = admin.api.respond(HttpRequest("POST", f"{CORE}/g/configmaps", {}, headers, b"{"))
    assert isinstance(reply, Reply)
    assert reply.status == 400


JSON_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "Role"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=15,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON_TREES), st.booleans())
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_every_body_is_answered(kind: Kind, body: dict[str, Any], has_type: bool) -> None:
    store = make_store()
    api = Api(store, TokenKey(ec.generate_private_key(ec.SECP256R1())), "admin", lambda: START, lambda: "id")
    caller, resource = Caller(store, api), kind.resource
    if has_type:
        body |= {"kind": resource.kind, "apiVersion": resource.api_version}
    path = path_of(resource, "g" if resource.namespaced else None)
    assert caller.ask("POST", path, {**body, "metadata": {"name": "a"}}).status in (201, 400, 422)
    assert caller.ask("POST", path, body).status in (201, 400, 409, 422, 500 if _has_version(body) else 201)
    assert caller.ask("PUT", f"{path}/a", body).status in (200, 400, 404, 409, 422)
    assert caller.ask("PATCH", f"{path}/a", body, MERGE).status in (200, 400, 404, 409, 422)
    assert caller.ask("DELETE", f"{path}/a", body).status in (200, 404, 409, 422)


def _has_version(body: dict[str, Any]) -> bool:
    metadata = body.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("resourceVersion"))


def test_a_list_has_the_version_to_watch_from(admin: Caller) -> None:
    admin.ask("POST", f"{CORE}/g/configmaps", config_map())
    listed = admin.ask("GET", f"{CORE}/g/configmaps").body
    assert (listed["kind"], listed["metadata"]["resourceVersion"], len(listed["items"])) == ("ConfigMapList", "2", 1)
    exact = admin.ask("GET", f"{CORE}/g/configmaps", resourceVersion="1", resourceVersionMatch="Exact")
    assert (exact.body["metadata"]["resourceVersion"], exact.body["items"]) == ("1", [])


def test_pages_show_the_state_at_the_first_until_it_expires() -> None:
    store = make_store(window=3)
    admin = Caller(store, Api(store, TokenKey(ec.generate_private_key(ec.SECP256R1())), "admin", lambda: START, str))
    for name in "abc":
        admin.ask("POST", f"{CORE}/g/configmaps", config_map(name))
    first = admin.ask("GET", f"{CORE}/g/configmaps", limit="1").body
    assert (names(first), first["metadata"]["remainingItemCount"]) == (["a"], 2)
    more = {"limit": "5", "continue": first["metadata"]["continue"]}
    admin.ask("DELETE", f"{CORE}/g/configmaps/c")
    admin.ask("POST", f"{CORE}/g/configmaps", config_map("b-later"))
    second = admin.ask("GET", f"{CORE}/g/configmaps", **more).body
    assert names(second) == ["b", "c"]
    assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert names(admin.ask("GET", f"{CORE}/g/configmaps", **more, fieldSelector="metadata.name=c").body) == ["c"]
    refused = admin.ask("GET", f"{CORE}/g/configmaps", **more, resourceVersion="4")
    assert status_of(refused)[2] == "specifying resource version is not allowed when using continue"
    for name in "xy":
        admin.ask("POST", f"{CORE}/g/configmaps", config_map(name))
    assert status_of(admin.ask("GET", f"{CORE}/g/configmaps", **more)) == (
        410, "Expired", "too old resource version: 4 (5)",
    )  # fmt: skip


def names(listed: dict[str, Any]) -> list[str]:
    return [one["metadata"]["name"] for one in listed["items"]]


def test_a_deletion_can_orphan_owned_objects(admin: Caller) -> None:
    owner = admin.ask("POST", f"{CORE}/g/configmaps", config_map("owner")).body["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner}
    admin.ask("POST", f"{CORE}/g/configmaps", config_map("owned", ownerReferences=[reference]))
    refused = admin.ask("DELETE", f"{CORE}/g/configmaps/owner", {"propagationPolicy": "Sideways"})
    assert status_of(refused) == (
        422,
        "Invalid",
        'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Sideways": supported values: '
        '"Foreground", "Background", "Orphan", "nil"',
    )
    assert admin.ask("DELETE", f"{CORE}/g/configmaps/owner", propagationPolicy="Orphan").status == 200
    assert "ownerReferences" not in admin.ask("GET", f"{CORE}/g/configmaps/owned").body["metadata"]


def test_a_deletion_answers_with_success_or_with_the_object_that_is_going(admin: Caller) -> None:
    admin.ask("POST", f"{CORE}/g/configmaps", config_map())
    admin.ask("POST", f"{CORE}/g/configmaps", config_map("held", finalizers=["exclave.dev/x"]))
    gone = admin.ask("DELETE", f"{CORE}/g/configmaps/c").body
    assert (gone["status"], gone["details"]["name"], gone["details"]["kind"]) == ("Success", "c", "configmaps")
    going = admin.ask("DELETE", f"{CORE}/g/configmaps/held", {"preconditions": {}}).body
    assert "deletionTimestamp" in going["metadata"]
    uid = {"preconditions": {"uid": "other"}}
    assert status_of(admin.ask("DELETE", f"{CORE}/g/configmaps/held", uid))[:2] == (409, "Conflict")


def test_a_collection_is_deleted_by_selector(admin: Caller) -> None:
    for name, label in (("a", "x"), ("b", "y"), ("c", "x")):
        admin.ask("POST", f"{CORE}/g/configmaps", config_map(name, labels={"l": label}))
    assert len(admin.ask("DELETE", f"{CORE}/g/configmaps", labelSelector="l=x").body["items"]) == 2
    assert [one["metadata"]["name"] for one in admin.ask("GET", f"{CORE}/g/configmaps").body["items"]] == ["b"]


@pytest.mark.parametrize(
    ("query", "revision", "initial", "scope", "seconds"),
    [
        ({}, 2, 1, (None, None), 1800),
        ({"resourceVersion": "0"}, 2, 1, (None, None), 1800),
        ({"resourceVersion": "1", "timeoutSeconds": "5"}, 1, 0, (None, None), 5),
        ({"resourceVersion": "99"}, 99, 0, (None, None), 1800),
        ({"fieldSelector": "metadata.name=c"}, 2, 1, (None, "c"), 1800),
        ({"fieldSelector": "metadata.name=d"}, 2, 0, (None, "d"), 1800),
    ],
)
def test_a_watch_is_planned(
    admin: Caller, query: dict[str, str], revision: int, initial: int, scope: tuple[Any, Any], seconds: int
) -> None:
    admin.ask("POST", f"{CORE}/g/configmaps", config_map())
    watch = admin.ask("GET", "/api/v1/configmaps", watch="1", allowWatchBookmarks="true", **query)
    assert isinstance(watch, Watch)
    assert (watch.revision, len(watch.initial), watch.seconds) == (revision, initial, seconds)
    assert (watch.scope.namespace, watch.scope.name, watch.bookmarks) == (*scope, True)


def test_a_watch_by_name_is_allowed_by_a_rule_for_that_name(admin: Caller) -> None:
    machine = admin.as_account("a")
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "watch"], "resourceNames": ["c"]}
    admin.ask("POST", f"{RBAC}/roles", {"metadata": {"name": "r"}, "rules": [rule]})
    subjects = [{"kind": "ServiceAccount", "name": "a", "namespace": "g"}]
    role = {"kind": "Role", "name": "r"}
    admin.ask("POST", f"{RBAC}/rolebindings", {"metadata": {"name": "r"}, "roleRef": role, "subjects": subjects})
    path = f"{CORE}/g/configmaps"
    assert isinstance(machine.ask("GET", path, watch="1", fieldSelector="metadata.name=c"), Watch)
    assert machine.ask("GET", path, watch="1", fieldSelector="metadata.name=d").status == 403
    assert machine.ask("GET", path, watch="1").status == 403


def test_a_replacement_of_the_status_leaves_the_rest(admin: Caller) -> None:
    made = admin.ask("POST", MEMBERS, member()).body
    made = {**made, "spec": {}, "status": {"settings": "x"}}
    replaced = admin.ask("PUT", f"{MEMBERS}/web-abcde-1/status", made).body
    assert replaced["spec"]["nonce"] == "n"
    assert replaced["status"] == {"settings": "x"}
    assert admin.ask("GET", f"{MEMBERS}/web-abcde-1/status").body == replaced
