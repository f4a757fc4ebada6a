"""Reads which images of the proxy Linkerd's control plane runs, so that machines install the same bytes.

A tag may be moved in its registry; a digest cannot. The pods of one component are enough: all pods of Linkerd have the
same proxy, and the injector gives it to all others, too.
Sources: linkerd2 charts/linkerd-control-plane/templates/destination.yaml, charts/partials/templates/_proxy.tpl;
Kubernetes' core/v1 types.go, ContainerStatus.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import trio

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.requests import PODS, Object, list_all
from exclave.controller.leader.lead import Sender
from exclave.errors import ClusterError

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two readings
MOST = 20  # pods that are read
SELECTOR = "linkerd.io/control-plane-component=destination"
CONTAINER = "linkerd-proxy"  # among containers, or as a native sidecar among the first ones

_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$", re.ASCII)


def running_images(pods: Iterable[Object]) -> dict[str, str]:
    """The digest that runs of each image of a proxy, as pods name it; none if pods run different ones. Never raises."""
    found: dict[str, set[str]] = {}
    for image, digest in chain.from_iterable(map(_images, pods)):
        found.setdefault(image, set()).add(digest)
    return {image: digest for image, digests in found.items() if len(digests) == 1 for digest in digests}


def _images(pod: Object) -> Iterator[tuple[str, str]]:
    spec, status = mapping_in(pod, "spec"), mapping_in(pod, "status")
    for containers, statuses in (("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")):
        images = [one.get("image") for one in mappings_in(spec, containers) if one.get("name") == CONTAINER]
        ids = [one.get("imageID") for one in mappings_in(status, statuses) if one.get("name") == CONTAINER]
        for image, image_id in zip(images, ids, strict=False):
            # An image that was built on its node, or loaded there, has no digest in any registry.
            if isinstance(image, str) and (digest := _DIGEST.search(str(image_id))) is not None:
                yield image, digest[1]


async def read_images(cluster: Sender, namespace: str) -> dict[str, str]:
    """The images of the proxy in Linkerd's namespace, as `running_images`. A failure is logged; then there are none."""
    try:
        listed = await cluster.send(list_all(PODS, namespace, labelSelector=SELECTOR, limit=str(MOST)))
    except ClusterError as problem:
        log.warning("images of the proxy: pods in %s: %s", namespace, problem)
        return {}
    return running_images(listed.get("items") or [])


async def follow_images(cluster: Sender, namespace: str, add: Callable[[Mapping[str, str]], None]) -> None:
    """Read the images again and again, until cancelled."""
    while True:
        await trio.sleep(EVERY)
        add(await read_images(cluster, namespace))
