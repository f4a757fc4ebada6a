"""Status bodies in kube-apiserver's words."""

from exclave_sandbox.apiserver import refusal
from exclave_sandbox.apiserver.refusal import Cause


def test_a_status_names_what_was_asked_for() -> None:
    assert refusal.not_found("members.exclave.dev", "web-1").status == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'members.exclave.dev "web-1" not found',
        "reason": "NotFound",
        "details": {"name": "web-1", "group": "exclave.dev", "kind": "members"},
        "code": 404,
    }


def test_one_mistake_stands_alone_and_several_in_a_list() -> None:
    one, two = Cause("spec.a", "Required value", "FieldValueRequired"), Cause("spec.b", "Invalid value: 1: too small")
    assert refusal.invalid("Pod", "p", [one]).message == 'Pod "p" is invalid: spec.a: Required value'
    both = refusal.invalid("Pod", "p", [one, two])
    assert both.message == 'Pod "p" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: too small]'
    assert both.status["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: 1: too small", "field": "spec.b"},
    ]


def test_an_unknown_caller_gets_no_reason() -> None:
    assert refusal.unauthorized().status["message"] == "Unauthorized"
    assert "details" not in refusal.unauthorized().status


def test_a_refusal_without_a_name_names_the_resource() -> None:
    assert refusal.forbidden("pods", "", "no").message == "pods is forbidden: no"
