"""Which images of the proxy Linkerd's pods run."""

import pytest
import trio
import trio.testing

from exclave.api.requests import Object
from exclave.controller.mesh.proxy_image import EVERY, follow_images, read_images, running_images
from exclave.errors import ApiRefusal, ClusterError, Fault
from support.fake_cluster import FakeCluster

IMAGE, OTHER = "cr.l5d.io/linkerd/proxy:edge-26.8.3", "cr.l5d.io/linkerd/proxy:edge-26.8.2"
DIGEST, ANOTHER = f"sha256:{'0a' * 32}", f"sha256:{'1b' * 32}"


def pod(image: object, image_id: object, *, kind: str = "", name: str = "linkerd-proxy") -> Object:
    """A pod with a container, or with a container of this `kind`, in which `image_id` runs."""
    lists = ("initContainers", "initContainerStatuses") if kind == "init" else ("containers", "containerStatuses")
    destination = {"name": "destination", "image": "cr.l5d.io/linkerd/controller:edge-26.8.3"}
    containers = [destination, {"name": name, "image": image}]
    statuses = [{"name": name, "imageID": image_id}, {**destination, "imageID": f"x@{ANOTHER}"}]
    return {"metadata": {"name": "one"}, "spec": {lists[0]: containers}, "status": {lists[1]: statuses}}


PODS: dict[str, tuple[list[Object], dict[str, str]]] = {
    "as containerd names it": ([pod(IMAGE, f"cr.l5d.io/linkerd/proxy@{DIGEST}")], {IMAGE: DIGEST}),
    "as Docker names it": ([pod(IMAGE, f"docker-pullable://cr.l5d.io/linkerd/proxy@{DIGEST}")], {IMAGE: DIGEST}),
    "as a native sidecar": ([pod(IMAGE, f"x@{DIGEST}", kind="init")], {IMAGE: DIGEST}),
    "several pods with the same": ([pod(IMAGE, f"x@{DIGEST}")] * 3, {IMAGE: DIGEST}),
    "in the middle of an upgrade": (
        [pod(IMAGE, f"x@{DIGEST}"), pod(OTHER, f"x@{ANOTHER}")], {IMAGE: DIGEST, OTHER: ANOTHER},
    ),
    "a tag that was moved": ([pod(IMAGE, f"x@{DIGEST}"), pod(IMAGE, f"x@{ANOTHER}")], {}),
    "one that was loaded on the node": ([pod(IMAGE, DIGEST)], {}),
    "one that does not run yet": ([{"spec": {"containers": [{"name": "linkerd-proxy", "image": IMAGE}]}}], {}),
    "another container": ([pod(IMAGE, f"x@{DIGEST}", name="proxy")], {}),
    "shapes that no server stores": ([pod(7, f"x@{DIGEST}"), pod(IMAGE, None), {}, {"spec": 7, "status": []}], {}),
}  # fmt: skip


@pytest.mark.parametrize(("pods", "found"), PODS.values(), ids=PODS)
def test_digests_by_the_names_of_images(pods: list[Object], found: dict[str, str]) -> None:
    assert running_images(pods) == found


async def test_a_few_pods_of_one_component_are_read() -> None:
    cluster = FakeCluster({"items": [pod(IMAGE, f"x@{DIGEST}")]})
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
    cluster, found = FakeCluster(away, {"items": [pod(IMAGE, f"x@{DIGEST}")]}), dict[str, str]()
    with trio.move_on_after(2.5 * EVERY):
        await follow_images(cluster, "linkerd", found.update)
    assert found == {IMAGE: DIGEST}
