"""kill -9 of the agent and of the proxy at every step: traffic goes on or opens, the rest is repaired, nothing is left.

The rows are played on stages of namespaces, some at a time (see `play`); whoever asks for the first gets them all. A
row that was killed at its step, and after which all was well again, has no problem; the rest are figures. Where the
agent is killed no connection may fail, but for the rows of `may_fail`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.rows import ROWS, Row, Scene
from exclave.milestones import Joining, Leaving, Moving, Renewing, Starting, Withdrawing
from support.figures import add_figure

pytestmark = pytest.mark.timeout(960)  # whoever comes first plays them all

STAGES = 3
"""Stages at a time: most of a row is waiting."""

LONGEST = 900.0
"""Seconds for all rows, on a machine that has other things to do."""

PLAY = Path(__file__).with_name("play.py")


def test_every_step_has_a_row_in_every_scene_that_it_is_in() -> None:
    found = {scene: {row.milestone for row in ROWS if row.scene is scene and row.victim == "agent"} for scene in Scene}
    machine = set(list(Withdrawing)[list(Withdrawing).index(Withdrawing.HOLDING) :])
    assert found == {
        Scene.JOIN: set(Joining),
        Scene.START: set(Starting),
        Scene.RENEW: set(Renewing),
        Scene.MOVE: set(Moving),
        Scene.STOP: set(Withdrawing),
        Scene.CLEAN_UP: machine,
        Scene.LEAVE: {*Leaving, *Withdrawing},
        Scene.LEAVE_COLD: set(Leaving),
    }


def play_all() -> dict[int, dict[str, Any]]:
    """Every row's outcome, by its number."""
    apart = ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--mount", "--", sys.executable, str(PLAY)]
    numbers = [[str(number) for number in range(len(ROWS))][first::STAGES] for first in range(STAGES)]
    stages = [
        subprocess.Popen([*apart, *share], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for share in numbers
    ]
    outcomes = {}
    try:
        for stage in stages:
            output, errors = stage.communicate(timeout=LONGEST)
            for line in output.splitlines():
                outcome = json.loads(line)
                outcomes[int(outcome["row"])] = outcome
            assert stage.returncode == 0, errors[-4000:]
    finally:
        for stage in stages:
            stage.kill()
            stage.communicate()
    return outcomes


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[int, dict[str, Any]]]:
    played = play_all()
    add_figure("killed with -9: connections failed, of all; seconds without mesh; what repaired it")
    for number, row in enumerate(ROWS):
        outcome = played.get(number)
        if outcome is not None and not outcome["problem"]:
            away = "  – " if outcome["away"] is None else f"{outcome['away']:4.1f}"
            counts = f"{outcome['failed']:4d} of {outcome['connections']:4d}"
            add_figure(f"  {counts}  {away} s  {outcome['repaired']:22}  {row.name}")
    yield played


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.name for row in ROWS])
def test_all_is_well_again(number: int, outcomes: dict[int, dict[str, Any]]) -> None:
    row, outcome = ROWS[number], outcomes[number]
    assert outcome["problem"] == ""
    if not may_fail(row):
        assert outcome["failures"] == []


def may_fail(row: Row) -> bool:
    """Whether connections may fail until all is well again.

    The proxy is away until another is there, or somebody takes it away by hand and pods are not told; or the agent has
    died before the proxy could look up where the cluster's discovery is, which is the agent's to answer.
    """
    return row.victim != "agent" or row.scene is Scene.CLEAN_UP or row == Row(Scene.START, Starting.RULES)
