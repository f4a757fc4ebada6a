"""A published proxy whose instances have the processes that a test names."""

from exclave.proxy.process.binary import ProxyUser
from exclave.proxy.published import InstanceView, PublishedProxy
from exclave.proxy.states import InstanceState


def make_proxy(**views: InstanceView) -> PublishedProxy:
    """A proxy of which instance a, if there is one, is chosen."""
    proxy = PublishedProxy(ProxyUser(65533, 65533, "exclave-proxy"))
    for name, view in views.items():
        proxy.change(name, view)  # type: ignore[arg-type]
    if views:
        proxy.choose("a")
    return proxy


def running(anchors: str, state: InstanceState = InstanceState.ACTIVE, version: str = "v2.366.0") -> InstanceView:
    return InstanceView(state, 1, "environment", anchors=anchors, version=version)
