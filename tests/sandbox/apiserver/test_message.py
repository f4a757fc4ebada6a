"""Messages: their repr, and a refusal as an answer."""

from exclave_sandbox.apiserver.message import HttpRequest, refusal_reply
from exclave_sandbox.apiserver.refusal import not_found, too_large_version


def test_a_request_shows_neither_its_token_nor_its_body() -> None:
    shown = repr(HttpRequest("GET", "/api", {}, {"authorization": "Bearer abc"}, b"secret"))
    assert "abc" not in shown
    assert "secret" not in shown


def test_a_refusal_with_a_pause_has_it_in_a_header() -> None:
    assert refusal_reply(too_large_version(9, 1)).headers == (("Retry-After", "1"),)
    assert refusal_reply(not_found("pods", "p")).headers == ()
    assert refusal_reply(not_found("pods", "p")).status == 404
