"""Health and metrics over real HTTP, read by prometheus_client's own parser."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from exclave.controller.telemetry import health
from exclave.controller.telemetry.health import open_health
from exclave.controller.telemetry.metrics import Metric

FIGURES = [
    Metric("exclave_members", "gauge", "Members", ("group", "state"), {("web", "serving"): 2.0}),
    Metric("exclave_api_requests", "counter", "Requests", ("verb", "code"), {("get", "200"): 5.0}),
]


async def ask(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def test_it_is_healthy_and_ready_and_serves_metrics() -> None:
    async with open_health("127.0.0.1", 0, lambda: FIGURES) as port:
        for path in ("/healthz", "/readyz"):
            assert (await ask(port, path)).status_code == 200
        answer = await ask(port, "/metrics")
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert samples == {
            ("exclave_members", frozenset({("group", "web"), ("state", "serving")})): 2.0,
            ("exclave_api_requests_total", frozenset({("verb", "get"), ("code", "200")})): 5.0,
        }
        assert (await ask(port, "/")).status_code == 404


async def test_an_event_loop_that_stands_still_is_not_healthy(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(health, "STUCK", 0.0)
    async with open_health("127.0.0.1", 0, lambda: FIGURES) as port:
        answer = await ask(port, "/healthz")
        assert (answer.status_code, answer.text) == (503, "nothing has moved for 0 s\n")
