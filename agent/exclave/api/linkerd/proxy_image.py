"""Reads from Linkerd's own pods which images of the proxy they run, so that machines install the same bytes. Pure.

A tag may be moved in its registry; a digest cannot. The pods of one component are enough: all pods of Linkerd have the
same proxy, and the injector gives it to all others, too.
Sources: linkerd2 charts/linkerd-control-plane/templates/destination.yaml, charts/partials/templates/_proxy.tpl;
Kubernetes' core/v1 types.go, ContainerStatus.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings

PODS_LABEL = "linkerd.io/control-plane-component=destination"
CONTAINER = "linkerd-proxy"  # among containers, or as a native sidecar among the first ones

_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$", re.ASCII)


def with_digest(linkerd: LinkerdSettings, images: Mapping[str, str]) -> LinkerdSettings:
    """The settings with the digest of the image that they name, if it is among these."""
    tagged = replace(linkerd, proxy_digest="")
    return replace(tagged, proxy_digest=images.get(tagged.proxy_reference, ""))


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
