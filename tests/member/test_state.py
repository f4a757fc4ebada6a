"""States follow from facts."""

import pytest

from exclave.ending import Ending
from exclave.member.state import Situation, Standing, State, state_of

READY = {"is_member": True, "is_serving": True, "is_ready": True}

CASES = {
    "without credential a machine is unjoined": ({}, State.UNJOINED),
    "a join under way is joining": ({"is_joining": True}, State.JOINING),
    "a leftover join record does not undo a membership": ({**READY, "is_joining": True}, State.READY),
    "a member without a data path is starting": ({"is_member": True}, State.STARTING),
    "a member that serves and is not ready is pending": ({"is_member": True, "is_serving": True}, State.PENDING),
    "a member that pods may reach is ready": (READY, State.READY),
    "a proxy that stays dead makes it failing": ({"is_member": True, "is_failing": True}, State.FAILING),
    "stopping outranks readiness": ({**READY, "ending": Ending.STOP}, State.STOPPING),
    "leaving outranks failing": ({"is_member": True, "is_failing": True, "ending": Ending.LEAVE}, State.LEAVING),
    "a hand-over changes nothing": ({**READY, "ending": Ending.HAND_OVER}, State.READY),
    "an eviction outranks everything": (
        {**READY, "standing": Standing.EVICTED, "ending": Ending.LEAVE},
        State.EVICTED,
    ),
    "an orphan keeps serving and says what it is": ({**READY, "standing": Standing.ORPHANED}, State.ORPHANED),
    "an orphan whose certificate ended is failing": (
        {**READY, "standing": Standing.ORPHANED, "is_failing": True},
        State.FAILING,
    ),
}


@pytest.mark.parametrize(("facts", "expected"), CASES.values(), ids=CASES)
def test_state(facts: dict[str, object], expected: State) -> None:
    assert state_of(Situation(**facts)) is expected  # type: ignore[arg-type]
