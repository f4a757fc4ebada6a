"""Which changes of a member are Events, and which are not."""

from dataclasses import replace

import pytest

from exclave.api.member import Condition, MemberView
from exclave.api.requests import MEMBERS
from exclave.controller.telemetry.events import (
    EventDraft,
    admission_event,
    event_object,
    group_events,
    member_events,
    source_events,
    subject_of,
)

from ..snapshots import ADMITTED, LIVE, NOW, make_member

VIEW = MemberView("web-k7q2x-1", data_path="meshed", admitted=ADMITTED, live=LIVE)
NOT_LIVE = Condition("Live", False, "NotLive", "its Lease has not been renewed for three intervals")
TWO = Condition("Cloned", True, "TwoMachines", "two machines take turns")

CHANGES: dict[str, tuple[MemberView | None, MemberView, list[EventDraft]]] = {
    "one that is met for the first time": (None, VIEW, []),
    "it is admitted": (
        replace(VIEW, admitted=None, live=None),
        replace(VIEW, live=Condition("Live", False, "NoHeartbeat", "never")),
        [EventDraft("Admitted", "Admitted: a member of group web", False)],
    ),
    "nothing has changed": (VIEW, VIEW, []),
    "a message alone": (VIEW, replace(VIEW, live=replace(LIVE, message="other words")), []),
    "it is not heard of": (VIEW, replace(VIEW, live=NOT_LIVE), [
        EventDraft("NotLive", "Live: its Lease has not been renewed for three intervals", True)]),
    "it is heard of again": (replace(VIEW, live=NOT_LIVE), VIEW, [
        EventDraft("HeartbeatsArrive", "Live: its Lease is being renewed", False)]),
    "it is two": (VIEW, replace(VIEW, cloned=TWO), [
        EventDraft("TwoMachines", "Cloned: two machines take turns", True)]),
    "its data path opens": (VIEW, replace(VIEW, data_path="outbound-open"), [
        EventDraft("DataPath", "the data path is outbound-open, was meshed", True)]),
    "its data path opens, and it says why": (
        VIEW,
        replace(VIEW, data_path="outbound-open", data_path_reason="no proxy is ready"),
        [EventDraft("DataPath", "the data path is outbound-open, was meshed: no proxy is ready", True)],
    ),
    "its data path closes again": (replace(VIEW, data_path="outbound-open"), VIEW, [
        EventDraft("DataPath", "the data path is meshed, was outbound-open", False)]),
    "it is cordoned": (VIEW, replace(VIEW, cordoned=True), [
        EventDraft("Cordoned", "an admin has cordoned it", False)]),
    "another Member has its name": (replace(VIEW, uid="1"), MemberView(VIEW.name, uid="2", data_path="down"), []),
    "it leaves": (VIEW, replace(VIEW, deleting=True), [
        EventDraft("Leaving", "its Member is being deleted", False)]),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "reported"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_reported_once(before: MemberView | None, after: MemberView, reported: list[EventDraft]) -> None:
    assert member_events(before, after) == reported


ACCEPTED = Condition("Accepted", True, "Accepted", "it takes members")
DELETING = Condition("Accepted", False, "Deleting", "2 left")


@pytest.mark.parametrize(
    ("before", "after", "reported"),
    [
        (None, ACCEPTED, [EventDraft("Accepted", "Accepted: it takes members", False)]),
        (ACCEPTED, ACCEPTED, []),
        (DELETING, replace(DELETING, message="1 left"), []),
        (ACCEPTED, DELETING, [EventDraft("Deleting", "Accepted: 2 left", False)]),
        (ACCEPTED, Condition("Accepted", False, "Invalid", "x"), [EventDraft("Invalid", "Accepted: x", True)]),
    ],
    ids=["at first", "no change", "fewer members left", "it is deleted", "it is refused"],
)
def test_the_events_of_a_group(before: Condition | None, after: Condition, reported: list[EventDraft]) -> None:
    assert group_events(before, after) == reported


def test_the_events_of_sources() -> None:
    refused = EventDraft("Refused", "not used, the last good value stays in use: no PEM", is_bad=True)
    assert source_events({}, {"issuer": "no PEM"}) == [("issuer", refused)]
    assert source_events({"issuer": "no PEM"}, {"issuer": "no PEM"}) == []
    assert source_events({"issuer": "other"}, {"issuer": "no PEM"}) == [("issuer", refused)]
    assert source_events({"issuer": "no PEM", "config": "x"}, {"config": "x"}) == [
        ("issuer", EventDraft("Accepted", "it can be used again", is_bad=False))
    ]


def test_the_events_of_the_admission_policies() -> None:
    assert admission_event("it is missing") == EventDraft(
        "GuardMissing", "nobody is admitted and no certificate is signed: it is missing", is_bad=True
    )
    assert not admission_event(None).is_bad


def test_an_event_names_the_member_and_is_short() -> None:
    subject = subject_of(MEMBERS, make_member())
    event = event_object(subject, None, EventDraft("NotLive", "x" * 5000, True), "exclave-1", "0a", NOW)
    assert "related" not in event
    assert event["metadata"] == {"name": "web-k7q2x-1.0a", "namespace": "shop"}
    assert (event["type"], event["reason"], len(event["note"])) == ("Warning", "NotLive", 1024)
    assert event["regarding"]["kind"] == "Member" and event["regarding"]["uid"] == "member-uid"
