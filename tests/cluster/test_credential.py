"""The member's token and its times."""

import base64
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.cluster.credential import (
    Credential,
    granted_credential,
    parse_credential,
    read_token_times,
    render_credential,
    token_subject,
)

TIMES = st.floats(min_value=0, max_value=4e9)
MONTH = 30 * 86400.0


def make_token(**claims: object) -> str:
    parts = [{"alg": "RS256"}, claims]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


@given(granted=TIMES, life=st.floats(min_value=1, max_value=MONTH))
def test_renewal_comes_at_half_of_the_granted_life(granted: float, life: float) -> None:
    credential = Credential("t", granted, granted + life)
    assert credential.granted < credential.renew_at < credential.expires
    assert math.isclose(credential.renew_at - granted, credential.expires - credential.renew_at, abs_tol=1e-5)


@given(granted=TIMES, expires=TIMES)
def test_renewal_never_waits_for_the_end(granted: float, expires: float) -> None:
    assert Credential("t", granted, expires).renew_at <= expires


def test_a_life_that_was_over_when_it_began_is_renewed_at_once() -> None:
    assert Credential("t", 2_000.0, 1_000.0).renew_at == 0.0


@given(granted=TIMES, expires=TIMES)
def test_what_is_rendered_is_read_back(granted: float, expires: float) -> None:
    credential = Credential("header.claims.signature", granted, expires)
    assert parse_credential(render_credential(credential)) == credential


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"token": "s3cret', "a credential in JSON was expected", id="cut off"),
        pytest.param('["s3cret"]', "a JSON object with token, granted and expires was expected", id="a list"),
        pytest.param(
            '{"token": "s3cret\\n", "granted": 1, "expires": 2}',
            "a token of visible ASCII characters was expected",
            id="a line break in the token",
        ),
        pytest.param('{"granted": 1, "expires": 2}', "a token of visible ASCII characters was expected", id="no token"),
        pytest.param(
            '{"token": "s3cret", "granted": 1}', "expires: seconds since the epoch were expected", id="no end"
        ),
        pytest.param(
            '{"token": "s3cret", "granted": true, "expires": 2}',
            "granted: seconds since the epoch were expected",
            id="no number",
        ),
    ],
)
def test_a_damaged_credential_is_named_and_not_quoted(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_credential(text)
    assert str(caught.value) == message


def test_a_token_never_shows() -> None:
    assert "s3cret" not in repr(Credential("s3cret", 1.0, 2.0))


def _answer(expires: object) -> dict[str, object]:
    return {"kind": "TokenRequest", "status": {"token": "t", "expirationTimestamp": expires}}


def test_a_server_may_grant_less_than_asked() -> None:
    now = 1_700_000_000.0
    granted = granted_credential(_answer("2023-11-15T22:13:20Z"), now, MONTH)
    assert granted == Credential("t", now, now + 86400)


def test_a_server_whose_clock_is_ahead_cannot_grant_more_than_asked() -> None:
    assert granted_credential(_answer("2033-11-15T22:13:20Z"), 1_700_000_000.0, MONTH).expires == 1_700_000_000 + MONTH


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "the answer to a TokenRequest was expected to hold a token"),
        ({"status": {"token": ""}}, "the answer to a TokenRequest was expected to hold a token"),
        (_answer(None), "the answer to a TokenRequest was expected to hold an expirationTimestamp"),
        (_answer("soon"), "the answer to a TokenRequest was expected to hold an expirationTimestamp"),
    ],
)
def test_an_answer_without_a_token_is_refused(answer: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        granted_credential(answer, 0.0, MONTH)
    assert str(caught.value) == message


def test_times_and_subject_of_a_token() -> None:
    token = make_token(iat=10, exp=20, sub="system:serviceaccount:shop-vms:web.vm.k7q2x-1")
    assert read_token_times(token) == (10.0, 20.0)
    assert token_subject(token) == "system:serviceaccount:shop-vms:web.vm.k7q2x-1"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("s3cret", "a JSON Web Token of three parts was expected"),
        ("a.!!!.c", "a JSON Web Token with JSON claims was expected"),
        ("a.W10.c", "a JSON Web Token with an object of claims was expected"),
        (make_token(iat=1), "exp: seconds since the epoch were expected"),
        (make_token(iat=1, exp=10**400), "exp: seconds since the epoch were expected"),
    ],
)
def test_what_is_no_kubernetes_token_has_no_times(token: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_token_times(token)
    assert str(caught.value) == message


@given(st.text())
def test_any_text_has_a_subject_that_does_not_quote_it(token: str) -> None:
    assert token_subject(token) == "the bearer of an unnamed token"
