"""Claims of JSON Web Tokens, read without a check of the signature."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.jwt import read_claims_untrusted


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@given(some.dictionaries(some.text(), some.integers() | some.text()))
def test_claims_are_read(claims: dict[str, object]) -> None:
    token = f"{encode(b'{}')}.{encode(json.dumps(claims).encode())}.signature"
    assert read_claims_untrusted(token) == claims


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("secret.secret", "of three parts"),
        (f"x.{encode(b'secret')}.x", "with JSON claims"),
        ("x.secret!.x", "with JSON claims"),
        (f"x.{encode(b'[' * 100_000)}.x", "with JSON claims"),
        (f"x.{encode(bytes([255, 254]))}.x", "with JSON claims"),
        (f"x.{encode(b'[1]')}.x", "with an object of claims"),
    ],
    ids=["two parts", "no JSON", "no base64", "nested without end", "no UTF-8", "a list"],
)
def test_other_tokens_are_refused_and_not_quoted(token: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        read_claims_untrusted(token)
    assert "secret" not in str(caught.value)
