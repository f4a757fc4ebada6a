"""The answers of Linkerd's destination controller, from the cluster's objects. Pure. The rules are those of its source.

An ExternalWorkload's address is meshed on every port that it lists, ready or not. If two claim one address and port, it
is not meshed. A pod is meshed if the injector has labelled it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from exclave.api.identity import MeshIdentity
from exclave.api.member import condition_of
from exclave.api.requests import EXTERNAL_WORKLOADS, PODS, SERVICES, Object, Resource

CONTROL_PLANE_LABEL = "linkerd.io/control-plane-ns"
OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
DEFAULT_OPAQUE_PORTS = "25,587,3306,4444,5432,6379,9300,11211"
FOLLOWED = (SERVICES, EXTERNAL_WORKLOADS, PODS)


@dataclass(frozen=True)
class MeshEndpoint:
    """The target of connections; `identity` is the one that must answer. It and `server_name` may be None."""

    address: str
    port: int
    identity: str | None
    server_name: str | None
    opaque: bool

    def as_json(self) -> dict[str, Any]:
        """The answer's body."""
        tree = asdict(self)
        tree["serverName"] = tree.pop("server_name")
        return tree


class NoEndpoints(Exception):
    """A Service without a ready endpoint."""


class DestinationTable:
    """The newest lists of the objects that decide."""

    def __init__(self, trust_domain: str) -> None:
        self._trust_domain = trust_domain
        self._objects: dict[Resource, tuple[Object, ...]] = {}
        self._fresh: set[Resource] = set()

    @property
    def is_complete(self) -> bool:
        """True if every kind has been listed once."""
        return set(self._objects) == set(FOLLOWED)

    @property
    def is_followed(self) -> bool:
        """True if the API server answered the newest list of every kind."""
        return self._fresh == set(FOLLOWED)

    def replace(self, resource: Resource, objects: Iterable[Object]) -> None:
        """Store the newest list of a kind."""
        self._objects[resource] = tuple(objects)
        self._fresh.add(resource)

    def mark_stale(self, resource: Resource) -> None:
        """The API server did not answer the newest list of a kind."""
        self._fresh.discard(resource)

    def find(self, address: str, port: int) -> tuple[MeshEndpoint, ...]:
        """The endpoints behind an address and port, none outside of the mesh. Raises NoEndpoints."""
        for service in self._all(SERVICES):
            if service["spec"].get("clusterIP") == address:
                return self._behind(service, port)
        claims = [
            endpoint
            for workload in self._all(EXTERNAL_WORKLOADS)
            for endpoint in _workload_endpoints(workload)
            if (endpoint.address, endpoint.port) == (address, port)
        ]
        if claims:
            return tuple(claims) if len(claims) == 1 else ()
        pods = [pod for pod in self._all(PODS) if pod.get("status", {}).get("podIP") == address]
        return tuple(self._pod_endpoint(pod, port) for pod in pods if self._identity(pod) is not None)

    def _all(self, resource: Resource) -> tuple[Object, ...]:
        return self._objects.get(resource, ())

    def _behind(self, service: Object, port: int) -> tuple[MeshEndpoint, ...]:
        selector = service["spec"].get("selector") or {}
        listed = [each for each in service["spec"].get("ports", ()) if each["port"] == port]
        if not selector or not listed:
            return ()
        target = listed[0].get("targetPort", port)
        namespace = service["metadata"].get("namespace")
        ready = [
            endpoint
            for workload in self._all(EXTERNAL_WORKLOADS)
            if _is_selected(workload, namespace, selector) and _is_ready(workload)
            for endpoint in _workload_endpoints(workload, target)
        ]
        # A caller detects a protocol, or does not, by the Service's annotation alone.
        ready = [replace(endpoint, opaque=_is_opaque(service, port)) for endpoint in ready]
        ready += [
            self._pod_endpoint(pod, _number(pod, target))
            for pod in self._all(PODS)
            if _is_selected(pod, namespace, selector) and _serves(pod)
        ]
        if not ready:
            raise NoEndpoints(f"{namespace}/{service['metadata']['name']}")
        return tuple(ready)

    def _pod_endpoint(self, pod: Object, port: int) -> MeshEndpoint:
        identity = self._identity(pod)
        return MeshEndpoint(pod["status"]["podIP"], port, identity, identity, _is_opaque(pod, port))

    def _identity(self, pod: Object) -> str | None:
        """A meshed pod's identity, which is its server name, too."""
        metadata = pod["metadata"]
        control_plane = metadata.get("labels", {}).get(CONTROL_PLANE_LABEL)
        if control_plane is None:
            return None
        account = pod.get("spec", {}).get("serviceAccountName", "default")
        return MeshIdentity(account, metadata["namespace"], control_plane, self._trust_domain).dns_name


def _workload_endpoints(workload: Object, target: int | str | None = None) -> Iterator[MeshEndpoint]:
    """The listed ports of an ExternalWorkload on each of its addresses; all, or those that `target` names."""
    spec = workload.get("spec", {})
    tls = spec.get("meshTLS", {})
    for ip in spec.get("workloadIPs") or ():
        for port in spec.get("ports") or ():
            if target is None or target in (port["port"], port.get("name")):
                opaque = _is_opaque(workload, port["port"])
                yield MeshEndpoint(ip["ip"], port["port"], tls.get("identity"), tls.get("serverName"), opaque)


def _is_selected(found: Object, namespace: str, selector: Mapping[str, str]) -> bool:
    metadata = found["metadata"]
    return metadata.get("namespace") == namespace and selector.items() <= (metadata.get("labels") or {}).items()


def _is_ready(found: Object) -> bool:
    ready = condition_of(found, "Ready")
    return ready is not None and ready.status


def _serves(pod: Object) -> bool:
    status = pod.get("status", {})
    ready = condition_of(pod, "Ready")
    return bool(status.get("podIP")) and (status.get("phase") == "Running" if ready is None else ready.status)


def _number(pod: Object, target: int | str) -> int:
    for container in pod.get("spec", {}).get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == target:
                return int(port["containerPort"])
    return int(target)


def _is_opaque(found: Object, port: int) -> bool:
    listed = (found["metadata"].get("annotations") or {}).get(OPAQUE_PORTS, DEFAULT_OPAQUE_PORTS)
    for part in filter(None, (part.strip() for part in listed.split(","))):
        first, _, last = part.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False
