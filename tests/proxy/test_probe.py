"""Probes of an admin server, over real connections."""

import time
from datetime import timedelta

import pytest
import trio

from exclave.proxy.probe import ProbeResult, is_serving, leaf_not_after, open_probe, read_leaf
from support.mesh import mesh

from .admin import EXPIRY, SERVER_NAME, Admin, admin

SVID = mesh().svid(time.time())
END = leaf_not_after(SVID)


async def test_a_ready_proxy_shows_the_end_of_its_certificate() -> None:
    async with admin(200, f"# HELP x\ncontrol_{EXPIRY} {END}\n") as served:
        async with open_probe("127.0.0.1", served.port, SERVER_NAME) as probe:
            assert await probe.query(with_metrics=True) == ProbeResult(True, END)
            assert await probe.query(with_metrics=False) == ProbeResult(True)
    assert served.asked == ["/ready", "/metrics", "/ready"]


async def test_metrics_of_a_proxy_that_is_not_ready_are_not_requested() -> None:
    async with admin(503, "") as served:
        async with open_probe("127.0.0.1", served.port, SERVER_NAME) as probe:
            assert await probe.query(with_metrics=True) == ProbeResult(False)
    assert served.asked == ["/ready"]


REFUSALS: dict[str, tuple[str, int, bool, ProbeResult]] = {
    "a policy lets nobody ask": ("/ready /metrics", 403, True, ProbeResult(True, END, is_admin_denied=True)),
    "deny, before any policy has come": ("/ready /metrics", 404, True, ProbeResult(True, END, is_admin_denied=True)),
    "a limit by another program": ("/ready /metrics", 500, True, ProbeResult(True, END, is_admin_denied=True)),
    "routes that leave out the metrics": ("/metrics", 404, True, ProbeResult(True, END, is_admin_denied=True)),
    "refused, and nothing to serve yet": (
        "/ready /metrics",
        403,
        False,
        ProbeResult(False, None, is_admin_denied=True),
    ),
}


@pytest.mark.parametrize(("paths", "status", "certified", "result"), REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_denies_requests_is_probed_by_a_handshake(
    paths: str, status: int, certified: bool, result: ProbeResult
) -> None:
    async with admin(200, f"control_{EXPIRY} 1\n") as served:
        served.refused, served.refusal = frozenset(paths.split()), status
        if certified:
            served.load(SVID)
        async with open_probe("127.0.0.1", served.port, SERVER_NAME) as probe:
            assert await probe.query(with_metrics=True) == result
    assert is_serving(result, SVID) == certified


async def test_a_handshake_is_not_needed_where_an_answer_is_given() -> None:
    for ready, wants in ((200, True), (200, False), (503, True)):
        async with admin(ready, f"control_{EXPIRY} {END}\n") as served:
            async with open_probe("127.0.0.1", served.port, SERVER_NAME) as probe:
                await probe.query(with_metrics=wants)
        assert served.handshakes == 0


async def test_without_a_listener_there_is_no_answer() -> None:
    async with admin(200, "") as served:
        port = served.port
    async with open_probe("127.0.0.1", port, SERVER_NAME) as probe:
        assert await probe.query(with_metrics=True) is None


async def hang(_: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_a_proxy_that_hangs_gives_no_answer(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hang, 0)
        async with open_probe("127.0.0.1", listeners[0].socket.getsockname()[1], SERVER_NAME) as probe:
            assert await probe.query(with_metrics=True) is None
        nursery.cancel_scope.cancel()


def test_a_proxy_serves_our_certificate_only_if_it_shows_its_end() -> None:
    assert is_serving(ProbeResult(True, END), SVID)
    assert not is_serving(ProbeResult(True, END + 60), SVID)
    assert not is_serving(ProbeResult(True), SVID)
    assert not is_serving(ProbeResult(False, END), SVID)
    assert not is_serving(ProbeResult(True, END), None)


def test_the_end_of_the_leaf_counts_although_the_chain_s_comes_first() -> None:
    long = mesh().svid(time.time(), lifetime=timedelta(days=20_000))
    assert leaf_not_after(long) > long.not_after


TIMEOUT = 5.0


async def served_leaf(served: Admin, name: str = SERVER_NAME) -> bytes | None:
    return await read_leaf("127.0.0.1", served.port, name, TIMEOUT)


async def test_the_leaf_is_read_whatever_a_policy_says() -> None:
    async with admin(403) as served:
        served.load(SVID)
        assert await served_leaf(served) == SVID.chain[0]
        newer = mesh().svid(time.time())
        served.load(newer)
        assert await served_leaf(served) == newer.chain[0]
    assert served.asked == []


async def test_there_is_no_leaf_before_one_was_loaded_or_for_another_name() -> None:
    async with admin(200) as served:
        assert await served_leaf(served) is None
        served.load(SVID)
        assert await served_leaf(served, "db.shop.svc.cluster.local") is None


async def test_there_is_no_leaf_without_a_listener() -> None:
    async with admin(200) as served:
        pass
    assert await served_leaf(served) is None


async def test_a_server_that_hangs_is_waited_for_until_the_timeout(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hang, 0)
        began = trio.current_time()
        port = listeners[0].socket.getsockname()[1]
        assert await read_leaf("127.0.0.1", port, SERVER_NAME, TIMEOUT) is None
        assert trio.current_time() - began == pytest.approx(TIMEOUT)
        nursery.cancel_scope.cancel()
