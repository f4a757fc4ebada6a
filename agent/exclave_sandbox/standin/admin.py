"""The admin server of the stand-in proxy: `/ready`, `/live`, `/metrics`, as linkerd2-proxy answers them.

TLS for the proxy's own name is terminated; then the policy decides on each request. Of linkerd2-proxy's metrics only
those exist that the demo and the tests read.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import h11
import trio

from exclave_sandbox.http1 import Answer, serve_requests
from exclave_sandbox.standin.settings import StandinSettings, refusal_of_admin
from exclave_sandbox.standin.stream import BROKEN, PeekedStream
from exclave_sandbox.standin.tls import Tls

Labels = tuple[tuple[str, str], ...]


class Counts:
    """Counters and gauges by name and labels."""

    def __init__(self) -> None:
        self._counters: Counter[tuple[str, Labels]] = Counter()

    @contextmanager
    def open(self, name: str, labels: Labels) -> Iterator[None]:
        """Add one while open."""
        self._counters[name, labels] += 1
        try:
            yield
        finally:
            self._counters[name, labels] -= 1

    def add(self, name: str, labels: Labels) -> None:
        """Add one."""
        self._counters[name, labels] += 1

    def set(self, name: str, labels: Labels, value: int) -> None:
        """Set a gauge."""
        self._counters[name, labels] = value

    def render(self) -> list[str]:
        """Lines in Prometheus' text format."""
        lines = []
        for (name, labels), value in sorted(self._counters.items()):
            written = ",".join(f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in labels)
            lines.append(f"{name}{{{written}}} {value}")
        return lines


class Admin:
    """The admin server. `arrived`: the ports whose policies have arrived."""

    def __init__(self, settings: StandinSettings, tls: Tls, counts: Counts) -> None:
        self._settings = settings
        self._tls = tls
        self._counts = counts
        self.is_ready = False
        self.arrived: set[int] = set()

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        """Serve for ever."""
        await trio.serve_listeners(self._talk, listeners)

    def answer(self, method: bytes, target: bytes) -> tuple[int, str]:
        """Status and body."""
        if method not in (b"GET", b"HEAD"):
            return 405, ""
        if target == b"/ready":
            return (200, "ready\n") if self.is_ready else (503, "not ready\n")
        if target == b"/live":
            return 200, "live\n"
        return (200, self.metrics()) if target == b"/metrics" else (404, "")

    def metrics(self) -> str:
        """The metrics page."""
        lines = [f'control_identity_cert_refreshes_total{{result="ok"}} {self._tls.refreshes}']
        if self._tls.expires is not None:
            lines.append(f"control_identity_cert_expiration_timestamp_seconds {self._tls.expires:.0f}")
        return "\n".join([*lines, *self._counts.render(), ""])

    async def _talk(self, stream: trio.SocketStream) -> None:
        peer = stream.socket.getpeername()[0]
        async with stream:
            try:
                accepted, client_id, _ = await self._tls.accept_for(PeekedStream(stream), self._settings.server_name)
            except (*BROKEN, EOFError, ValueError):
                return
            await serve_requests(accepted, partial(self._respond, peer, client_id))

    def _respond(self, peer: str, client_id: str | None, request: h11.Request) -> Answer:
        settings = self._settings
        refused = refusal_of_admin(
            settings.policy, settings.cluster_networks, peer, client_id, has_arrived=settings.admin[1] in self.arrived
        )
        status, text = self.answer(request.method, request.target) if refused is None else (refused, "")
        return status, "text/plain", text.encode()
