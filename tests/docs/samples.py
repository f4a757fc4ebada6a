"""Values that the tests of the documents need."""

from exclave.api.group import parse_group
from exclave.api.settings import ControlPlane, LinkerdSettings, Settings


def make_settings() -> Settings:
    """Settings of a group that has one of everything."""
    group = parse_group(
        "web", {"networks": ["10.0.0.0/8"], "ports": [{"port": 8080, "opaque": True}], "probes": [{"port": 8080}]}
    )
    linkerd = LinkerdSettings("linkerd", "cluster.local", "cluster.local", ("10.0.0.0/8",), "edge-26.8.1", "deny", "25")
    return Settings("shop", "web", linkerd, "anchors", "0" * 64, ControlPlane(), 10.0, group)
