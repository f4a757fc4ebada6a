"""Labels of Kubernetes."""

import pytest

from exclave.kit.formats.kubernetes import is_dns_label, is_label_key, is_label_value

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
