"""What the controller answers over HTTP: /healthz, /readyz and /metrics, for a kubelet and for Prometheus.

Rules: a thread of its own answers from the last snapshot, so that a busy event loop delays nobody; and an event loop
that no longer turns is found by exactly that: the snapshot grows old, and /healthz says 503. Standing by is ready, too.
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
        self.taken_at = time.monotonic()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in self.metrics:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            exposed = family(metric.name, metric.help, labels=metric.labels)
            for values, value in metric.samples.items():
                exposed.add_metric(values, value)
            yield exposed

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.taken_at < STUCK


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # a probe every second is no news
        log.debug(format, *args)


@asynccontextmanager
async def open_health(host: str, port: int, look: Callable[[], Iterable[Metric]]) -> AsyncIterator[int]:
    """Answer while open; yields the port. `look` gives the figures of the moment. Raises OSError."""
    snapshot = _Snapshot()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(snapshot)
    with make_server(host, port, _answer(snapshot, registry), _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()

        async def keep_looking() -> None:
            while True:
                snapshot.metrics, snapshot.taken_at = tuple(look()), time.monotonic()
                await trio.sleep(EVERY)

        snapshot.metrics = tuple(look())
        async with open_bare_nursery() as nursery:
            nursery.start_soon(supervise, "metrics", keep_looking)
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
