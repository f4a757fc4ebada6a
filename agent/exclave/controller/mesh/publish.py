"""Reads where Linkerd's controllers are, and renders the mesh's settings as one ConfigMap per group. Pure.

Sources, by Linkerd's chart: EndpointSlices of the headless Services of destination and policy, and of the cluster's
DNS. The caller stores the last good reading.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from exclave.api.malformed import read_each
from exclave.api.names import SETTINGS_KEY, settings_name
from exclave.api.requests import CONFIG_MAPS, Object
from exclave.api.settings import ControlPlane, Settings, digest, render_settings
from exclave.controller.policy.register import owner_of
from exclave.controller.policy.snapshot import Group, Mesh

SERVICE_OF_SLICE = "kubernetes.io/service-name"
DESTINATION = "linkerd-dst-headless"
POLICY = "linkerd-policy"
DNS = "kube-dns"


def read_control_plane(
    linkerd_slices: Iterable[Object], dns_slices: Iterable[Object], report: Callable[[Object, Exception], None]
) -> ControlPlane:
    """Addresses of each Service's ready pods, or of all its pods if none is ready. Reports a bad EndpointSlice."""
    linkerd, dns = read_each(linkerd_slices, _read_slice, report), read_each(dns_slices, _read_slice, report)
    return ControlPlane(_addresses(linkerd, DESTINATION), _addresses(linkerd, POLICY), _addresses(dns, DNS))


def last_good(found: ControlPlane, before: ControlPlane | None) -> ControlPlane:
    """The found addresses; where there is none, the earlier ones, which may answer again."""
    if before is None:
        return found
    return ControlPlane(found.destination or before.destination, found.policy or before.policy, found.dns or before.dns)


def is_worth_publishing(plane: ControlPlane) -> bool:
    """True if proxies can find Linkerd with these settings, so that they may be published."""
    # DNS addresses may be missing: a cluster need not use the Service name that we search for.
    return bool(plane.destination and plane.policy)


@dataclass(frozen=True)
class Published:
    """A group's settings in its ConfigMap: their digest, and the group's ports in them."""

    digest: str
    ports: frozenset[int] = frozenset()


def settings_of(group: Group, mesh: Mesh, heartbeat: float) -> tuple[str, str]:
    """The settings of a group's members as text, and the text's digest. `heartbeat` is seconds."""
    settings = Settings(
        namespace=group.namespace,
        group_name=group.name,
        linkerd=mesh.linkerd,
        anchors=mesh.anchors,
        issuer=mesh.issuer,
        control_plane=mesh.control_plane,
        heartbeat=heartbeat,
        group=group.spec,
        server_ca=mesh.server_ca,
    )
    text = render_settings(settings)
    return text, digest(text)


def settings_object(group: Group, text: str) -> Object:
    """The ConfigMap with a group's settings."""
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {
            "name": settings_name(group.name),
            "namespace": group.namespace,
            "ownerReferences": [owner_of(group)],  # deleted with its group
        },
        "data": {SETTINGS_KEY: text},
    }


def _read_slice(found: Object) -> list[tuple[str, str, bool]]:
    """For each address of an EndpointSlice: its Service, the address, and whether the pod is ready."""
    service = str((found["metadata"].get("labels") or {}).get(SERVICE_OF_SLICE) or "")
    rows = [
        (service, address, (endpoint.get("conditions") or {}).get("ready") is not False)
        for endpoint in found.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
    ]
    if not all(isinstance(address, str) for _, address, _ in rows):
        raise ValueError("endpoints.addresses: texts were expected")
    return rows


def _addresses(slices: Iterable[list[tuple[str, str, bool]]], service: str) -> tuple[str, ...]:
    found = [(address, is_ready) for rows in slices for name, address, is_ready in rows if name == service]
    ready = {address for address, is_ready in found if is_ready}
    return tuple(sorted(ready or {address for address, _ in found}))
