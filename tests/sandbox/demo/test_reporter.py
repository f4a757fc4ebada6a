"""Telling a story: what passed, what failed and with which words, in virtual time."""

import pytest
import trio

from exclave_sandbox.demo.reporter import Teller
from exclave_sandbox.expect import UnexpectedError


async def passes() -> str:
    await trio.sleep(2)
    return "it is there"


async def fails() -> str:
    raise UnexpectedError("one was expected, found two")


async def breaks() -> str:
    raise KeyError("status")


async def breaks_below() -> str:
    async with trio.open_nursery():
        raise UnexpectedError("below")


async def hangs() -> str:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_step_that_passes_has_its_times_and_its_detail(autojump_clock: object) -> None:
    teller = Teller(quiet=True)
    assert await teller.step("first", passes)
    assert await teller.step("second", passes)
    first, second = teller.steps
    assert (second.title, second.passed, second.detail) == ("second", True, "it is there")
    assert (first.at, first.took) == (2.0, 2.0)
    assert (second.at, second.took) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("work", "words"),
    [(fails, "one was expected, found two"), (breaks, "KeyError: 'status'\n(breaks, line "), (breaks_below, "below")],
)
async def test_a_step_that_raises_has_failed_with_its_words(work: object, words: str) -> None:
    teller = Teller(quiet=True)
    assert not await teller.step("it", work)  # type: ignore[arg-type]
    assert teller.steps[0].detail.startswith(words)
    assert await teller.step("the story goes on", fails) is False


async def test_a_step_that_takes_too_long_has_failed(autojump_clock: object) -> None:
    teller = Teller(quiet=True)
    assert not await teller.step("it", hangs, limit=5)
    assert (teller.steps[0].detail, teller.steps[0].took) == ("not done within 5 s", 5.0)


async def test_what_is_told_is_on_paper_at_once_and_nothing_if_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(quiet=False)
    teller.chapter("Joining")
    await teller.step("it fails", fails)
    told = capsys.readouterr().out
    assert "Joining" in told
    assert "it fails" in told and "one was expected, found two" in told
    assert "\r" not in told  # no terminal
    await Teller(quiet=True).step("it fails", fails)
    assert capsys.readouterr().out == ""
