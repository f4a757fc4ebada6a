"""Each milestone has a log line of its own, and some module logs it."""

import logging
import re
from pathlib import Path

import pytest

import exclave
from exclave.milestones import (
    Joining,
    Leaving,
    Milestone,
    Moving,
    Renewing,
    Starting,
    Withdrawing,
    log_milestone,
    milestone_line,
)

MILESTONES: list[Milestone] = [
    milestone for subject in (Joining, Starting, Renewing, Moving, Withdrawing, Leaving) for milestone in subject
]


def test_a_milestone_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_milestone(Withdrawing.NOT_READY)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "withdrawing: [step=not_ready] Ready=False was written")
    ]


def test_no_two_milestones_have_the_same_line() -> None:
    assert len({milestone_line(milestone) for milestone in MILESTONES}) == len(MILESTONES)


@pytest.mark.parametrize("milestone", MILESTONES, ids=str)
def test_some_module_logs_it(milestone: Milestone) -> None:
    logged = re.compile(rf"\blog_milestone\({milestone}\)")
    assert [path for path in Path(exclave.__file__).parent.rglob("*.py") if logged.search(path.read_text())]
