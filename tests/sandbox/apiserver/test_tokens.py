"""ServiceAccount tokens: signed by us, for us, in time, and by a library that is not ours."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jwt

from exclave_sandbox.apiserver.messages import Refusal
from exclave_sandbox.apiserver.tokens import Account, TokenKey, TokenRequest, parse_token_request

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


def test_it_speaks_for_its_account_and_the_accounts_groups() -> None:
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
def test_a_token_is_refused_without_saying_why(token: str, now: float) -> None:
    found = refused(token, now)
    assert (found.code, found.reason, found.message) == (401, "Unauthorized", "Unauthorized")


def test_a_token_that_was_good_is_refused_when_its_time_is_over() -> None:
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


def test_a_key_does_not_show_itself() -> None:
    assert "PRIVATE" not in repr(TokenKey(PRIVATE))
