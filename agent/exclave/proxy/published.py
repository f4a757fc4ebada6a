"""The proxy's published values. `ready` and `problem` are about the chosen instance only."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from exclave.kit.tasks.latest import Latest
from exclave.link.layout import ADMIN_PORT, Instance
from exclave.proxy.process.binary import BinaryId, ProxyUser
from exclave.proxy.states import Difference, InstanceEffect, InstanceEvent, InstanceState, transition

log = logging.getLogger(__name__)

SERVING_STATES = (InstanceState.STANDBY, InstanceState.ACTIVE, InstanceState.DRAINING)  # may have traffic

ADMIN_DENIED = (
    f"proxy {{}} denies this machine's requests on its admin port {ADMIN_PORT}: Linkerd has sent no policy for it yet, "
    "or a Server for that port has no route for /ready and /metrics; only its certificate shows that it is ready"
)


@dataclass(frozen=True)
class InstanceView:
    """The published state of one instance. `environment`: its digest; `binary`: what it runs, None if unknown.

    `certificate_expires`: end of the certificate that it served last (epoch seconds). `not_ready_because`: for a
    person. `is_admin_denied`: a policy has denied our requests to its admin server for a while. `anchors`: sha256 of
    the trust anchors that it was started with; `version`: what it runs; "" if unknown.
    """

    state: InstanceState
    pid: int
    environment: str
    binary: BinaryId | None = None
    is_adopted: bool = False
    certificate_expires: float | None = None
    is_ready: bool = False
    not_ready_because: str | None = None
    is_admin_denied: bool = False
    anchors: str = ""
    version: str = ""

    @property
    def can_serve(self) -> bool:
        """True if it may have traffic."""
        return self.is_ready and self.state in SERVING_STATES


class PublishedProxy:
    """The published values.

    `chosen`: the instance for new traffic; `ready`: the same one while it may have traffic; `outdated`: how it differs
    from the wanted one. For a person: `problem`, why no instance may have traffic; `admin_denial`, why only a
    certificate shows that the chosen one is ready; `exit_messages`, how the last process of each instance ended.
    `version`: the binary's, None if it prints none. `starts`: number of launches.
    """

    def __init__(self, user: ProxyUser) -> None:
        self.uid = user.uid
        self.instances: Latest[Mapping[Instance, InstanceView]] = Latest({})
        self.chosen: Latest[Instance | None] = Latest(None)
        self.ready: Latest[Instance | None] = Latest(None)
        self.outdated: Latest[frozenset[Difference]] = Latest(frozenset())
        self.problem: Latest[str | None] = Latest(None)
        self.admin_denial: Latest[str | None] = Latest(None)
        self.starts: Counter[Instance] = Counter()
        self.answered: dict[Instance, float] = {}  # when each instance answered last (epoch seconds)
        self.exit_messages: dict[Instance, str] = {}
        self.version: str | None = None

    def observe_rules(self, instance: Instance | None) -> None:
        """Mark the instance that the kernel's rules point to as active, the others as not."""
        for each in self.instances.value:
            self.apply_event(each, InstanceEvent.RULES_IN if each == instance else InstanceEvent.RULES_OUT)

    def choose(self, instance: Instance) -> None:
        """Choose this instance for new traffic."""
        if self.chosen.value != instance:
            log.info("proxy: [chosen=%s was=%s]", instance, self.chosen.value or "none")
            self.outdated.set(frozenset())  # this one was not compared yet
        self.chosen.set(instance)
        self._publish()

    def apply_event(self, instance: Instance, event: InstanceEvent) -> tuple[InstanceEffect, ...]:
        """Publish the state after an event; returns the effects that the caller must execute."""
        view = self.instances.value[instance]
        found = transition(view.state, event)
        self.change(instance, replace(view, state=found.state))
        return found.effects

    def change(self, instance: Instance, view: InstanceView) -> None:
        """Publish an instance's view, or remove that of an absent instance."""
        others = {name: other for name, other in self.instances.value.items() if name != instance}
        self.instances.set(others if view.state is InstanceState.ABSENT else {**others, instance: view})
        self._publish()

    @property
    def oldest(self) -> InstanceView | None:
        """The running instance that was started first; None without one. An instance that drains still has traffic."""
        views, chosen = self.instances.value, self.chosen.value
        others = [view for name, view in views.items() if name != chosen and view.state is not InstanceState.STARTING]
        return next(iter(others), None) or (views.get(chosen) if chosen is not None else None)

    async def wait_gone(self, instance: Instance) -> None:
        """Wait until an instance has no process."""
        await self.instances.wait_for(lambda views: instance not in views)

    def report_problem(self, problem: str) -> None:
        """Publish and log why no instance may have traffic."""
        if self.problem.value != problem:
            log.warning("%s", problem)
        self.problem.set(problem)

    def _publish(self) -> None:
        chosen = self.chosen.value
        view = self.instances.value.get(chosen) if chosen is not None else None
        is_ready = view is not None and view.can_serve
        self.ready.set(chosen if is_ready else None)
        if is_ready:
            self.problem.set(None)
        elif view is not None and view.not_ready_because is not None:
            self.report_problem(view.not_ready_because)
        self._publish_admin_denial(chosen if view is not None and view.is_admin_denied else None)

    def _publish_admin_denial(self, instance: Instance | None) -> None:
        denial = None if instance is None else ADMIN_DENIED.format(instance)
        if denial is not None and self.admin_denial.value is None:
            log.warning("%s", denial)
        elif denial is None and self.admin_denial.value is not None:
            log.info("proxy: its admin port answers again")
        self.admin_denial.set(denial)
