"""Polls which images of the proxy Linkerd's own pods run."""

import logging
from collections.abc import Callable, Mapping

import trio

from exclave.api.linkerd.proxy_image import PODS_LABEL, running_images
from exclave.api.requests import PODS, list_all
from exclave.controller.leader.lead import Sender
from exclave.errors import ClusterError

log = logging.getLogger(__name__)

EVERY = 60.0  # seconds between two readings
MOST = 20  # pods that are read


async def read_images(cluster: Sender, namespace: str) -> dict[str, str]:
    """The images of the proxy in Linkerd's namespace, as `running_images`. A failure is logged; then there are none."""
    try:
        listed = await cluster.send(list_all(PODS, namespace, labelSelector=PODS_LABEL, limit=str(MOST)))
    except ClusterError as problem:
        log.warning("images of the proxy: pods in %s: %s", namespace, problem)
        return {}
    return running_images(listed.get("items") or [])


async def follow_images(cluster: Sender, namespace: str, add: Callable[[Mapping[str, str]], None]) -> None:
    """Read the images again and again, until cancelled."""
    while True:
        await trio.sleep(EVERY)
        add(await read_images(cluster, namespace))
