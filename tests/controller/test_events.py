"""What is told about a member, and when nothing is."""

from dataclasses import replace

import pytest

from exclave.controller.events import Happening, event_object, happenings
from exclave.member.spec import Condition, MemberView

from .worlds import ADMITTED, LIVE, NOW, make_member

VIEW = MemberView("web-k7q2x-1", data_path="meshed", admitted=ADMITTED, live=LIVE)
NOT_LIVE = Condition("Live", False, "NotLive", "its Lease has not been renewed for three intervals")
TWO = Condition("Cloned", True, "TwoMachines", "two machines take turns")

CHANGES: dict[str, tuple[MemberView | None, MemberView, list[Happening]]] = {
    "one that is met for the first time": (None, VIEW, []),
    "it is admitted": (
        replace(VIEW, admitted=None, live=None),
        replace(VIEW, live=Condition("Live", False, "NoHeartbeat", "never")),
        [Happening("Admitted", "Admitted: a member of group web", False)],
    ),
    "nothing has changed": (VIEW, VIEW, []),
    "a message alone": (VIEW, replace(VIEW, live=replace(LIVE, message="other words")), []),
    "it is not heard of": (VIEW, replace(VIEW, live=NOT_LIVE), [
        Happening("NotLive", "Live: its Lease has not been renewed for three intervals", True)]),
    "it is heard of again": (replace(VIEW, live=NOT_LIVE), VIEW, [
        Happening("HeartbeatsArrive", "Live: its Lease is being renewed", False)]),
    "it is two": (VIEW, replace(VIEW, cloned=TWO), [
        Happening("TwoMachines", "Cloned: two machines take turns", True)]),
    "its data path opens": (VIEW, replace(VIEW, data_path="outbound-open"), [
        Happening("DataPath", "the data path is outbound-open, was meshed", True)]),
    "its data path closes again": (replace(VIEW, data_path="outbound-open"), VIEW, [
        Happening("DataPath", "the data path is meshed, was outbound-open", False)]),
    "it is cordoned": (VIEW, replace(VIEW, cordoned=True), [
        Happening("Cordoned", "an admin has cordoned it", False)]),
    "it leaves": (VIEW, replace(VIEW, deleting=True), [
        Happening("Leaving", "its Member is being deleted", False)]),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "told"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_told_once(before: MemberView | None, after: MemberView, told: list[Happening]) -> None:
    assert happenings(before, after) == told


def test_an_event_names_the_member_and_says_little() -> None:
    event = event_object(make_member(), Happening("NotLive", "x" * 5000, True), "exclave-1", "0a", NOW)
    assert event["metadata"] == {"name": "web-k7q2x-1.0a", "namespace": "shop"}
    assert (event["type"], event["reason"], len(event["note"])) == ("Warning", "NotLive", 1024)
    assert event["regarding"]["kind"] == "Member" and event["regarding"]["uid"] == "member-uid"
