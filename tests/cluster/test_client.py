"""The cluster's client: against a server that misbehaves on demand, then against the sandbox's API server."""

import itertools
import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from exclave.api.requests import (
    CONFIG_MAPS,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Object,
    create,
    create_token,
    delete,
    get,
    patch,
)
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.http import Waits
from exclave.cluster.watch import Listed, Removed, Upserted
from exclave.errors import ApiRefusal, ClusterError, Fault
from exclave_sandbox.pki import make_anchor
from support.https_server import Asked, Reply, Served, open_https
from support.mesh_cluster import RunningApiServer, running_apiserver
from support.needs import free_port

ASK = get(CONFIG_MAPS, "shop", "a")


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time beside real sockets: it jumps only when those have been quiet for a moment."""
    return trio.testing.MockClock(autojump_threshold=0.05)


def cluster_of(served: Served) -> AbstractAsyncContextManager[Cluster]:
    return open_cluster(Access((served.url,), served.ca), lambda: "s3cret", draw=lambda: 0.0)


async def answer_ok(asked: Asked, reply: Reply) -> None:
    await reply.send(200, {"kind": "ConfigMap"})


async def test_a_patient_request_outlasts_overload_and_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    async def recover(asked: Asked, reply: Reply) -> None:
        times.append(trio.current_time())
        if len(times) == 1:
            await reply.send(429, {"kind": "Status", "reason": "TooManyRequests"}, Retry_After="20")
        elif len(times) == 2:
            await reply.send(500, {"kind": "Status", "reason": "InternalError"})
        elif len(times) == 3:
            await reply.cut()
        elif len(times) == 4:
            await reply.send(503, b"starting")
        else:
            await answer_ok(asked, reply)

    times: list[float] = []
    async with open_https(recover) as served, cluster_of(served) as cluster:
        assert await cluster.send_patiently(ASK) == {"kind": "ConfigMap"}
        assert cluster.counts == {
            ("get", "429"): 1,
            ("get", "500"): 1,
            ("get", ""): 1,
            ("get", "503"): 1,
            ("get", "200"): 1,
        }
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == pytest.approx([20, 1, 2, 4], abs=0.2)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 422])
async def test_a_patient_request_raises_what_asking_again_cannot_mend(status: int) -> None:
    async def refuse(asked: Asked, reply: Reply) -> None:
        await reply.send(status, {"kind": "Status", "reason": reason, "code": status, "details": {"name": "a"}})

    reason = "NotFound" if status == 404 else "Because"
    async with open_https(refuse) as served, cluster_of(served) as cluster:
        with pytest.raises(ApiRefusal) as caught:
            await cluster.send_patiently(ASK)
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert len(served.asked) == 1


ELSEWHERE: dict[str, tuple[int, object]] = {
    "a load balancer": (404, b"404 page not found\n"),
    "a kind that is not served yet": (
        404,
        {"kind": "Status", "reason": "NotFound", "code": 404, "message": "the server could not find the resource"},
    ),
    "another object": (404, {"kind": "Status", "reason": "NotFound", "code": 404, "details": {"name": "b"}}),
    "details of another type": (404, {"kind": "Status", "reason": "NotFound", "code": 404, "details": ["a"]}),
    "no Status": (404, {"kind": "ConfigMap", "reason": "NotFound", "code": 404, "details": {"name": "a"}}),
    "another code": (404, {"kind": "Status", "reason": "NotFound", "code": 200, "details": {"name": "a"}}),
    "a gateway without this client": (401, b"who are you"),
    "a gateway that forbids": (403, b"<html>forbidden</html>"),
    "a page that has moved": (301, b""),
    "an empty conflict": (409, b""),
    "an empty end": (410, b""),
    "a list": (404, [1]),
}
"""Refusals that no API server gives to a request for ConfigMap a."""


@pytest.mark.parametrize(("status", "body"), ELSEWHERE.values(), ids=ELSEWHERE)
async def test_a_refusal_of_something_else_than_the_api_server_is_no_answer(
    status: int, body: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(asked: Asked, reply: Reply) -> None:
        if len(served.asked) <= 2:
            await reply.send(status, body)
        else:
            await answer_ok(asked, reply)

    async with open_https(answer) as served, cluster_of(served) as cluster:
        with pytest.raises(ClusterError, match=f"answered {status} without a Status for what was requested") as caught:
            await cluster.send(ASK)
        assert (caught.value.fault, type(caught.value)) == (Fault.UNREACHABLE, ClusterError)
        assert not cluster.reachable.value
        assert await cluster.send_patiently(ASK) == {"kind": "ConfigMap"}


async def test_a_plain_request_reports_overload_at_once() -> None:
    async def busy(asked: Asked, reply: Reply) -> None:
        await reply.send(503, b"")

    async with open_https(busy) as served, cluster_of(served) as cluster:
        with pytest.raises(ApiRefusal):
            await cluster.send(ASK)
    assert len(served.asked) == 1


async def test_a_wait_is_published_after_fifteen_seconds_until_the_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(asked: Asked, reply: Reply) -> None:
        if trio.current_time() < recovers:
            await reply.send(503, {"kind": "Status", "message": "starting"})
        else:
            await answer_ok(asked, reply)

    caplog.set_level(logging.INFO, "exclave")
    recovers = trio.current_time() + 60
    async with open_https(late) as served, cluster_of(served) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(cluster.send_patiently, ASK)
        await trio.sleep(14)
        assert cluster.waiting.value is None
        said = await cluster.waiting.wait_for(lambda line: line is not None)
        assert said == f"to get configmaps a: {served.url} could not get configmaps a now (503): starting"
        await cluster.waiting.wait_for(lambda line: line is None)
    assert caplog.messages[0].startswith("waiting for 15 s to get configmaps a: ")
    assert "no longer waiting" in caplog.messages[1]


def listed(version: int, *items: Object) -> Object:
    return {"kind": "ConfigMapList", "metadata": {"resourceVersion": str(version)}, "items": list(items)}


def config_map(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


async def test_a_silent_stream_is_closed_and_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    async def fall_silent(asked: Asked, reply: Reply) -> None:
        if "watch=1" not in asked.target:
            return await reply.send(200, listed(4))
        opened.append(trio.current_time())
        await reply.start(200, Transfer_Encoding="chunked")
        if len(opened) == 1:
            await trio.sleep_forever()
        await reply.line({"type": "ADDED", "object": config_map("a", 5)})
        await trio.sleep_forever()
        return None

    opened: list[float] = []
    async with open_https(fall_silent) as served, cluster_of(served) as cluster:
        async with cluster.watch(CONFIG_MAPS, "shop") as events:
            assert await events.__anext__() == Listed(())
            assert await events.__anext__() == Upserted(config_map("a", 5))
    assert opened[1] - opened[0] == pytest.approx(240 + 15 + 1, abs=1)


async def test_a_watch_whose_right_is_revoked_ends_with_the_refusal() -> None:
    async def forbid(asked: Asked, reply: Reply) -> None:
        if "watch=1" in asked.target:
            await reply.send(403, {"kind": "Status", "reason": "Forbidden", "message": "no longer"})
        else:
            await reply.send(200, listed(4))

    async with open_https(forbid) as served, cluster_of(served) as cluster:
        with pytest.raises(ApiRefusal) as caught:
            async with cluster.watch(CONFIG_MAPS, "shop") as events:
                async for _ in events:
                    pass
    assert caught.value.status == 403


async def test_what_the_reader_of_a_watch_raises_comes_out_as_itself() -> None:
    async def empty(asked: Asked, reply: Reply) -> None:
        await reply.send(200, listed(4))

    async with open_https(empty) as served, cluster_of(served) as cluster:
        with pytest.raises(KeyError):
            async with cluster.watch(CONFIG_MAPS, "shop") as events:
                async for _ in events:
                    raise KeyError("mine")


async def test_a_reader_that_times_out_loses_no_event() -> None:
    async def two_events(asked: Asked, reply: Reply) -> None:
        if "watch=1" not in asked.target:
            return await reply.send(200, listed(4))
        await reply.start(200, Transfer_Encoding="chunked")
        await more.wait()
        await reply.line({"type": "ADDED", "object": config_map("a", 5)})
        await trio.sleep_forever()
        return None

    more = trio.Event()
    async with open_https(two_events) as served, cluster_of(served) as cluster:
        async with cluster.watch(CONFIG_MAPS, "shop") as events:
            assert await events.__anext__() == Listed(())
            with trio.CancelScope() as impatient:
                impatient.cancel()
                await events.__anext__()
            more.set()
            assert await events.__anext__() == Upserted(config_map("a", 5))
    assert len(served.asked) == 2


@pytest.mark.slow
async def test_two_hundred_cancelled_requests_and_watches_do_no_harm() -> None:
    """Debian 12's httpcore would be dead after a hundred."""

    async def answer_later(asked: Asked, reply: Reply) -> None:
        await recovered.wait()
        if "watch=1" in asked.target:
            await reply.start(200, Transfer_Encoding="chunked")
            await reply.line({"type": "ADDED", "object": config_map("a", 5)})
            await trio.sleep_forever()
        await reply.send(200, listed(4))

    async def watch_once() -> None:
        async with cluster.watch(CONFIG_MAPS, "shop") as events:
            assert await events.__anext__() == Listed(())
            assert await events.__anext__() == Upserted(config_map("a", 5))

    recovered = trio.Event()
    async with open_https(answer_later) as served, cluster_of(served) as cluster:
        for round_ in range(2):  # the second time, what is cancelled has been answered before
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(cluster.send, ASK)
                    nursery.start_soon(watch_once)
                if round_:
                    recovered.set()
                await trio.testing.wait_all_tasks_blocked(0.02 if round_ == 0 else 0)
                nursery.cancel_scope.cancel()
        with trio.fail_after(60):
            assert await cluster.send(ASK)
            await watch_once()


