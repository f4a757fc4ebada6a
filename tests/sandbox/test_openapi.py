"""Short forms of schemas."""

from exclave_sandbox.openapi import INTEGER, STRING, list_of, object_of, one_of


def test_the_short_forms_make_openapi() -> None:
    assert object_of(("name",), name=STRING, ports=list_of(INTEGER, maxItems=3)) == {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "ports": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
    }
    assert one_of("open", "closed") == {"type": "string", "enum": ["open", "closed"]}


def test_an_object_without_required_fields_has_no_such_list() -> None:
    assert "required" not in object_of(name=STRING)
