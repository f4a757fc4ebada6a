"""Serves /healthz, /readyz and /metrics over HTTP, for a kubelet and for Prometheus.

A thread of its own answers from the last snapshot of the metrics, so a busy event loop delays no answer. If the event
loop has stopped, the snapshot grows old, and /healthz is 503. A replica that stands by is ready, too.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from exclave.controller.telemetry.metrics import Metric
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two snapshots."""

STUCK = 30.0
"""Seconds after which an event loop that takes no snapshot has stopped."""

CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class _Snapshot:
    """The last figures, and when they were taken; a collector for prometheus_client."""

    def __init__(self) -> None:
        self.metrics: tuple[Metric, ...] = ()
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
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # a probe comes every second
        log.debug(format, *args)


@asynccontextmanager
async def open_health(host: str, port: int, read: Callable[[], Iterable[Metric]]) -> AsyncIterator[int]:
    """Serve while open; yields the port. `look` gives the figures of the moment. Raises OSError."""
    snapshot = _Snapshot()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(snapshot)
    with make_server(host, port, _answer(snapshot, registry), _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()

        async def read_for_ever() -> None:
            while True:
                snapshot.metrics, snapshot.read_at = tuple(read()), time.monotonic()
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
            fresh = snapshot.is_fresh
            start("200 OK" if fresh else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"ok\n" if fresh else f"nothing has moved for {STUCK:.0f} s\n".encode()]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"there are /healthz, /readyz and /metrics\n"]

    return answer
