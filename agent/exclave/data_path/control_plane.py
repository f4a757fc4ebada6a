"""Whether Linkerd's controllers answer the proxy, as its own metrics tell. Pure.

The proxy keeps one connection to each controller, of its own accord, so one that is lost is seen within a second, also
while nobody asks anything; and it counts what it asks and what is answered, which tells a controller that accepts
connections and says nothing. Names of metrics: linkerd2-proxy, linkerd/app/core/src/control.rs and metrics.rs.

Rules: both controllers are needed for a new destination, so the worse one counts. A loss is believed at the second look
in a row, and a controller that is silent once it has left questions unanswered for `SILENCE` seconds: the proxy itself
asks again after three. Proxies that tell nothing of this are none we know anything about: None.
Where a policy lets nobody see the metrics, the kernel says which connections stand: the controllers' addresses are
known, and the proxies have a user of their own. A controller that is silent is not seen so.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from exclave.kit.host.sockets import ESTABLISHED, Socket
from exclave.proxy.environment import DESTINATION_PORT, POLICY_PORT
from exclave.proxy.metrics import read_samples

MISSED_POLLS = 2
"""Looks in a row that must find a controller away."""

SILENCE = 10.0
"""Seconds."""

CONTROLLERS = {"destination": "linkerd-dst-headless", "policy": "linkerd-policy"}
"""The client's name in the proxy's metrics, and how the address begins that it asks."""


@dataclass(frozen=True)
class ControllerSample:
    """One controller in a metrics page: connections that stand, questions asked and answered since the proxy began."""

    connected: int
    asked: int
    answered: int


def sample_controllers(page: str) -> dict[str, ControllerSample]:
    """What a metrics page says of each controller; a controller that it does not mention is left out."""
    found = {}
    for name, service in CONTROLLERS.items():
        endpoints = [
            sample
            for sample in read_samples(page, f"control_{name}_balancer_endpoints")
            if sample.labels.get("endpoint_state") in ("ready", "pending")
        ]
        if endpoints:
            connected = sum(sample.value for sample in endpoints if sample.labels["endpoint_state"] == "ready")
            asked = _count(page, "control_request_total", service)
            answered = _count(page, "control_response_latency_ms_count", service)
            found[name] = ControllerSample(round(connected), asked, answered)
    return found


def sample_connections(
    sockets: Iterable[Socket], uid: int, destination: Collection[str], policy: Collection[str]
) -> dict[str, ControllerSample]:
    """What the kernel's sockets say of each controller, whose addresses are given; `uid` is the proxies'."""
    places = {"destination": (destination, DESTINATION_PORT), "policy": (policy, POLICY_PORT)}
    standing = [socket.remote for socket in sockets if socket.uid == uid and socket.state == ESTABLISHED]
    return {
        name: ControllerSample(sum(port == at and address in known for address, port in standing), 0, 0)
        for name, (known, at) in places.items()
        if known
    }


def _count(page: str, metric: str, service: str) -> int:
    samples = read_samples(page, metric)
    return round(sum(one.value for one in samples if one.labels.get("addr", "").startswith(f"{service}.")))


@dataclass(frozen=True)
class ControllerHealth:
    """What is known of one controller. `quiet_since`: since when nothing that was asked has been answered.

    `was_there`: it was connected at some look, so that one look without a connection means little.
    """

    last: ControllerSample | None = None
    misses: int = 0
    asked_at: float = 0.0
    quiet_since: float | None = None
    was_connected: bool = False

    def observe(self, sample: ControllerSample, now: float) -> "ControllerHealth":
        """Take a reading; one with smaller counts is that of another process."""
        last = self.last
        misses = 0 if sample.connected else self.misses + 1
        was_connected = self.was_connected or bool(sample.connected)
        if last is None or sample.asked < last.asked or sample.answered != last.answered:
            return ControllerHealth(sample, misses, now, None, was_connected)
        if sample.asked > last.asked:
            began = now if self.quiet_since is None else self.quiet_since
            return ControllerHealth(sample, misses, now, began, was_connected)
        # A question that somebody has taken back is not waited for: nobody asks it again.
        quiet_since = self.quiet_since if now - self.asked_at < SILENCE else None
        return ControllerHealth(sample, misses, self.asked_at, quiet_since, was_connected)

    def is_available(self, now: float) -> bool | None:
        """Whether it counts as there; None until there is a connection, or there has been time for one."""
        is_silent = self.quiet_since is not None and now - self.quiet_since >= SILENCE
        if self.misses >= MISSED_POLLS or is_silent:
            return False
        return True if self.was_connected else None


@dataclass(frozen=True)
class ControlPlaneHealth:
    """What is known of both."""

    destination: ControllerHealth = ControllerHealth()
    policy: ControllerHealth = ControllerHealth()

    def observe(self, samples: dict[str, ControllerSample], now: float) -> "ControlPlaneHealth":
        """Take what a page said."""
        return ControlPlaneHealth(
            self.destination.observe(samples["destination"], now) if "destination" in samples else self.destination,
            self.policy.observe(samples["policy"], now) if "policy" in samples else self.policy,
        )

    def is_available(self, now: float) -> bool | None:
        """Whether both count as there; None while that is not known."""
        found = [one.is_available(now) for one in (self.destination, self.policy) if one.last is not None]
        if not found or False in found:
            return False if found else None
        return None if None in found else True

    @property
    def is_settled(self) -> bool:
        """Whether nothing is in doubt: both were connected at the last look, and owe no answer."""
        return all(one.misses == 0 and one.quiet_since is None for one in (self.destination, self.policy))
