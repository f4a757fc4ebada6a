"""News are told one after the other; where they cannot be, nothing else suffers."""

from typing import Any

import pytest
import trio
import trio.testing

from exclave.api.requests import Object, Request
from exclave.controller.telemetry.event_writer import MOST, EventWriter
from exclave.controller.telemetry.events import EventDraft, Subject
from exclave.errors import ClusterError, Fault

from ..snapshots import NOW

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
    EventWriter(Cluster(), "exclave", lambda: NOW).put_nowait(POLICY, [BAD] * (MOST + 1))
    assert caplog.messages == [
        "ValidatingAdmissionPolicy exclave-guard: NotLive: it is silent (no Event: too many wait)"
    ]
