"""What is known of the instances, published: each one's state, which of them is chosen, and whether that one may serve.

Rules: at most one instance is chosen: traffic is to go there, and `ready` speaks of it alone. An instance that is not
chosen never costs anybody readiness, whatever becomes of it. Views change by `step` and `change`, and nowhere else.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from exclave.kit.tasks.latest import Latest
from exclave.link.layout import ADMIN_PORT, Instance
from exclave.proxy.differences import Difference
from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.process.instances import BinaryId
from exclave.proxy.states import Effect, Event, State, transition

log = logging.getLogger(__name__)

SERVING_STATES = (State.STANDBY, State.ACTIVE, State.DRAINING)
"""States in which an instance may have traffic."""

ADMIN_DENIED = (
    f"proxy {{}} does not let this machine ask on its admin port {ADMIN_PORT}: Linkerd has sent no policy for it yet, "
    "or a Server for that port has no route for /ready and /metrics; its certificate alone says that it is ready"
)


@dataclass(frozen=True)
class InstanceView:
    """How an instance stands. `certificate_expires` is what its metrics said last, epoch seconds.

    `environment` is the digest of what it was told, `program` what it runs, as far as its record says. `trouble` is why
    it may have no traffic, for a person; `is_refused`: a policy keeps us from asking it, and has done so for a while.
    """

    state: State
    pid: int
    environment: str
    program: BinaryId | None = None
    is_adopted: bool = False
    certificate_expires: float | None = None
    is_ready: bool = False
    not_ready_because: str | None = None
    is_admin_denied: bool = False

    @property
    def can_serve(self) -> bool:
        """Whether it may have traffic."""
        return self.is_ready and self.state in SERVING_STATES


class PublishedProxy:
    """The published values.

    `chosen` is where traffic is to go, `ready` the same once that may have any; `outdated` says how what is chosen
    differs from what is wanted; `problem` why nothing may have traffic, for a person; `refusal` why the chosen one can
    be seen by its certificate alone, for a person; `version` the binary's own word; `starts` counts launches; `ends`
    holds the last words of each place's last process.
    """

    def __init__(self, user: ProxyUser) -> None:
        self.uid = user.uid
        self.instances: Latest[Mapping[Instance, InstanceView]] = Latest({})
        self.chosen: Latest[Instance | None] = Latest(None)
        self.ready: Latest[Instance | None] = Latest(None)
        self.outdated: Latest[frozenset[Difference]] = Latest(frozenset())
        self.problem: Latest[str | None] = Latest(None)
        self.refusal: Latest[str | None] = Latest(None)
        self.starts: Counter[Instance] = Counter()
        self.exit_messages: dict[Instance, str] = {}
        self.version: str | None = None

    def observe_rules(self, instance: Instance | None) -> None:
        """Take what the kernel's rules point to: that instance is active, others are not."""
        for known in self.instances.value:
            self.step(known, Event.RULES_IN if known == instance else Event.RULES_OUT)

    def choose(self, instance: Instance) -> None:
        """Traffic is to go to this instance from now on."""
        if self.chosen.value != instance:
            log.info("proxy: [chosen=%s was=%s]", instance, self.chosen.value or "none")
            self.outdated.set(frozenset())  # nothing is known of this one yet
        self.chosen.set(instance)
        self._publish()

    def step(self, instance: Instance, event: Event) -> tuple[Effect, ...]:
        """Publish what an event makes of an instance; what is to be done about it."""
        view = self.instances.value[instance]
        step = transition(view.state, event)
        self.change(instance, replace(view, state=step.state))
        return step.effects

    def change(self, instance: Instance, view: InstanceView) -> None:
        """Publish how an instance stands; one that is absent is not among them."""
        others = {known: seen for known, seen in self.instances.value.items() if known != instance}
        self.instances.set(others if view.state is State.ABSENT else {**others, instance: view})
        self._publish()

    async def wait_gone(self, instance: Instance) -> None:
        """Wait until an instance has no process."""
        await self.instances.wait_for(lambda views: instance not in views)

    def tell(self, problem: str) -> None:
        """Publish why no instance may have traffic."""
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
            self.tell(view.not_ready_because)
        self._publish_admin_denied(chosen if view is not None and view.is_admin_denied else None)

    def _publish_admin_denied(self, instance: Instance | None) -> None:
        refusal = None if instance is None else ADMIN_DENIED.format(instance)
        if refusal is not None and self.refusal.value is None:
            log.warning("%s", refusal)
        elif refusal is None and self.refusal.value is not None:
            log.info("proxy: it lets itself be asked again")
        self.refusal.set(refusal)
