"""Events are written one after the other, changes are reported once, and a failure delays nothing else."""

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.member import Condition
from exclave.api.requests import Object, Request
from exclave.controller.telemetry.event_writer import MOST, MOST_COUNTED, MOST_OF_ONE, WINDOW, EventWriter, Notifier
from exclave.controller.telemetry.events import LONGEST_NOTE, EventDraft, Subject
from exclave.errors import ClusterError, Fault

from ..snapshots import ADMITTED, LIVE, NAME, NAMESPACE, NOW, make_member, with_metadata, with_status

MEMBER = Subject("exclave.dev/v1alpha1", "Member", "shop", "web-k7q2x-1", "u")
SECRET = Subject("v1", "Secret", "exclave", "exclave-issuer")
POLICY = Subject("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "", "exclave-guard")
GOOD, BAD = EventDraft("Admitted", "it is in", is_bad=False), EventDraft("NotLive", "it is silent", is_bad=True)


class Cluster:
    """Stores Events, or refuses them."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.sent: list[tuple[str, Object]] = []

    async def send(self, request: Request) -> Object:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise ClusterError(Fault.NOT_PERMITTED, "may not create events", "ask")
        assert request.body is not None
        self.sent.append((request.path, request.body))
        return request.body


async def write(cluster: Cluster, put: Any) -> None:
    events = EventWriter(cluster, "exclave", lambda: NOW)
    put(events)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_events_are_written_where_their_objects_are_in_order() -> None:
    cluster = Cluster()
    await write(cluster, lambda events: events.put_nowait(MEMBER, [GOOD, BAD]))
    assert {path for path, _ in cluster.sent} == {"/apis/events.k8s.io/v1/namespaces/shop/events"}
    assert [event["reason"] for _, event in cluster.sent] == ["Admitted", "NotLive"]
    names = [event["metadata"]["name"] for _, event in cluster.sent]
    assert len(set(names)) == 2 and all(name.startswith("web-k7q2x-1.") for name in names)


@pytest.mark.parametrize(
    ("subject", "about", "related"),
    [
        (SECRET, ("Secret", "exclave-issuer"), None),
        (POLICY, ("Deployment", "exclave-controller"), ("ValidatingAdmissionPolicy", "exclave-guard")),
        (Subject("v1", "Secret", "linkerd", "x"), ("Deployment", "exclave-controller"), ("Secret", "x")),
    ],
    ids=["in its own namespace", "an object of the whole cluster", "in another's namespace"],
)
async def test_an_event_of_an_object_elsewhere_is_the_controllers(subject: Subject, about: Any, related: Any) -> None:
    cluster = Cluster()
    await write(cluster, lambda events: events.put_elsewhere_nowait(subject, BAD))
    ((path, event),) = cluster.sent
    assert path == "/apis/events.k8s.io/v1/namespaces/exclave/events"
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == about
    beside = event.get("related")
    assert (beside and (beside["kind"], beside["name"])) == related


async def test_an_event_that_is_refused_or_one_too_many_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await write(Cluster(refuses=True), lambda events: events.put_nowait(MEMBER, [GOOD]))
    assert caplog.messages == ["Member shop/web-k7q2x-1: Admitted: it is in (no Event: may not create events)"]
    caplog.clear()
    events = EventWriter(Cluster(), "exclave", lambda: NOW)
    for number in range(MOST + 1):
        events.put_nowait(replace(POLICY, name=f"policy-{number}"), [BAD])
    assert caplog.messages == [
        f"ValidatingAdmissionPolicy policy-{MOST}: NotLive: it is silent (no Event: too many wait)"
    ]


KEY = (NAMESPACE, NAME)
ADMISSION_POLICY = {"apiVersion": "v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "exclave-guard"}}
GROUP = {"metadata": {"name": "web", "namespace": NAMESPACE, "uid": "group-uid"}}
REFUSED = Condition("Accepted", False, "Invalid", "its spec cannot be used")


class Reporter:
    """A notifier, and the Events that its calls led to."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.writer = EventWriter(self.cluster, "exclave", lambda: NOW)
        self.notifier = Notifier(self.writer, {"issuer": SECRET})

    async def events(self) -> list[tuple[str, str]]:
        """The Events since the last call."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        found, self.cluster.sent = self.cluster.sent, []
        return [(event["reason"], event["regarding"]["name"]) for _, event in found]


async def test_a_source_is_reported_when_its_fault_changes() -> None:
    reporter = Reporter()
    for _ in range(2):
        reporter.notifier.report_sources({"issuer": "no key", "WorkloadGroup shop/web": "no source of the mesh"})
    assert await reporter.events() == [("Refused", "exclave-issuer")]
    reporter.notifier.report_sources({})
    assert await reporter.events() == [("Accepted", "exclave-issuer")]


async def test_the_admission_policies_are_reported_beside_the_controller() -> None:
    reporter = Reporter()
    reporter.notifier.report_admission(ADMISSION_POLICY, "it is missing")
    reporter.notifier.report_admission(ADMISSION_POLICY, None)
    assert await reporter.events() == [("GuardMissing", "exclave-controller"), ("GuardStands", "exclave-controller")]


async def test_a_member_is_reported_when_it_changes_and_another_of_its_name_is_new() -> None:
    reporter = Reporter()
    for conditions in ((ADMITTED, LIVE), (ADMITTED, LIVE), (ADMITTED, replace(LIVE, status=False, reason="NotLive"))):
        reporter.notifier.report_member(KEY, with_status(make_member(), *conditions))
    assert await reporter.events() == [("NotLive", NAME)]
    reporter.notifier.report_member(KEY, with_metadata(with_status(make_member(), ADMITTED, LIVE), uid="another"))
    reporter.notifier.forget_member(KEY)
    reporter.notifier.report_member(KEY, with_status(make_member(), ADMITTED))
    assert await reporter.events() == []


async def test_a_group_is_compared_with_its_status_and_then_with_the_last_report() -> None:
    reporter = Reporter()
    stored = {"status": {"conditions": [{"type": "Accepted", "status": "False", "reason": "Invalid"}]}}
    reporter.notifier.report_group((NAMESPACE, "web"), {**GROUP, **stored}, REFUSED)
    assert await reporter.events() == [], "another controller has reported it"
    reporter.notifier.forget_group((NAMESPACE, "web"))
    for _ in range(2):
        reporter.notifier.report_group((NAMESPACE, "web"), GROUP, REFUSED)
    assert await reporter.events() == [("Invalid", "web")]


async def test_one_object_causes_a_bounded_number_of_events_and_delays_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    cluster, other = Cluster(), replace(MEMBER, name="web-k7q2x-2")

    def put(events: EventWriter) -> None:
        for _ in range(2 * MOST):
            events.put_nowait(MEMBER, [BAD])
        events.put_nowait(other, [GOOD])

    await write(cluster, put)
    names = [event["regarding"]["name"] for _, event in cluster.sent]
    assert names == [MEMBER.name] * MOST_OF_ONE + [other.name]
    assert caplog.messages == [
        "Member shop/web-k7q2x-1: NotLive: it is silent (no Event: 20 within 600 s are enough, others are left out)"
    ]


async def test_an_object_may_have_events_again_after_a_while() -> None:
    cluster, now = Cluster(), NOW

    events = EventWriter(cluster, "exclave", lambda: now)
    for _ in range(2):
        events.put_nowait(MEMBER, [BAD] * (2 * MOST_OF_ONE))
        now += WINDOW
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(cluster.sent) == 2 * MOST_OF_ONE


async def test_objects_without_number_and_long_messages_fill_no_memory() -> None:
    events = EventWriter(Cluster(), "exclave", lambda: NOW)
    for number in range(2 * MOST_COUNTED):
        events.put_nowait(replace(MEMBER, name=f"web-k7q2x-{number}"), [replace(BAD, note="x" * 32_768)])
    assert len(events._counts) == MOST_COUNTED
    waiting = [events._receive.receive_nowait()[2].note for _ in range(MOST)]
    assert {len(note) for note in waiting} == {LONGEST_NOTE}
