"""Who leads, decided from a Lease: the rules alone."""

import pytest

from exclave.controller.leader.election import (
    DEADLINE,
    DURATION,
    LeaseVersion,
    acquired_lease,
    may_acquire,
    observe,
    released_lease,
    time_left,
)

WALL = 1_800_000_000.0
HELD = {
    "metadata": {"name": "exclave-controller", "resourceVersion": "7"},
    "spec": {"holderIdentity": "other", "acquireTime": "earlier", "leaseTransitions": 2},
}


@pytest.mark.parametrize(
    ("holder", "silent", "may"),
    [
        pytest.param("", 0.0, True, id="nobody's"),
        pytest.param("me", 0.0, True, id="ours"),
        pytest.param("other", DURATION - 0.1, False, id="another's that was renewed lately"),
        pytest.param("other", DURATION, True, id="another's that was not renewed"),
    ],
)
def test_when_a_lease_may_be_acquired(holder: str, silent: float, may: bool) -> None:
    lease = {**HELD, "spec": {"holderIdentity": holder}}
    assert may_acquire(lease, LeaseVersion("7", 100.0), "me", 100.0 + silent) is may


def test_silence_is_counted_from_the_last_change_by_our_own_clock() -> None:
    first = observe(None, HELD, 10.0)
    assert observe(first, HELD, 20.0) == LeaseVersion("7", 10.0)
    renewed = {**HELD, "metadata": {**HELD["metadata"], "resourceVersion": "8"}}
    assert observe(first, renewed, 20.0) == LeaseVersion("8", 20.0)


def test_taking_it_is_conditional_on_what_was_read_and_counted() -> None:
    body = acquired_lease(HELD, "exclave", "exclave-controller", "me", WALL)
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2027-01-15T08:00:00.000000Z",
        "renewTime": "2027-01-15T08:00:00.000000Z",
        "leaseTransitions": 3,
    }
    again = acquired_lease({**HELD, "spec": body["spec"]}, "exclave", "exclave-controller", "me", WALL + 2)
    assert again["spec"]["acquireTime"] == "2027-01-15T08:00:00.000000Z"
    assert again["spec"]["renewTime"] == "2027-01-15T08:00:02.000000Z"
    assert again["spec"]["leaseTransitions"] == 3


def test_the_first_one_makes_it() -> None:
    body = acquired_lease(None, "exclave", "exclave-controller", "me", WALL)
    assert "resourceVersion" not in body["metadata"]
    assert body["spec"]["leaseTransitions"] == 0


def test_one_that_ends_leaves_it_to_anybody() -> None:
    assert released_lease(HELD, "exclave", "exclave-controller", WALL)["spec"]["holderIdentity"] == ""


def test_a_leader_stops_writing_well_before_it_may_be_followed() -> None:
    assert DEADLINE < DURATION
    assert time_left(None, 0.0) == 0.0
    assert time_left(100.0, 100.0) == DEADLINE
    assert time_left(100.0, 100.0 + DEADLINE - 0.5) == 0.5
    assert time_left(100.0, 100.0 + DEADLINE) == time_left(100.0, 100.0 + 7 * DEADLINE) == 0.0
