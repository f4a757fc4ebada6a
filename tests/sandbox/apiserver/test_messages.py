"""Refusals as kube-apiserver words them."""

from exclave_sandbox.apiserver.messages import (
    Cause,
    HttpRequest,
    forbidden,
    invalid,
    not_found,
    refusal_reply,
    too_large_version,
    unauthorized,
)


def test_a_status_names_the_object() -> None:
    assert not_found("members.exclave.dev", "web-1").status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'members.exclave.dev "web-1" not found',
        "reason": "NotFound",
        "details": {"name": "web-1", "group": "exclave.dev", "kind": "members"},
        "code": 404,
    }


def test_one_mistake_is_a_text_and_several_are_a_list() -> None:
    one, two = Cause("spec.a", "Required value", "FieldValueRequired"), Cause("spec.b", "Invalid value: 1: too small")
    assert invalid("Pod", "p", [one]).message == 'Pod "p" is invalid: spec.a: Required value'
    both = invalid("Pod", "p", [one, two])
    assert both.message == 'Pod "p" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: too small]'
    assert both.status["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: 1: too small", "field": "spec.b"},
    ]


def test_an_unknown_caller_gets_no_reason() -> None:
    assert unauthorized().status["message"] == "Unauthorized"
    assert "details" not in unauthorized().status


def test_a_refusal_without_a_name_names_the_resource() -> None:
    assert forbidden("pods", "", "no").message == "pods is forbidden: no"


def test_token_and_body_of_a_request_are_not_printed() -> None:
    shown = repr(HttpRequest("GET", "/api", {}, {"authorization": "Bearer abc"}, b"secret"))
    assert "abc" not in shown
    assert "secret" not in shown


def test_a_refusal_with_a_pause_has_it_in_a_header() -> None:
    assert refusal_reply(too_large_version(9, 1)).headers == (("Retry-After", "1"),)
    assert refusal_reply(not_found("pods", "p")).headers == ()
    assert refusal_reply(not_found("pods", "p")).status == 404
