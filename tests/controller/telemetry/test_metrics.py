"""What the controller tells of itself."""

from collections import Counter

import pytest

from exclave.api.member import Condition, view_member
from exclave.controller.telemetry.metrics import MemberStates, controller_metrics, state_of_member

from ..snapshots import ADMITTED, LIVE, make_member, with_status

NOT_LIVE = Condition("Live", False, "NotLive", "")
REFUSED = Condition("Admitted", False, "AddressRefused", "")


@pytest.mark.parametrize(
    ("member", "state"),
    [
        pytest.param(make_member(), "new", id="one that nobody has judged"),
        pytest.param(with_status(make_member(), REFUSED), "refused", id="one that was refused"),
        pytest.param(with_status(make_member(), ADMITTED, LIVE), "starting", id="one without a data path"),
        pytest.param(with_status(make_member(serving=True), ADMITTED, LIVE), "serving", id="one that serves"),
        pytest.param(with_status(make_member(serving=True), ADMITTED, NOT_LIVE), "not-live", id="one that is silent"),
        pytest.param(with_status(make_member(), ADMITTED, LIVE, cordoned=True), "cordoned", id="one that is cordoned"),
        pytest.param(make_member(deleting=True), "leaving", id="one that leaves"),
    ],
)
def test_a_member_is_in_one_state(member, state: str) -> None:  # type: ignore[no-untyped-def]
    assert state_of_member(view_member(member)) == state


def test_members_are_counted_by_group_and_state_and_again_when_they_change() -> None:
    states, first, second = MemberStates(), ("shop", "web-k7q2x-1"), ("shop", "web-k7q2x-2")
    starting, new = with_status(make_member(), ADMITTED, LIVE), make_member()
    assert states.count({first: starting, second: new}) == {("web", "starting"): 1, ("web", "new"): 1}
    assert states.count({first: starting, second: starting}) == {("web", "starting"): 2}
    assert states.count({first: make_member(deleting=True)}) == {("web", "leaving"): 1}
    assert states.count({}) == {}


def test_a_member_that_has_not_changed_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    states, members = MemberStates(), {("shop", "web-k7q2x-1"): with_status(make_member(), ADMITTED, LIVE)}
    before = states.count(members)
    monkeypatch.setattr("exclave.controller.telemetry.metrics.view_member", None)
    assert states.count(members) == before


def reported(leads: bool) -> dict[str, dict[tuple[str, ...], float]]:
    metrics = controller_metrics(
        leads=leads,
        members=Counter({("web", "starting"): 1, ("web", "new"): 1}),
        groups=3,
        refused_groups=1,
        transitions=Counter({"Sign": 7}),
        requests=Counter({("patch", "200"): 5}),
        issuer_ends=1.8e9,
        policies_installed=True,
        heartbeat=20.0,
    )
    return {metric.name: dict(metric.samples) for metric in metrics}


def test_a_leader_has_all_metrics() -> None:
    assert reported(leads=True) == {
        "exclave_controller_leads": {(): 1.0},
        "exclave_api_requests": {("patch", "200"): 5.0},
        "exclave_members": {("web", "starting"): 1.0, ("web", "new"): 1.0},
        "exclave_groups": {("true",): 2.0, ("false",): 1.0},
        "exclave_controller_steps": {("Sign",): 7.0},
        "exclave_issuer_not_after_seconds": {(): 1.8e9},
        "exclave_guard_stands": {(): 1.0},
        "exclave_heartbeat_interval_seconds": {(): 20.0},
    }


def test_a_replica_that_stands_by_has_two_metrics() -> None:
    assert reported(leads=False) == {
        "exclave_controller_leads": {(): 0.0},
        "exclave_api_requests": {("patch", "200"): 5.0},
    }
