"""kill -9 of the agent and of the proxy at every milestone: traffic goes on, the machine recovers, nothing is left.

A fixture runs all rows on a few stages at a time (see `run_rows`). A row has no problem if its process was killed at
its milestone and the machine recovered. Where the agent is killed no connection may fail, except in `may_fail`.
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

pytestmark = pytest.mark.timeout(960)  # the first test waits for all rows

STAGES = 3
"""Stages at a time. Most of a row is waiting."""

LONGEST = 900.0
"""Seconds for all rows, on a busy machine."""

PROGRAM = Path(__file__).with_name("run_rows.py")


def test_every_milestone_has_a_row_in_each_of_its_scenes() -> None:
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


def run_all() -> dict[int, dict[str, Any]]:
    """Every row's outcome, by its number."""
    apart = ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--mount", "--", sys.executable, str(PROGRAM)]
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
    found = run_all()
    add_figure("killed with -9: connections failed, of all; seconds without mesh; what repaired it")
    for number, row in enumerate(ROWS):
        outcome = found.get(number)
        if outcome is not None and not outcome["problem"]:
            away = "  – " if outcome["away"] is None else f"{outcome['away']:4.1f}"
            counts = f"{outcome['failed']:4d} of {outcome['connections']:4d}"
            add_figure(f"  {counts}  {away} s  {outcome['repaired']:22}  {row.name}")
    yield found


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.name for row in ROWS])
def test_the_machine_recovers(number: int, outcomes: dict[int, dict[str, Any]]) -> None:
    row, outcome = ROWS[number], outcomes[number]
    assert outcome["problem"] == ""
    if not may_fail(row):
        assert outcome["failures"] == []


def may_fail(row: Row) -> bool:
    """Whether connections may fail until the machine has recovered.

    They may while no proxy runs, after a clean-up by hand (pods do not learn of it), and if the agent died before the
    proxy could look up the address of the destination controller: the agent answers that lookup.
    """
    return row.victim != "agent" or row.scene is Scene.CLEAN_UP or row == Row(Scene.START, Starting.RULES)
