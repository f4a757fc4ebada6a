"""Times as Kubernetes writes them."""

import pytest

from exclave.kit.formats.rfc3339 import epoch, rfc3339, rfc3339_micro


def test_times_are_written_as_kubernetes_writes_them() -> None:
    assert rfc3339(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert rfc3339_micro(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20.250000Z", 1_700_000_000.25),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        ("yesterday", None),
        ("", None),
    ],
)
def test_a_time_is_read_and_anything_else_is_none(text: str, expected: float | None) -> None:
    assert epoch(text) == expected
