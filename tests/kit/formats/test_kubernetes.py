"""Labels and schemas of Kubernetes."""

import pytest

from exclave.kit.formats.kubernetes import (
    BOOLEAN,
    INTEGER,
    STRING,
    immutable,
    is_dns_label,
    is_label_key,
    is_label_value,
    list_of,
    map_of,
    object_of,
    one_of,
)

VALUES = {"": True, "a": True, "eu-1a": True, "a.b_c-D": True, "1" * 63: True, "1" * 64: False, "-a": False,
          "a-": False, "a b": False, "a/b": False, "é": False, "a\n": False}  # fmt: skip
KEYS = {"app": True, "app.kubernetes.io/name": True, "a/" + "b" * 63: True, "a" * 253 + "/b": True, "": False,
        "/b": False, "a/": False, "a/b/c": False, "A/b": False, "a/" + "b" * 64: False, "a" * 254 + "/b": False,
        "a..b/c": False}  # fmt: skip
NAMES = {"web": True, "a": True, "1-a": True, "a" * 63: True, "a" * 64: False, "": False, "-a": False, "a-": False,
         "a.b": False, "A": False, "é": False, "a\n": False}  # fmt: skip


@pytest.mark.parametrize(("text", "valid"), NAMES.items())
def test_a_dns_label(text: str, valid: bool) -> None:
    assert is_dns_label(text) is valid


@pytest.mark.parametrize(("text", "valid"), VALUES.items())
def test_a_value(text: str, valid: bool) -> None:
    assert is_label_value(text) is valid


@pytest.mark.parametrize(("text", "valid"), KEYS.items())
def test_a_key(text: str, valid: bool) -> None:
    assert is_label_key(text) is valid


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


def test_an_object_without_required_fields_has_no_such_list() -> None:
    assert "required" not in object_of(name=STRING)


def test_what_is_immutable_is_compared_with_what_it_was() -> None:
    (rule,) = immutable(STRING)["x-kubernetes-validations"]
    assert rule == {"rule": "self == oldSelf", "message": "field is immutable"}
    assert "x-kubernetes-validations" not in STRING
