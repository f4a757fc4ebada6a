"""Which images of the proxy Linkerd's pods run."""

from dataclasses import replace

import pytest

from exclave.api.linkerd.proxy_image import running_images, with_digest
from exclave.api.requests import Object
from support.mesh import make_settings

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


def test_a_digest_belongs_to_the_image_and_the_tag_that_linkerd_is_installed_with() -> None:
    linkerd = replace(make_settings().linkerd, proxy_image="cr.l5d.io/linkerd/proxy", proxy_version="edge-26.8.3")
    found = with_digest(linkerd, {IMAGE: DIGEST, OTHER: ANOTHER})
    assert found.proxy_reference == f"{IMAGE}@{DIGEST}"
    upgraded = replace(found, proxy_version="edge-26.8.4")
    assert with_digest(upgraded, {IMAGE: DIGEST}).proxy_reference == "cr.l5d.io/linkerd/proxy:edge-26.8.4"
