"""Tokens and RBAC."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jwt

from exclave_sandbox.apiserver.access import (
    ANONYMOUS,
    AccessRules,
    Account,
    Attempt,
    TokenKey,
    TokenRequest,
    User,
    account_user,
    parse_token_request,
)
from exclave_sandbox.apiserver.messages import Refusal

MACHINE = account_user("g-vms", "web.vm.abcde-1")
OTHER = account_user("h-vms", "web.vm.abcde-1")
ALICE = User("alice", ("admins", "system:authenticated"))


def rule(verbs: str, resources: str, group: str = "exclave.dev", names: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"verbs": verbs.split(), "resources": resources.split(), "apiGroups": [group]}
    return {**found, "resourceNames": names.split()} if names else found


def bind(rules: AccessRules, name: str, subject: dict[str, str]) -> None:
    """Give the Role `machines` of namespace `g` to a subject."""
    rules.update("RoleBinding", "g", name, {"roleRef": {"kind": "Role", "name": "machines"}, "subjects": [subject]})


def make_rules() -> AccessRules:
    rules = AccessRules()
    own = [rule("get patch create", "members"), rule("list watch", "members", names="m")]
    rules.update("Role", "g", "machines", {"rules": [*own, rule("patch", "*/status")]})
    rules.update("Role", "g-vms", "token", {"rules": [rule("create", "serviceaccounts/token", "")]})
    rules.update("ClusterRole", "", "reader", {"rules": [rule("get list", "*", "*")]})
    rules.update("ClusterRole", "", "all", {"rules": [rule("*", "*", "*")]})
    group = {"kind": "Group", "name": "system:serviceaccounts:g-vms"}
    account = {"kind": "ServiceAccount", "name": "web.vm.abcde-1", "namespace": "h-vms"}
    for kind, namespace, role_kind, role, subject in (
        ("RoleBinding", "g", "Role", "machines", group),
        ("RoleBinding", "g-vms", "Role", "token", group),
        ("RoleBinding", "h", "ClusterRole", "reader", account),
        ("RoleBinding", "h", "Role", "absent", group),
        ("ClusterRoleBinding", "", "ClusterRole", "reader", {"kind": "User", "name": "alice"}),
    ):
        binding = {"roleRef": {"kind": role_kind, "name": role}, "subjects": [subject]}
        rules.update(kind, namespace, f"{role}-{subject['kind']}", binding)
    return rules


@pytest.mark.parametrize(
    ("user", "attempt", "allowed"),
    [
        pytest.param(MACHINE, Attempt("get", "exclave.dev", "members", "g", "x"), True, id="a group's role holds"),
        pytest.param(OTHER, Attempt("get", "exclave.dev", "members", "g", "x"), False, id="not for other groups"),
        pytest.param(MACHINE, Attempt("delete", "exclave.dev", "members", "g", "x"), False, id="not for other verbs"),
        pytest.param(MACHINE, Attempt("get", "exclave.dev", "members", "h", "x"), False, id="nor other namespaces"),
        pytest.param(MACHINE, Attempt("get", "other.dev", "members", "g", "x"), False, id="nor other API groups"),
        pytest.param(MACHINE, Attempt("get", "exclave.dev", "members/status", "g", "x"), False, id="nor subresources"),
        pytest.param(MACHINE, Attempt("patch", "exclave.dev", "members/status", "g", "x"), True, id="*/status is one"),
        pytest.param(MACHINE, Attempt("create", "exclave.dev", "members", "g"), True, id="create without a name"),
        pytest.param(MACHINE, Attempt("watch", "exclave.dev", "members", "g", "m"), True, id="watch by its own name"),
        pytest.param(MACHINE, Attempt("watch", "exclave.dev", "members", "g", "o"), False, id="watch by another name"),
        pytest.param(MACHINE, Attempt("watch", "exclave.dev", "members", "g"), False, id="watch of all"),
        pytest.param(MACHINE, Attempt("create", "", "serviceaccounts/token", "g-vms", "a"), True, id="a token"),
        pytest.param(MACHINE, Attempt("create", "", "serviceaccounts", "g-vms"), False, id="but no account"),
        pytest.param(MACHINE, Attempt("get", "", "pods", "h"), False, id="a binding to a missing role gives nothing"),
        pytest.param(OTHER, Attempt("get", "", "pods", "h"), True, id="a ClusterRole holds where it is bound"),
        pytest.param(OTHER, Attempt("get", "", "pods", "g"), False, id="and nowhere else"),
        pytest.param(OTHER, Attempt("get", "", "pods/status", "h"), True, id="* takes in subresources"),
        pytest.param(ALICE, Attempt("list", "", "nodes"), True, id="bound in the whole cluster, at cluster scope"),
        pytest.param(ALICE, Attempt("list", "", "pods", "g"), True, id="bound in the whole cluster, in a namespace"),
        pytest.param(ALICE, Attempt("delete", "", "pods", "g"), False, id="bound in the whole cluster, another verb"),
        pytest.param(ANONYMOUS, Attempt("get", "", "pods", "g"), False, id="nobody may do nothing"),
        pytest.param(User("x", ("system:masters",)), Attempt("delete", "", "pods"), True, id="masters may do all"),
    ],
)
def test_decisions(user: User, attempt: Attempt, allowed: bool) -> None:
    assert make_rules().allows(user, attempt) is allowed


def test_resource_names_never_allow_a_creation() -> None:
    rules = AccessRules()
    rules.update("Role", "g", "r", {"rules": [rule("create", "members", names="n")]})
    binding = {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "alice"}]}
    rules.update("RoleBinding", "g", "b", binding)
    assert not rules.allows(ALICE, Attempt("create", "exclave.dev", "members", "g"))


def test_changes_of_roles_and_bindings_hold_at_once() -> None:
    rules, attempt = make_rules(), Attempt("get", "exclave.dev", "members", "g", "x")
    rules.update("Role", "g", "machines", {"rules": []})
    assert not rules.allows(MACHINE, attempt)
    rules.update("Role", "g", "machines", {"rules": [rule("get", "members")]})
    assert rules.allows(MACHINE, attempt)
    bind(rules, "machines-Group", {"kind": "User", "name": "alice"})
    assert not rules.allows(MACHINE, attempt)
    assert rules.allows(ALICE, attempt)
    bind(rules, "machines-Group", {"kind": "Group", "name": "system:serviceaccounts:g-vms"})
    assert rules.allows(MACHINE, attempt)
    rules.update("RoleBinding", "g", "machines-Group", None)
    rules.update("Role", "g", "machines", None)
    assert not rules.allows(MACHINE, attempt)


def test_a_refusal_names_user_resource_and_namespace() -> None:
    attempt = Attempt("patch", "exclave.dev", "members/status", "g", "web-1")
    assert attempt.refused(MACHINE) == (
        'User "system:serviceaccount:g-vms:web.vm.abcde-1" cannot patch resource "members/status" in API group '
        '"exclave.dev" in the namespace "g"'
    )
    assert Attempt("list", "", "namespaces").refused(ALICE) == (
        'User "alice" cannot list resource "namespaces" in API group "" at the cluster scope'
    )


class CountingRules(dict[Any, Any]):
    """Rules that count how often they are read."""

    reads = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


def test_a_decision_reads_no_bindings_of_other_users() -> None:
    rules = make_rules()
    for number in range(2000):
        bind(rules, f"b{number}", {"kind": "ServiceAccount", "name": f"other-{number}", "namespace": "g-vms"})
    counting = CountingRules(rules._rules)
    rules._rules = counting
    assert not rules.allows(MACHINE, Attempt("delete", "exclave.dev", "members", "g", "x"))
    assert counting.reads <= 2


AUDIENCE = "https://kubernetes.default.svc"
ACCOUNT = Account("g-vms", "web.vm.abcde-1", "uid-7")
NOW = 1_700_000_000.4
PRIVATE = ec.generate_private_key(ec.SECP256R1())


def mint(seconds: int = 600, audience: str = AUDIENCE, key: TokenKey | None = None) -> str:
    return (key or TokenKey(PRIVATE)).mint(ACCOUNT, TokenRequest((audience,), seconds), NOW, "id-1")


def refused(token: str, now: float = NOW) -> Refusal:
    with pytest.raises(Refusal) as found:
        TokenKey(PRIVATE).account_of(token, now)
    return found.value


def test_another_library_reads_and_verifies_it() -> None:
    public = PRIVATE.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    checks = {"exp": None, "aud": None}
    claims = json.loads(
        jwt.JWT(jwt=mint(10**9), key=jwk.JWK.from_pem(public), algs=["ES256"], check_claims=checks).claims
    )
    assert claims == {
        "aud": [AUDIENCE],
        "exp": 1_700_000_000 + 10**9,
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "iss": "https://kubernetes.default.svc",
        "jti": "id-1",
        "sub": "system:serviceaccount:g-vms:web.vm.abcde-1",
        "kubernetes.io": {"namespace": "g-vms", "serviceaccount": {"name": "web.vm.abcde-1", "uid": "uid-7"}},
    }


def test_a_token_has_the_user_and_the_groups_of_its_account() -> None:
    account = TokenKey(PRIVATE).account_of(mint(), NOW)
    assert account == ACCOUNT
    assert account.user.name == "system:serviceaccount:g-vms:web.vm.abcde-1"
    assert account.user.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:g-vms",
        "system:authenticated",
    )


def tampered() -> str:
    head, claims, signature = mint().split(".")
    return f"{head}.{claims[:-2]}xx.{signature}"


def unsigned() -> str:
    _, claims, _ = mint().split(".")
    return f"eyJhbGciOiJub25lIn0.{claims}."


@pytest.mark.parametrize(
    ("token", "now"),
    [
        pytest.param(mint(), NOW + 600, id="expired"),
        pytest.param(mint(), NOW - 60, id="not yet valid"),
        pytest.param(mint(audience="https://elsewhere"), NOW, id="for another audience"),
        pytest.param(mint(key=TokenKey(ec.generate_private_key(ec.SECP256R1()))), NOW, id="signed by another key"),
        pytest.param(tampered(), NOW, id="changed after signing"),
        pytest.param(unsigned(), NOW, id="without a signature"),
        pytest.param("", NOW, id="empty"),
        pytest.param("a.b.c", NOW, id="no JWT"),
        pytest.param("ünicode.ü.ü", NOW, id="no ASCII"),
    ],
)
def test_a_token_is_refused_without_a_reason(token: str, now: float) -> None:
    found = refused(token, now)
    assert (found.code, found.reason, found.message) == (401, "Unauthorized", "Unauthorized")


def test_an_expired_token_is_refused() -> None:
    key = TokenKey(PRIVATE)
    token = mint(key=key)
    assert key.account_of(token, NOW + 599) == ACCOUNT
    with pytest.raises(Refusal):
        key.account_of(token, NOW + 600)


@pytest.mark.parametrize(
    ("spec", "audiences", "seconds"),
    [
        ({}, (AUDIENCE,), 3600),
        ({"audiences": [], "expirationSeconds": None}, (AUDIENCE,), 3600),
        ({"audiences": ["a", "b"], "expirationSeconds": 600}, ("a", "b"), 600),
    ],
)
def test_a_request_is_read(spec: dict[str, Any], audiences: tuple[str, ...], seconds: int) -> None:
    assert parse_token_request({"spec": spec}) == TokenRequest(audiences, seconds)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            {"spec": {"expirationSeconds": 599}},
            422,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not '
            "specify a duration less than 10 minutes",
        ),
        (
            {"spec": {"expirationSeconds": 2**32 + 1}},
            422,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may '
            "not specify a duration larger than 2^32 seconds",
        ),
        ({"spec": {"boundObjectRef": {"kind": "Pod"}}}, 400, "tokens bound to an object are not made here"),
        ([], 400, "the body is no TokenRequest: a JSON object with spec was expected"),
        (
            {"spec": {"expirationSeconds": "1h"}},
            400,
            "the body is no TokenRequest: spec.expirationSeconds or spec.audiences is of the wrong type",
        ),
    ],
)
def test_a_request_is_refused(body: Any, code: int, message: str) -> None:
    with pytest.raises(Refusal) as found:
        parse_token_request(body)
    assert (found.value.code, found.value.message) == (code, message)


def test_a_key_is_not_printed() -> None:
    assert "PRIVATE" not in repr(TokenKey(PRIVATE))
