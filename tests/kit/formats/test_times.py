"""Times and durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.formats.times import epoch, format_duration, parse_duration, rfc3339, rfc3339_micro


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1h30m", 5400), ("500ms", 0.5), ("720h", 2_592_000), ("1d", 86_400), ("1.5h", 5400), ("0s", 0)],
)
def test_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "-1s", "1h-30m", "1y", "10S", "1e3s", "٣s", "10s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"{text!r} is not a duration such as 10s, 5m or 24h"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(86_400, "24h"), (90, "90s"), (0.5, "500ms"), (60, "60s"), (120, "2m"), (0, "0s"), (1.5, "1500ms"), (3600, "1h")],
)
def test_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**9))
def test_what_is_written_reads_as_the_same(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)
