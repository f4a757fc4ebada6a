"""Reads the Services that select a group, for warnings. A headless one can end Linkerd's destination controller."""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import trio

from exclave.api.malformed import object_title, read_each
from exclave.api.names import GROUP_LABEL
from exclave.api.requests import SERVICES, WORKLOAD_GROUPS, Object, list_all
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.snapshot import Group
from exclave.controller.telemetry.event_writer import EventWriter
from exclave.controller.telemetry.events import EventDraft, Subject
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ClusterError

log = logging.getLogger(__name__)

EVERY = 120.0  # seconds between two rounds. A watch would cost more, and only a warning depends on it.


def services_selecting(
    services: Iterable[Object], labels: Mapping[str, str], report: Callable[[Object, Exception], None]
) -> list[Object]:
    """The Services whose selector matches these labels. An unreadable Service is reported."""

    def is_selecting(service: Object) -> bool:
        selector = (service.get("spec") or {}).get("selector") or {}
        return bool(selector and selector.items() <= labels.items())

    found = read_each(services, lambda one: [one] if is_selecting(one) else [], report)
    return list(chain.from_iterable(found))


def headless_names(services: Iterable[Object]) -> list[str]:
    """Names of the headless ones among these Services."""
    return sorted(str(one["metadata"]["name"]) for one in services if one["spec"].get("clusterIP") == "None")


def warning(service: str, group: str) -> EventDraft:
    """The Event about a Service that selects a group. Source: nil Pod in Linkerd's getEndpointByHostname."""
    return EventDraft(
        "HeadlessService",
        f"Service {service} is headless and selects group {group}: one request through the mesh to a member's own name "
        "in it ends Linkerd's destination controller; give the Service a cluster IP, or a selector of pods only",
        is_bad=True,
    )


class HeadlessWarner:
    """Warns once of each Service, and again after it was corrected. `groups` returns the readable groups.

    `observe` is called in each round for each group, with the Services that select it.
    """

    def __init__(
        self,
        cluster: Sender,
        groups: Callable[[], Iterable[Group]],
        events: EventWriter,
        malformed: MalformedLog,
        observe: Callable[[Group, list[Object]], None],
    ) -> None:
        self._cluster = cluster
        self._groups = groups
        self._events = events
        self._malformed = malformed
        self._observe = observe
        self._warned: set[tuple[str, str, str, str]] = set()  # namespace, Service, group, the group's uid
        self._list_faults: dict[str, str] = {}  # why Services of a namespace could not be listed

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await trio.sleep(EVERY)

    async def check(self) -> None:
        """One round."""
        groups = list(self._groups())
        namespaces = sorted({group.namespace for group in groups})
        self._list_faults = {one: self._list_faults[one] for one in namespaces if one in self._list_faults}
        found: set[tuple[str, str, str, str]] = set()
        for namespace in namespaces:
            services = await self._services(namespace)
            if services is None:
                continue
            for group in groups:
                if group.namespace == namespace:
                    labels = {**group.spec.labels, GROUP_LABEL: group.name}
                    selecting = services_selecting(services, labels, self._report)
                    headless = headless_names(selecting)
                    found |= {(namespace, service, group.name, group.uid) for service in headless}
                    self._observe(group, selecting)
        for namespace, service, name, uid in sorted(found - self._warned):
            subject = Subject(WORKLOAD_GROUPS.api_version, WORKLOAD_GROUPS.kind, namespace, name, uid)
            self._events.put_nowait(subject, [warning(service, name)])
            log.warning("%s/%s: %s", namespace, name, warning(service, name).note)
        self._warned = found

    def _report(self, service: Object, problem: Exception) -> None:
        self._malformed.report(object_title(service, SERVICES.kind), problem)

    async def _services(self, namespace: str) -> list[Object] | None:
        """None if they cannot be listed."""
        try:
            listed = await self._cluster.send(list_all(SERVICES, namespace))
        except ClusterError as problem:
            if self._list_faults.get(namespace) != problem.message:
                log.info("headless Services in %s cannot be listed: %s", namespace, problem.message)
                self._list_faults[namespace] = problem.message
            return None
        self._list_faults.pop(namespace, None)
        return list(listed.get("items") or [])
