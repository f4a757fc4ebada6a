"""What a Member may cost, and what somebody else's change of its Lease does to it."""

from dataclasses import replace

import pytest

from exclave.api.csr import make_csr
from exclave.api.member import Condition
from exclave.controller.policy.snapshot import MemberSnapshot
from exclave.controller.policy.transitions import (
    MOST_ISSUED,
    SIGNING_WINDOW,
    Action,
    DeleteMember,
    RecheckAfter,
    WriteStatus,
    _signing_pause,
    next_transition,
)
from exclave.identity.storage import generate_key
from exclave.kit.formats.times import rfc3339
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

from ..snapshots import GROUP, NOW, executed, settled_snapshot


def new_csr() -> MemberSnapshot:
    snapshot = settled_snapshot()
    return snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"csr": make_csr(generate_key(), "x")}}))


def test_a_member_whose_lease_somebody_deleted_is_not_live_and_is_not_abandoned() -> None:
    snapshot = settled_snapshot(has_heartbeat=False, live=False, now=NOW + 3600.0)
    for _ in range(2):
        transition = next_transition(snapshot)
        if isinstance(transition, WriteStatus):
            snapshot = executed(transition, snapshot)
            assert snapshot.view.live == Condition(
                "Live", False, "NotLive", "its Lease has not been renewed for three intervals"
            )
        assert not isinstance(transition, DeleteMember)
    assert snapshot.view.live is not None
    assert not snapshot.view.live.status


def test_a_member_gets_a_bounded_number_of_certificates() -> None:
    def issued(*ages: float) -> MemberSnapshot:
        records = [{"serial": "1", "keySha256": "k", "time": rfc3339(NOW - age)} for age in ages]
        snapshot = new_csr()
        return snapshot.replaced(member=merge_patch(snapshot.member, {"status": {"issued": records}}))

    assert next_transition(issued(4.0, 3.0, 2.0, 1.0)) == Action.SIGN
    waiting = issued(5.0, 4.0, 3.0, 2.0, 1.0)
    assert next_transition(waiting) == RecheckAfter(SIGNING_WINDOW - 5.0)
    assert next_transition(waiting.replaced(now=NOW + SIGNING_WINDOW - 5.0)) == Action.SIGN
    assert next_transition(issued(SIGNING_WINDOW, 4.0, 3.0, 2.0, 1.0)) == Action.SIGN
    assert next_transition(issued(-9000.0, -4.0, -3.0, -2.0, -1.0)) == RecheckAfter(SIGNING_WINDOW), "a clock was set"


@pytest.mark.parametrize("lifetime", [10.0, 20.0, 60.0, 86400.0])
def test_an_honest_machine_never_waits_for_its_renewal(lifetime: float) -> None:
    """It renews after half of the lifetime at the earliest."""
    group = replace(GROUP, spec=replace(GROUP.spec, certificate_lifetime=lifetime))
    times = [NOW + number * lifetime / 2 for number in range(MOST_ISSUED)]
    records = [{"serial": "1", "keySha256": "k", "time": rfc3339(time)} for time in times]
    snapshot = new_csr().replaced(group=group, now=times[-1] + lifetime / 2)
    snapshot = snapshot.replaced(member=merge_patch(snapshot.member, {"status": {"issued": records}}))
    assert _signing_pause(snapshot, group) <= 0


def test_a_machine_does_not_wait_when_its_group_gets_longer_certificates() -> None:
    """Its last five were of 10 s, and the sixth is of a day."""
    records = [{"serial": "1", "keySha256": "k", "time": rfc3339(NOW - 5.0 * ago)} for ago in (5, 4, 3, 2, 1)]
    snapshot = new_csr()
    snapshot = snapshot.replaced(member=merge_patch(snapshot.member, {"status": {"issued": records}}))
    assert GROUP.spec.certificate_lifetime == 86400.0
    assert _signing_pause(snapshot, GROUP) <= 0
