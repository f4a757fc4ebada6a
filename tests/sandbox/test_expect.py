"""Comparing with what a step expects, and waiting for it."""

import pytest
import trio

from exclave_sandbox.expect import UnexpectedError, eventually, expect


async def test_eventually_returns_what_was_acceptable(autojump_clock: object) -> None:
    began = trio.current_time()

    async def read() -> object:
        return trio.current_time() - began

    assert await eventually("two seconds", read, lambda value: isinstance(value, float) and value >= 2, every=0.5) == 2


async def test_eventually_reports_the_last_value_when_its_time_is_over(
    autojump_clock: object, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read() -> object:
        return "three ports"

    with trio.move_on_after(5):
        await eventually("the port to go", read, lambda value: value == "no port")
    assert capsys.readouterr().err == "waited for the port to go; last value: three ports\n"


def test_a_difference_is_an_error_with_both_values() -> None:
    expect("ports", [80], [80])
    with pytest.raises(UnexpectedError, match=r"^ports: \[80\] was expected, found \[\]$"):
        expect("ports", [], [80])
