"""Rules that are to be confirmed, in virtual time. tests/redirect runs the kernel's timer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.confirm.confirm import (
    LONGEST_GRACE,
    Confirmation,
    Confirming,
    Stage,
    Unconfirmed,
    begin,
    forget_unconfirmed,
    load_unconfirmed,
    open_confirm,
    resume,
    store_unconfirmed,
)
from exclave.kit.tasks.latest import Latest


@pytest.mark.parametrize("record", [Unconfirmed(60.0), Unconfirmed(0.5, begun=True)])
def test_what_is_read_is_what_was_written(tmp_path: Path, record: Unconfirmed) -> None:
    store_unconfirmed(tmp_path, record)
    assert load_unconfirmed(tmp_path) == record


def test_it_is_forgotten_once(tmp_path: Path) -> None:
    assert load_unconfirmed(tmp_path) is None
    store_unconfirmed(tmp_path, Unconfirmed(60.0))
    assert forget_unconfirmed(tmp_path)
    assert not forget_unconfirmed(tmp_path)
    assert load_unconfirmed(tmp_path) is None


NO_END, WORDS = b'{"seconds": 60}', b'{"seconds": "x", "begun": 1}'
DEEP, LONG = b"[" * 100_000, b'{"seconds": 1' + b"0" * 400 + b', "begun": true}'


@pytest.mark.parametrize("text", [b"", b"{", b"[]", NO_END, WORDS, b"\xff", DEEP, LONG])
def test_damage_confirms_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "unconfirmed.json").write_bytes(text)
    assert load_unconfirmed(tmp_path) == Unconfirmed(0.0, begun=True)


NOT_BEGUN, BEGUN = False, True


@pytest.mark.parametrize(
    ("begun", "left", "expected"),
    [
        (NOT_BEGUN, None, Confirmation(Stage.WAITING, 60.0)),
        (NOT_BEGUN, 3.0, Confirmation(Stage.WAITING, 60.0)),
        (BEGUN, None, Confirmation(Stage.OVER, 60.0)),
        (BEGUN, 0.0, Confirmation(Stage.OVER, 60.0)),
        (BEGUN, 41.0, Confirmation(Stage.RUNNING, 60.0, 141.0)),
    ],
    ids=[
        "the time has not begun",
        "a new agent, and it has not begun",
        "the rules are gone",
        "the time is over",
        "the time runs",
    ],
)
def test_what_an_earlier_agent_has_left(begun: bool, left: float | None, expected: Confirmation) -> None:
    assert resume(60.0, begun, left, now=100.0) == expected


@pytest.mark.parametrize(("seconds", "grace"), [(60.0, LONGEST_GRACE), (4.0, 4.0)])
def test_the_kernel_ends_the_rules_within_the_grace(seconds: float, grace: float) -> None:
    begun = begin(seconds, 100.0)
    assert (begun.ends, begun.kernel_end) == (100.0 + seconds, 100.0 + seconds + grace)


STAGES = {
    Stage.CONFIRMED: (None, False, ""),
    Stage.WAITING: (7.0, False, "the rules are removed 60s after they were loaded, unless somebody confirms them"),
    Stage.RUNNING: (7.0, False, "the rules are removed 60s after they were loaded, unless somebody confirms them"),
    Stage.WITHDRAWING: (7.0, True, "the rules were not confirmed within 60s, so nothing is captured"),
    Stage.OVER: (0.0, True, "the rules were not confirmed within 60s, so nothing is captured"),
}


@pytest.mark.parametrize("stage", Stage)
def test_what_a_stage_means(stage: Stage) -> None:
    found = Confirmation(stage, 60.0, 7.0)
    assert (found.armed_until, found.is_withdrawn, found.text) == STAGES[stage]


SECONDS = 60.0


class Machine:
    """A member whose ports are listed until a test takes them away."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.view: Latest[Any] = Latest(SimpleNamespace(serving=True, workload_ports=(8080,)))
        store_unconfirmed(state, Unconfirmed(SECONDS))

    def withdraw(self) -> None:
        self.view.set(SimpleNamespace(serving=False, workload_ports=()))

    @asynccontextmanager
    async def confirming(self, left: float | None = None) -> AsyncIterator[Confirming]:
        membership: Any = SimpleNamespace(view=self.view)
        async with open_confirm(self.state, membership, left) as opened:
            yield opened


@pytest.fixture
def machine(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> Machine:
    return Machine(tmp_path)


async def reach(confirming: Confirming, stage: Stage) -> float:
    """The time at which a stage is reached."""
    await confirming.view.wait_for(lambda found: found.stage is stage)
    return trio.current_time()


async def test_ports_are_withdrawn_before_the_rules_stop(machine: Machine) -> None:
    async with machine.confirming() as confirming:
        began = trio.current_time()
        armed = confirming.arm()
        assert armed == began + SECONDS + LONGEST_GRACE
        assert load_unconfirmed(machine.state) == Unconfirmed(SECONDS, begun=True)
        assert await reach(confirming, Stage.WITHDRAWING) == began + SECONDS
        assert confirming.arm() == armed  # they stand until pods have heard
        await trio.sleep(3)
        assert confirming.view.value.stage is Stage.WITHDRAWING
        machine.withdraw()
        assert await reach(confirming, Stage.OVER) == began + SECONDS + 3
        assert confirming.arm() == 0


async def test_a_silent_cluster_is_waited_for_until_the_kernels_timer_ends(machine: Machine) -> None:
    async with machine.confirming() as confirming:
        began = trio.current_time()
        confirming.arm()
        assert await reach(confirming, Stage.OVER) == began + SECONDS + LONGEST_GRACE


async def test_no_time_passes_before_there_are_rules(machine: Machine) -> None:
    async with machine.confirming() as confirming:
        await trio.sleep(10 * SECONDS)
        assert confirming.view.value.stage is Stage.WAITING
        confirming.arm()
        assert confirming.view.value.ends == trio.current_time() + SECONDS


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.RUNNING, Stage.WITHDRAWING, Stage.OVER])
async def test_confirming_helps_at_any_time(machine: Machine, stage: Stage) -> None:
    async with machine.confirming() as confirming:
        if stage is not Stage.WAITING:
            confirming.arm()
            await reach(confirming, stage)
        assert confirming.confirm()
        assert confirming.arm() is None
        await trio.sleep(10 * SECONDS)
        assert confirming.view.value.stage is Stage.CONFIRMED
        assert load_unconfirmed(machine.state) is None
        assert not confirming.confirm()


async def test_the_next_agent_goes_on_with_what_the_kernel_has_left(machine: Machine) -> None:
    async with machine.confirming() as confirming:
        confirming.arm()
    async with machine.confirming(left=LONGEST_GRACE + 20.0) as confirming:
        began = trio.current_time()
        assert confirming.arm() == began + LONGEST_GRACE + 20
        assert await reach(confirming, Stage.WITHDRAWING) == began + 20


async def test_the_agent_after_that_logs_that_the_time_is_over(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async with machine.confirming() as confirming:
        confirming.arm()
    caplog.clear()
    async with machine.confirming(left=0.0) as confirming:
        assert confirming.arm() == 0
        assert caplog.messages == [
            "confirm: [stage=over] the rules were not confirmed within 60s, so nothing is captured"
        ]


async def test_rules_that_nobody_wants_confirmed_have_no_end(tmp_path: Path) -> None:
    membership: Any = SimpleNamespace(view=Latest(None))
    async with open_confirm(tmp_path, membership, None) as confirming:
        assert confirming.arm() is None
        assert load_unconfirmed(tmp_path) is None
