"""Challenges of registries, and files of passwords."""

import base64
import json

import pytest

from exclave.proxy_install.challenge import Challenge, parse_challenge, read_password, read_token, token_url

BEARER = 'Bearer realm="https://auth.example.com/token",service="registry",scope="repository:linkerd/proxy:pull"'


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (BEARER, Challenge("bearer", "https://auth.example.com/token", "registry", "repository:linkerd/proxy:pull")),
        ('bearer service = x , realm="a\\"b"', Challenge("bearer", 'a"b', "x")),
        ('Basic realm="Registry"', Challenge("basic", "Registry")),
        ("Basic", Challenge("basic")),
        ('Bearer realm="a", realm="b"', Challenge("bearer", "a")),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_a_challenge_is_read(header: str, challenge: Challenge | None) -> None:
    assert parse_challenge(header) == challenge


def test_a_token_is_asked_for_to_pull_this_repository_and_nothing_else() -> None:
    greedy = Challenge("bearer", "https://auth.example.com/token?a=b", "r", "repository:other:push,pull")
    assert token_url(greedy, "linkerd/proxy") == (
        "https://auth.example.com/token?a=b&service=r&scope=repository%3Alinkerd%2Fproxy%3Apull"
    )


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "auth.example.com", "https://user:word@example.com/"])
def test_a_realm_that_is_no_plain_url_is_refused(realm: str) -> None:
    with pytest.raises(ValueError, match="names no URL"):
        token_url(Challenge("bearer", realm), "proxy")


def test_a_token_has_either_name() -> None:
    assert read_token(b'{"token": "t"}') == read_token(b'{"access_token": "t"}') == "t"
    for answer in (b"{}", b"[]", b'{"token": 1}', b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}'):
        with pytest.raises(ValueError, match="without a token"):
            read_token(answer)


def file_of(**auths: object) -> bytes:
    return json.dumps({"auths": auths}).encode()


def test_the_password_of_a_registry_is_found_under_its_names() -> None:
    encoded = base64.b64encode(b"me:pass:word").decode()
    for name in ("cr.example.com", "https://cr.example.com", "https://cr.example.com/v1/"):
        assert read_password(file_of(**{name: {"auth": encoded}}), "cr.example.com") == "me:pass:word"
    assert read_password(file_of(other={"auth": encoded}), "cr.example.com") is None
    assert read_password(file_of(**{"cr.example.com": {}}), "cr.example.com") is None  # in a credential helper


NO_BASE64, NO_PASSWORD = ({"cr.example.com": {"auth": text}} for text in ("se%cret", "c2VjcmV0"))


@pytest.mark.parametrize("text", [b"", b"{}", b'{"auths": 1}', file_of(**NO_BASE64), file_of(**NO_PASSWORD)])
def test_another_file_is_refused_without_quoting_it(text: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        read_password(text, "cr.example.com")
    assert "cret" not in str(caught.value)
    assert "c2Vj" not in str(caught.value)
