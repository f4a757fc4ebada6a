"""The controller's metrics, and a server of /healthz, /readyz and /metrics for a kubelet and for Prometheus.

A thread answers from the last snapshot, so a busy event loop delays no answer. If the event loop has stopped, the
snapshot is old, and /healthz and /readyz return 503. A replica that stands by is ready, too. One with a watch that
loops is not: /readyz has the reason.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import SHUT_RDWR, socket
from socketserver import ThreadingMixIn
from typing import Any, Literal
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from exclave.api.member import MemberView, view_member
from exclave.api.names import group_of_member
from exclave.api.requests import Object
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two snapshots
MOST_CONNECTIONS = 32  # a kubelet and a few Prometheus servers ask, each over one connection at a time
LONGEST = 5.0  # seconds that a connection may last: everybody in the cluster may open one, and send nothing
STUCK = 30.0  # seconds without a snapshot after which the event loop counts as stopped

CONTENT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metric:
    """One metric: its samples by the values of its labels."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()
    samples: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def state_of_member(view: MemberView) -> str:
    """The state of a member in one word, by its conditions."""
    if view.deleting:
        return "leaving"
    if view.admitted is None or not view.admitted.status:
        return "refused" if view.admitted is not None else "new"
    if view.live is None or not view.live.status:
        return "not-live"
    if view.cordoned:
        return "cordoned"
    return "serving" if view.serving else "starting"


class MemberStates:
    """Counts members by state. Metrics are read each second, but a Member only after a change."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[Object, tuple[str, str]]] = {}

    def count(self, members: Mapping[tuple[str, str], Object]) -> Counter[tuple[str, str]]:
        """Members by group and state. Objects are replaced, never modified."""
        before, self._states = self._states, {}
        for key, member in members.items():
            found = before.get(key)
            if found is None or found[0] is not member:
                view = view_member(member)
                found = member, (group_of_member(view.name), state_of_member(view))
            self._states[key] = found
        return Counter(state for _, state in self._states.values())


def controller_metrics(
    *,
    leads: bool,
    members: Counter[tuple[str, str]],
    groups: int,
    refused_groups: int,
    transitions: Counter[str],
    requests: Counter[tuple[str, str]],
    issuer_ends: float | None,
    policies_installed: bool,
    heartbeat: float,
) -> list[Metric]:
    """All metrics of a leader; a replica that stands by has two. `members` are by group and state."""
    found = [
        Metric("exclave_controller_leads", "gauge", "1 where this replica leads", (), {(): float(leads)}),
        Metric(
            "exclave_api_requests",
            "counter",
            "Requests to the API server; code is empty where nobody answered",
            ("verb", "code"),
            {key: float(count) for key, count in requests.items()},
        ),
    ]
    if not leads:
        return found
    return [
        *found,
        Metric("exclave_members", "gauge", "Members by group and state", ("group", "state"),
               {key: float(count) for key, count in members.items()}),
        Metric("exclave_groups", "gauge", "Groups, and whether they are accepted", ("accepted",),
               {("true",): float(groups - refused_groups), ("false",): float(refused_groups)}),
        Metric("exclave_controller_steps", "counter", "Steps carried out", ("step",),
               {(transition,): float(count) for transition, count in transitions.items()}),
        Metric("exclave_issuer_not_after_seconds", "gauge", "When the issuer's chain ends, epoch seconds", (),
               {} if issuer_ends is None else {(): issuer_ends}),
        Metric("exclave_guard_stands", "gauge", "1 while the admission policies stand as installed", (),
               {(): float(policies_installed)}),
        Metric("exclave_heartbeat_interval_seconds", "gauge", "Seconds between a member's heartbeats", (),
               {(): heartbeat}),
    ]  # fmt: skip


class _Snapshot:
    def __init__(self) -> None:
        self.metrics: tuple[Metric, ...] = ()
        self.fault: str | None = None
        self.read_at = time.monotonic()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in self.metrics:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            exposed = family(metric.name, metric.help, labels=metric.labels)
            for values, value in metric.samples.items():
                exposed.add_metric(values, value)
            yield exposed

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.read_at < STUCK


class _Server(ThreadingMixIn, WSGIServer):
    """One thread for each connection, `MOST_CONNECTIONS` at most, each for `LONGEST` seconds at most."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        self._open: dict[socket, float] = {}  # when each connection began, the oldest first
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection. One connection too many ends the oldest: a probe's answer takes milliseconds."""
        with self._lock:
            self._open[request] = time.monotonic()
            if len(self._open) > MOST_CONNECTIONS:
                self._end(next(iter(self._open)))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what has lasted too long. `serve_forever` calls this at least twice a second."""
        with self._lock:
            for request, began in list(self._open.items()):
                if time.monotonic() - began > LONGEST:
                    self._end(request)

    def _end(self, request: socket) -> None:
        # Its thread is reading or writing: that fails now, and the thread closes the socket.
        del self._open[request]
        with suppress(OSError):
            request.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that broke, which is nobody's fault."""
        log.debug("a connection of %s broke", client_address, exc_info=True)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # a probe comes every second
        log.debug(format, *args)


@asynccontextmanager
async def open_health(
    host: str, port: int, read: Callable[[], Iterable[Metric]], read_fault: Callable[[], str | None]
) -> AsyncIterator[int]:
    """Serve while open; yields the port. Raises OSError.

    `read` returns the current metrics, `read_fault` the reason why this replica is not ready.
    """
    snapshot = _Snapshot()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(snapshot)
    with make_server(host, port, _answer(snapshot, registry), _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()

        async def read_for_ever() -> None:
            while True:
                snapshot.metrics, snapshot.fault, snapshot.read_at = tuple(read()), read_fault(), time.monotonic()
                await trio.sleep(EVERY)

        snapshot.metrics = tuple(read())
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "metrics", read_for_ever)
            yield server.server_port
            nursery.cancel_scope.cancel()
        server.shutdown()
        thread.join()


def _answer(snapshot: _Snapshot, registry: CollectorRegistry) -> Callable[..., list[bytes]]:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            start("200 OK", [("Content-Type", CONTENT)])
            return [generate_latest(registry)]
        if path in ("/healthz", "/readyz"):
            fault = snapshot.fault if path == "/readyz" else None
            if not snapshot.is_fresh:
                fault = f"nothing has moved for {STUCK:.0f} s"
            start("503 Service Unavailable" if fault else "200 OK", [("Content-Type", "text/plain")])
            return [f"{fault or 'ok'}\n".encode()]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there are /healthz, /readyz and /metrics\n"]

    return answer
