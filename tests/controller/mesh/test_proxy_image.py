"""Linkerd's pods are read again and again."""

import pytest
import trio
import trio.testing

from exclave.api.requests import Object
from exclave.controller.mesh.proxy_image import EVERY, follow_images, read_images
from exclave.errors import ApiRefusal, ClusterError, Fault
from support.fake_cluster import FakeCluster

IMAGE, DIGEST = "cr.l5d.io/linkerd/proxy:edge-26.8.3", f"sha256:{'0a' * 32}"
POD: Object = {
    "spec": {"containers": [{"name": "linkerd-proxy", "image": IMAGE}]},
    "status": {"containerStatuses": [{"name": "linkerd-proxy", "imageID": f"cr.l5d.io/linkerd/proxy@{DIGEST}"}]},
}


async def test_a_few_pods_of_one_component_are_read() -> None:
    cluster = FakeCluster({"items": [POD]})
    assert await read_images(cluster, "linkerd") == {IMAGE: DIGEST}
    (request,) = cluster.requests
    assert (request.verb, request.path, request.query) == (
        "list",
        "/api/v1/namespaces/linkerd/pods",
        {"labelSelector": "linkerd.io/control-plane-component=destination", "limit": "20"},
    )


async def test_a_controller_that_may_not_read_pods_works_without_digests(caplog: pytest.LogCaptureFixture) -> None:
    assert await read_images(FakeCluster(ApiRefusal(403, "Forbidden", "no", "")), "linkerd") == {}
    assert "images of the proxy: pods in linkerd: " in caplog.text


async def test_images_are_read_again_after_a_failure(autojump_clock: trio.testing.MockClock) -> None:
    away = ClusterError(Fault.UNREACHABLE, "no server answers", "")
    cluster, found = FakeCluster(away, {"items": [POD]}), dict[str, str]()
    with trio.move_on_after(2.5 * EVERY):
        await follow_images(cluster, "linkerd", found.update)
    assert found == {IMAGE: DIGEST}
