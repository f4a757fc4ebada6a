"""The demo's report as text and JSON, and its steps in virtual time."""

import pytest
import trio

from exclave_sandbox.demo.report import (
    Reporter,
    StepResult,
    as_json,
    exit_status,
    render_running,
    render_step,
    render_total,
)
from exclave_sandbox.expect import UnexpectedError

JOINED = StepResult("joined", True, 3.24, 1.1, "web-k7q2x-1")
LOST = StepResult("pod reaches the VM", False, 4.0, 0.2, "expected status 200\nfound 502")


def test_a_step_is_printed_with_its_time_outcome_and_detail() -> None:
    assert render_step(JOINED) == "     3.2 s  ok    joined\n                  web-k7q2x-1"


def test_a_failed_step_has_all_lines_of_its_detail() -> None:
    first, *detail = render_step(LOST).splitlines()
    assert first == "     4.0 s  FAIL  pod reaches the VM"
    assert [line.strip() for line in detail] == ["expected status 200", "found 502"]


def test_the_result_of_a_step_overwrites_the_line_of_the_running_step() -> None:
    running, result = render_running("joined"), render_step(JOINED).splitlines()[0]
    assert running.index("joined") == result.index("joined")
    assert len(running) == len(result)


def test_the_last_line_counts_and_the_exit_status_agrees() -> None:
    assert render_total([JOINED, LOST]) == "1 passed, 1 failed"
    assert exit_status([JOINED, LOST]) == 1
    assert exit_status([JOINED]) == 0


def test_a_demo_without_steps_has_not_passed() -> None:
    assert exit_status([]) == 1


def test_json_holds_every_step_and_the_counts() -> None:
    tree = as_json([JOINED, LOST])
    assert tree["passed"] == tree["failed"] == 1
    assert tree["steps"][0] == {"title": "joined", "passed": True, "at": 3.24, "took": 1.1, "detail": "web-k7q2x-1"}


def test_a_chapter_is_set_apart(capsys: pytest.CaptureFixture[str]) -> None:
    async def begin() -> None:
        Reporter(quiet=False).chapter("Leaving")

    trio.run(begin)
    assert capsys.readouterr().out == "\nLeaving\n"


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
    reporter = Reporter(quiet=True)
    assert await reporter.step("first", passes)
    assert await reporter.step("second", passes)
    first, second = reporter.steps
    assert (second.title, second.passed, second.detail) == ("second", True, "it is there")
    assert (first.at, first.took) == (2.0, 2.0)
    assert (second.at, second.took) == (4.0, 2.0)


@pytest.mark.parametrize(
    ("work", "words"),
    [(fails, "one was expected, found two"), (breaks, "KeyError: 'status'\n(breaks, line "), (breaks_below, "below")],
)
async def test_a_step_that_raises_has_failed_with_the_text_of_the_problem(work: object, words: str) -> None:
    reporter = Reporter(quiet=True)
    assert not await reporter.step("it", work)  # type: ignore[arg-type]
    assert reporter.steps[0].detail.startswith(words)
    assert await reporter.step("the next step is tried", fails) is False


async def test_a_step_over_its_limit_has_failed(autojump_clock: object) -> None:
    reporter = Reporter(quiet=True)
    assert not await reporter.step("it", hangs, limit=5)
    assert (reporter.steps[0].detail, reporter.steps[0].took) == ("not done within 5 s", 5.0)


async def test_a_result_is_printed_at_once_unless_the_reporter_is_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reporter = Reporter(quiet=False)
    reporter.chapter("Joining")
    await reporter.step("it fails", fails)
    printed = capsys.readouterr().out
    assert "Joining" in printed
    assert "it fails" in printed and "one was expected, found two" in printed
    assert "\r" not in printed  # no terminal
    await Reporter(quiet=True).step("it fails", fails)
    assert capsys.readouterr().out == ""
