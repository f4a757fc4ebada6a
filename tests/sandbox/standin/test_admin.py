"""The stand-in's admin server, asked by a client that we did not write."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from exclave.proxy.environment import proxy_environment
from exclave.proxy.metrics import read_expiry
from exclave.proxy.probe import leaf_not_after, read_leaf
from exclave_sandbox.standin.admin import Admin, Counts
from exclave_sandbox.standin.settings import read_environment
from exclave_sandbox.standin.tls import ProxyCertificate, Tls
from support.mesh import ADDRESS, make_settings, mesh


@asynccontextmanager
async def served(admin: Admin) -> AsyncIterator[int]:
    """Serve on loopback; the port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(admin.serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


SETTINGS = read_environment(
    proxy_environment(make_settings(), "web-1", (ADDRESS,), "a", Path("/run/w.sock"), "info", drain=5.0, families=(4,))
)


def make_admin(policy: str = "all-unauthenticated") -> tuple[Admin, Tls, Counts]:
    tls, counts = Tls(mesh().anchor.pem), Counts()
    return Admin(replace(SETTINGS, policy=policy), tls, counts), tls, counts


async def test_readiness_is_its_flag_and_answers_share_one_connection() -> None:
    admin, _, _ = make_admin()
    async with served(admin) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        before = await client.get("/ready")
        admin.is_ready = True
        after = await client.get("/ready")
        live = await client.get("/live")
        head = await client.head("/ready")
        ports = {answer.extensions["network_stream"].get_extra_info("client_addr") for answer in (before, live)}
    assert (before.status_code, before.text) == (503, "not ready\n")
    assert (after.status_code, after.text) == (200, "ready\n")
    assert (live.status_code, live.text) == (200, "live\n")
    assert (head.status_code, head.content) == (200, b"")
    assert len(ports) == 1


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/shutdown", 404), ("POST", "/ready", 405)])
async def test_nothing_else_is_answered(method: str, path: str, status: int) -> None:
    async with served(make_admin()[0]) as port:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(method, f"http://127.0.0.1:{port}{path}")
    assert answer.status_code == status


async def test_another_protocol_is_disconnected_and_the_next_client_is_served() -> None:
    async with served(make_admin()[0]) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"this is no HTTP\r\n\r\n")
        assert await stream.receive_some() == b""
        await stream.aclose()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/live")).status_code == 200


async def test_loopback_is_allowed_once_the_policy_has_arrived() -> None:
    admin, _, _ = make_admin("deny")
    async with served(admin) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.get("/live")).status_code == 404
        admin.arrived.add(4191)
        assert (await client.get("/live")).status_code == 200


async def test_tls_for_its_name_is_terminated_and_other_names_are_disconnected() -> None:
    admin, tls, _ = make_admin("deny")
    async with served(admin) as port:
        assert await read_leaf("127.0.0.1", port, SETTINGS.server_name, 5.0) is None  # nothing to show yet
        svid = mesh().svid(time.time())
        tls.load(ProxyCertificate(svid.chain, svid.key))
        assert await read_leaf("127.0.0.1", port, SETTINGS.server_name, 5.0) == svid.chain[0]
        assert await read_leaf("127.0.0.1", port, "db.shop.svc.cluster.local", 5.0) is None


def test_metrics_have_the_certificates_expiry_and_a_count() -> None:
    admin, tls, _ = make_admin()
    assert read_expiry(admin.metrics()) is None
    assert 'control_identity_cert_refreshes_total{result="ok"} 0\n' in admin.metrics()
    svid = mesh().svid(time.time())
    tls.load(ProxyCertificate(svid.chain, svid.key))
    assert read_expiry(admin.metrics()) == leaf_not_after(svid)
    assert 'control_identity_cert_refreshes_total{result="ok"} 1\n' in admin.metrics()


def test_counters_have_labels_that_prometheus_can_read() -> None:
    counts = Counts()
    for _ in range(2):
        counts.add("request_total", (("direction", "inbound"), ("client_id", 'a "b"\\c\nd')))
    counts.add("request_total", (("direction", "outbound"),))
    assert counts.render() == [
        'request_total{direction="inbound",client_id="a \\"b\\"\\\\c\\nd"} 2',
        'request_total{direction="outbound"} 1',
    ]