# Against the sandbox's API server.


def shop_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": data}


async def furnish(cluster: Cluster) -> None:
    await cluster.send(
        create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    )


def admin_of(server: RunningApiServer) -> AbstractAsyncContextManager[Cluster]:
    return open_cluster(server.access, lambda: server.admin_token)


async def test_objects_are_made_changed_read_and_deleted(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as server, admin_of(server) as cluster:
        await furnish(cluster)
        await cluster.send(create(CONFIG_MAPS, "shop", shop_map("a", k="1")))
        changed = await cluster.send(patch(CONFIG_MAPS, "shop", "a", {"data": {"k": "2"}}))
        assert changed["data"] == {"k": "2"}
        assert (await cluster.send(get(CONFIG_MAPS, "shop", "a")))["data"] == {"k": "2"}
        with pytest.raises(ApiRefusal) as taken:
            await cluster.send(create(CONFIG_MAPS, "shop", shop_map("a")))
        assert (taken.value.status, taken.value.reason) == (409, "AlreadyExists")
        await cluster.send(delete(CONFIG_MAPS, "shop", "a"))
        with pytest.raises(ApiRefusal) as missing:
            await cluster.send(get(CONFIG_MAPS, "shop", "a"))
        assert (missing.value.status, missing.value.reason) == (404, "NotFound")
        assert cluster.skew is not None
        assert abs(cluster.skew) < 5


async def test_a_refusal_names_the_account(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as server, admin_of(server) as admin:
        await furnish(admin)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "shop"}}
        await admin.send(create(SERVICE_ACCOUNTS, "shop", account))
        token = (await admin.send(create_token("shop", "nobody", 600)))["status"]["token"]
        async with open_cluster(server.access, lambda: token) as cluster:
            with pytest.raises(ApiRefusal) as caught:
                await cluster.send(get(CONFIG_MAPS, "shop", "a"))
            assert caught.value.message.startswith(
                f"{cluster.server} does not permit system:serviceaccount:shop:nobody to get configmaps a"
            )
            await admin.send(delete(SERVICE_ACCOUNTS, "shop", "nobody"))
            with pytest.raises(ApiRefusal) as dead:
                await cluster.send(get(CONFIG_MAPS, "shop", "a"))
            assert dead.value.message.startswith(
                f"{cluster.server} does not accept the token of system:serviceaccount:shop:nobody"
            )


