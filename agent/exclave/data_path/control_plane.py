"""Finds out whether Linkerd's controllers answer the proxy, by its metrics or by the kernel's sockets. Pure.

A new destination needs both controllers, so the worse one counts. Names of metrics: linkerd2-proxy,
linkerd/app/core/src/control.rs and metrics.rs.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from exclave.api.settings import DESTINATION_PORT, POLICY_PORT
from exclave.kit.host.sockets import ESTABLISHED, Socket
from exclave.proxy.metrics import read_samples

MISSED_POLLS = 2  # samples in a row without a connection after which a controller counts as away

SILENCE = 10.0  # seconds without an answer after which a controller is away; the proxy repeats a request after three

# The client's name in the proxy's metrics, and the first label of its controller's address.
CONTROLLERS = {"destination": "linkerd-dst-headless", "policy": "linkerd-policy"}


@dataclass(frozen=True)
class ControllerSample:
    """One controller: its connections now, and the requests and answers since the proxy's start."""

    connected: int
    asked: int
    answered: int


def sample_controllers(page: str) -> dict[str, ControllerSample]:
    """The sample of each controller in a metrics page; one that the page does not mention is left out."""
    found = {}
    # The proxy is always connected to each controller, so a loss is visible without a request.
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
    """The sample of each controller by the kernel's sockets, for when a policy denies the metrics.

    `uid` is the proxies' user. A controller without addresses is left out. Requests do not show, so a controller that
    accepts connections and never answers counts as available.
    """
    endpoints = {"destination": (destination, DESTINATION_PORT), "policy": (policy, POLICY_PORT)}
    connected = [socket.remote for socket in sockets if socket.uid == uid and socket.state == ESTABLISHED]
    return {
        name: ControllerSample(sum(port == at and address in addresses for address, port in connected), 0, 0)
        for name, (addresses, at) in endpoints.items()
        if addresses
    }


def _count(page: str, metric: str, service: str) -> int:
    samples = read_samples(page, metric)
    return round(sum(one.value for one in samples if one.labels.get("addr", "").startswith(f"{service}.")))


@dataclass(frozen=True)
class ControllerHealth:
    """The health of one controller, by its samples."""

    last: ControllerSample | None = None
    misses: int = 0  # samples in a row without a connection
    asked_at: float = 0.0
    quiet_since: float | None = None  # the first request after the last answer; None if all are answered
    was_connected: bool = False  # in any sample

    def observe(self, sample: ControllerSample, now: float) -> "ControllerHealth":
        """The health after one more sample. Smaller counts come from another process."""
        last, asked_at, quiet_since = self.last, now, self.quiet_since
        if last is None or sample.asked < last.asked or sample.answered != last.answered:
            quiet_since = None
        elif sample.asked > last.asked:
            quiet_since = now if quiet_since is None else quiet_since
        else:
            # A cancelled request is not repeated and gets no answer, so it counts for some time only.
            asked_at, quiet_since = self.asked_at, quiet_since if now - self.asked_at < SILENCE else None
        misses = 0 if sample.connected else self.misses + 1
        return ControllerHealth(sample, misses, asked_at, quiet_since, self.was_connected or bool(sample.connected))

    def is_available(self, now: float) -> bool | None:
        """True if it is available; None before its first connection, until it had time for one."""
        is_silent = self.quiet_since is not None and now - self.quiet_since >= SILENCE
        if self.misses >= MISSED_POLLS or is_silent:
            return False
        return True if self.was_connected else None


@dataclass(frozen=True)
class ControlPlaneHealth:
    """The health of both controllers."""

    destination: ControllerHealth = ControllerHealth()
    policy: ControllerHealth = ControllerHealth()

    def observe(self, samples: dict[str, ControllerSample], now: float) -> "ControlPlaneHealth":
        """The health after one more sample of each."""
        return replace(self, **{name: getattr(self, name).observe(sample, now) for name, sample in samples.items()})

    def is_available(self, now: float) -> bool | None:
        """True if both are available; None while unknown."""
        found = [one.is_available(now) for one in (self.destination, self.policy) if one.last is not None]
        if not found or False in found:
            return False if found else None
        return None if None in found else True

    @property
    def is_settled(self) -> bool:
        """True if both were connected at the last sample, and have answered every request."""
        return all(one.misses == 0 and one.quiet_since is None for one in (self.destination, self.policy))
