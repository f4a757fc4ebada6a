from exclave_sandbox.demo.report import (
    Chapter,
    Step,
    as_json,
    exit_status,
    tell_chapter,
    tell_end,
    tell_step,
    tell_trying,
)

JOINED = Step("joined", True, 3.24, 1.1, "web-k7q2x-1")
LOST = Step("pod reaches the VM", False, 4.0, 0.2, "expected status 200\nfound 502")


def test_a_step_is_told_with_its_time_and_outcome_and_what_was_seen_below() -> None:
    assert tell_step(JOINED) == "     3.2 s  ok    joined\n                  web-k7q2x-1"


def test_a_failed_step_tells_all_lines() -> None:
    first, *seen = tell_step(LOST).splitlines()
    assert first == "     4.0 s  FAIL  pod reaches the VM"
    assert [line.strip() for line in seen] == ["expected status 200", "found 502"]


def test_the_line_of_a_step_that_is_tried_is_written_over_by_its_end() -> None:
    trying, told = tell_trying("joined"), tell_step(JOINED).splitlines()[0]
    assert trying.index("joined") == told.index("joined")
    assert len(trying) == len(told)


def test_the_end_counts_and_the_exit_status_agrees() -> None:
    assert tell_end([JOINED, LOST]) == "1 passed, 1 failed"
    assert exit_status([JOINED, LOST]) == 1
    assert exit_status([JOINED]) == 0


def test_a_story_without_steps_has_not_passed() -> None:
    assert exit_status([]) == 1


def test_json_holds_every_step_and_the_counts() -> None:
    told = as_json([JOINED, LOST])
    assert told["passed"] == told["failed"] == 1
    assert told["steps"][0] == {"title": "joined", "passed": True, "at": 3.24, "took": 1.1, "detail": "web-k7q2x-1"}


def test_a_chapter_is_set_apart() -> None:
    assert tell_chapter(Chapter("Leaving")) == "\nLeaving"