async def test_a_collection_is_followed_through_an_outage(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_apiserver(tmp_path) as server, admin_of(server) as cluster:
        await furnish(cluster)
        await cluster.send(create(CONFIG_MAPS, "shop", shop_map("a")))
        async with cluster.watch(CONFIG_MAPS, "shop") as events:
            first = await events.__anext__()
            assert isinstance(first, Listed)
            assert [found["metadata"]["name"] for found in first.objects] == ["a"]
            await cluster.send(create(CONFIG_MAPS, "shop", shop_map("b")))
            assert name_of(await events.__anext__()) == "b"
            await server.server.close()
            waiting = await cluster.waiting.wait_for(lambda line: line is not None)
            assert waiting == f"to watch configmaps: {cluster.server} refuses connections: no API server listens there"
            assert not cluster.reachable.value
            await server.server.open()
            await cluster.send_patiently(create(CONFIG_MAPS, "shop", shop_map("c")))
            assert name_of(await events.__anext__()) == "c"
            await cluster.send(delete(CONFIG_MAPS, "shop", "a"))
            gone = await events.__anext__()
            assert isinstance(gone, Removed)
            assert name_of(gone) == "a"


async def test_one_object_is_followed_without_a_right_to_list(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_apiserver(tmp_path) as server, admin_of(server) as admin:
        await furnish(admin)
        token = await token_that_may(admin, ["get", "watch"])
        async with open_cluster(server.access, lambda: token) as cluster:
            with pytest.raises(ApiRefusal):
                async with cluster.watch(CONFIG_MAPS, "shop") as refused:
                    await refused.__anext__()
            async with cluster.watch(CONFIG_MAPS, "shop", "a") as events:
                missing = await events.__anext__()
                assert missing == Removed({"metadata": {"name": "a", "namespace": "shop"}})
                await admin.send(create(CONFIG_MAPS, "shop", shop_map("a", k="1")))
                await admin.send(create(CONFIG_MAPS, "shop", shop_map("b")))
                assert data_of(await events.__anext__()) == {"k": "1"}
                await admin.send(patch(CONFIG_MAPS, "shop", "a", {"data": {"k": "2"}}))
                assert data_of(await events.__anext__()) == {"k": "2"}
                await admin.send(delete(CONFIG_MAPS, "shop", "a"))
                assert isinstance(await events.__anext__(), Removed)


async def test_a_watch_that_loops_is_published_until_it_works(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def expire(asked: Asked, reply: Reply) -> None:
        if "watch=1" in asked.target and trio.current_time() < works_from:
            await reply.send(410, {"kind": "Status", "reason": "Expired", "message": "too old"})
        elif "watch=1" in asked.target:
            await reply.start(200)
            await reply.line({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
            await trio.sleep(100)
        else:
            await reply.send(200, {"metadata": {"name": "a", "resourceVersion": "5"}})

    caplog.set_level(logging.INFO, "exclave")
    works_from = trio.current_time() + 60
    async with open_https(expire) as served, cluster_of(served) as cluster:
        async with cluster.watch(CONFIG_MAPS, "shop", "a") as events:
            await events.__anext__()
            why = await cluster.looping.wait_for(lambda text: text is not None)
            assert why == "configmaps a in shop: the version to watch from is too old; 3 times in a row"
            waiting = await cluster.waiting.wait_for(lambda text: text is not None)
            assert waiting == "to watch configmaps a: the version to watch from is too old"
            assert trio.current_time() < works_from, "reported while it loops, although each read is answered"
            await cluster.looping.wait_for(lambda text: text is None)
            assert trio.current_time() >= works_from
        assert "the watch of configmaps a in shop works again" in caplog.text


async def test_a_loop_is_forgotten_with_its_watch(autojump_clock: trio.testing.MockClock) -> None:
    async def expire(asked: Asked, reply: Reply) -> None:
        if "watch=1" in asked.target:
            await reply.send(410, {"kind": "Status", "reason": "Expired", "message": "too old"})
        else:
            await reply.send(200, {"metadata": {"name": "a", "resourceVersion": "5"}})

    async with open_https(expire) as served, cluster_of(served) as cluster:
        async with cluster.watch(CONFIG_MAPS, "shop", "a") as events:
            await events.__anext__()
            await cluster.looping.wait_for(lambda text: text is not None)
        assert cluster.looping.value is None


async def test_a_patient_request_waits_for_the_server_to_come_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running_apiserver(tmp_path) as server, admin_of(server) as cluster:
        await server.server.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(furnish_patiently, cluster)
            await cluster.waiting.wait_for(lambda line: line is not None)
            await server.server.open()
        assert cluster.reachable.value
        with pytest.raises(ClusterError):
            await cluster.send(create(NAMESPACES, None, {"metadata": {"name": "shop"}}))


async def furnish_patiently(cluster: Cluster) -> None:
    await cluster.send_patiently(create(NAMESPACES, None, {"metadata": {"name": "shop"}}))


async def token_that_may(admin: Cluster, verbs: list[str]) -> str:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": "shop"}}
    await admin.send(create(SERVICE_ACCOUNTS, "shop", account))
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}
    rbac = "rbac.authorization.k8s.io"
    named = {"apiVersion": f"{rbac}/v1", "metadata": {"name": "reader", "namespace": "shop"}}
    await admin.send(create(ROLES, "shop", {**named, "kind": "Role", "rules": [rule]}))
    who = {
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "shop"}],
    }
    await admin.send(create(ROLE_BINDINGS, "shop", {**named, "kind": "RoleBinding", **who}))
    return str((await admin.send(create_token("shop", "reader", 600)))["status"]["token"])


def name_of(event: object) -> str:
    assert isinstance(event, Upserted | Removed)
    return str(event.object["metadata"]["name"])


def data_of(event: object) -> object:
    assert isinstance(event, Upserted)
    return event.object["data"]


async def test_a_short_wait_leaves_no_trace(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        for _ in range(3):
            with waits.over("to get members web-1"):
                await trio.sleep(14.9)
                assert waits.latest.value is None
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_a_long_wait_is_published_and_logged_with_the_newest_reason(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        with waits.over("to get members web-1") as wait:
            await trio.sleep(5)
            waits.explain(wait, "it is away")
            await trio.sleep(10.1)
            assert waits.latest.value == "to get members web-1: it is away"
            waits.explain(wait, "it is busy")
            await trio.sleep(20)
            assert waits.latest.value == "to get members web-1: it is busy"
        await trio.testing.wait_all_tasks_blocked()
        assert waits.latest.value is None
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for 15 s to get members web-1: it is away",
        "no longer waiting after 35 s: to get members web-1",
    ]


async def test_the_oldest_of_several_long_waits_is_published(autojump_clock: trio.testing.MockClock) -> None:
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.announce)
        first = waits.begin("first")
        await trio.sleep(1)
        second = waits.begin("second")
        await trio.sleep(20)
        assert waits.latest.value == "first: no answer yet"
        waits.end(first)
        await trio.testing.wait_all_tasks_blocked()
        assert waits.latest.value == "second: no answer yet"
        waits.end(second)
        nursery.cancel_scope.cancel()


async def test_the_servers_ca_is_replaced_while_requests_go_on() -> None:
    old, new, port = make_anchor("old CA"), make_anchor("new CA"), free_port()
    async with open_cluster(Access((f"https://127.0.0.1:{port}",), old.pem), lambda: "t") as cluster:
        async with open_https(answer_ok, anchor=old, port=port) as served:
            await cluster.send(ASK)
            for connections in (2, 2):  # the second time nothing is new
                cluster.trust(old.pem + new.pem)
                await cluster.send(ASK)
                assert served.connections == connections
        async with open_https(answer_ok, anchor=new, port=port):
            assert (await cluster.send(ASK))["kind"] == "ConfigMap"
        with pytest.raises(ClusterError, match="the cluster's CA was expected to be certificates in PEM"):
            cluster.trust("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
