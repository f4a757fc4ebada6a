"""Waiting for what a step expects."""

import pytest
import trio

from exclave_sandbox.expect import eventually


async def test_eventually_returns_what_was_acceptable(autojump_clock: object) -> None:
    began = trio.current_time()

    async def look() -> object:
        return trio.current_time() - began

    assert await eventually("two seconds", look, lambda seen: isinstance(seen, float) and seen >= 2, every=0.5) == 2.0


async def test_eventually_says_what_was_seen_last_when_its_time_is_over(
    autojump_clock: object, capsys: pytest.CaptureFixture[str]
) -> None:
    async def look() -> object:
        return "three ports"

    with trio.move_on_after(5):
        await eventually("the port to go", look, lambda seen: seen == "no port")
    assert capsys.readouterr().err == "waited for the port to go; seen last: three ports\n"
