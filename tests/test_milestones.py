"""Each step is one line that nobody else's is, and somebody tells it."""

import logging
import re
from pathlib import Path

import pytest

import exclave
from exclave.milestones import Joining, Leaving, Moving, Renewing, Starting, Step, Withdrawing, line_of, tell

STEPS: list[Step] = [
    step for subject in (Joining, Starting, Renewing, Moving, Withdrawing, Leaving) for step in subject
]


def test_a_step_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tell(Withdrawing.NOT_READY)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "withdrawing: [step=not_ready] Ready=False was said")
    ]


def test_no_two_steps_have_the_same_line() -> None:
    assert len({line_of(step) for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_somebody_tells_it(step: Step) -> None:
    told = re.compile(rf"\btell\({step}\)")
    assert [path for path in Path(exclave.__file__).parent.rglob("*.py") if told.search(path.read_text())]
