"""Schemas say what Kubernetes' structural schemas say, in its own keys."""

from exclave.kit.formats.openapi import BOOLEAN, INTEGER, STRING, immutable, list_of, map_of, object_of, one_of


def test_words_make_openapi() -> None:
    assert object_of(("name",), name=STRING, ports=list_of(INTEGER, maxItems=3)) == {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "ports": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
    }
    assert map_of(BOOLEAN) == {"type": "object", "additionalProperties": {"type": "boolean"}}
    assert one_of("open", "closed") == {"type": "string", "enum": ["open", "closed"]}


def test_an_object_that_needs_nothing_says_nothing_of_it() -> None:
    assert "required" not in object_of(name=STRING)


def test_what_is_immutable_is_compared_with_what_it_was() -> None:
    (rule,) = immutable(STRING)["x-kubernetes-validations"]
    assert rule == {"rule": "self == oldSelf", "message": "field is immutable"}
    assert "x-kubernetes-validations" not in STRING
