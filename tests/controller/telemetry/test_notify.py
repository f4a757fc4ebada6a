"""What is reported again, and what is reported once."""

from dataclasses import replace

import trio

from exclave.api.member import Condition
from exclave.api.requests import Object, Request
from exclave.controller.telemetry.event_writer import EventWriter
from exclave.controller.telemetry.events import Subject
from exclave.controller.telemetry.notify import Notifier

from ..snapshots import ADMITTED, LIVE, NAME, NAMESPACE, NOW, make_member, with_metadata, with_status

KEY = (NAMESPACE, NAME)
ISSUER = Subject("v1", "Secret", "exclave", "exclave-issuer")
POLICY = {"apiVersion": "v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "exclave-guard"}}
GROUP = {"metadata": {"name": "web", "namespace": NAMESPACE, "uid": "group-uid"}}
REFUSED = Condition("Accepted", False, "Invalid", "its spec cannot be used")


class Cluster:
    """Stores the Events that are sent, as reason and name of the object that each is about."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    async def send(self, request: Request) -> Object:
        await trio.lowlevel.checkpoint()
        assert request.body is not None
        self.events.append((request.body["reason"], request.body["regarding"]["name"]))
        return request.body


class Reporter:
    """A notifier, and the Events that its calls led to."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.writer = EventWriter(self.cluster, "exclave", lambda: NOW)
        self.notifier = Notifier(self.writer, {"issuer": ISSUER})

    async def events(self) -> list[tuple[str, str]]:
        """The Events since the last call."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.writer.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        found, self.cluster.events = self.cluster.events, []
        return found


async def test_a_source_is_reported_when_its_fault_changes() -> None:
    reporter = Reporter()
    for _ in range(2):
        reporter.notifier.report_sources({"issuer": "no key", "WorkloadGroup shop/web": "no source of the mesh"})
    assert await reporter.events() == [("Refused", "exclave-issuer")]
    reporter.notifier.report_sources({})
    assert await reporter.events() == [("Accepted", "exclave-issuer")]


async def test_the_admission_policies_are_reported_beside_the_controller() -> None:
    reporter = Reporter()
    reporter.notifier.report_admission(POLICY, "it is missing")
    reporter.notifier.report_admission(POLICY, None)
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
