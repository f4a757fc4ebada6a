"""The answers of Linkerd's destination controller, from the cluster's objects. Pure. The rules are those of its source.

An ExternalWorkload's address is meshed on every port that it lists, ready or not. If two claim one address and port, it
is not meshed. A pod is meshed if the injector has labelled it.

Who has asked for an address learns of changes from objects that still list its port, and of nothing else:
submitExternalWorkloadUpdate in linkerd2, controller/api/destination/watcher/workload_watcher.go. Who has asked for a
Service learns that an ExternalWorkload of some name became an endpoint, or is none any more. Another address under the
same name is no change: diffAddresses in endpoints_watcher.go. The old address is not even removed later, since the
removal names the new one. Here somebody has always asked for every Service.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from exclave.api.identity import MeshIdentity
from exclave.api.member import condition_of
from exclave.api.requests import EXTERNAL_WORKLOADS, PODS, SERVICES, Object, Resource
from exclave.controller.cache import key_of
from exclave.controller.policy.snapshot import workload_ports

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
        self._reported: dict[tuple[str, int], Object] = {}  # for each address and port that was asked for
        self._added: dict[tuple[str, str], list[Object]] = {}  # ExternalWorkloads as they were reported
        self._endpoints: dict[tuple[str, str], Object] = {}  # those that are endpoints, as of now

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
        before = self._all(resource)
        self._objects[resource] = tuple(objects)
        self._fresh.add(resource)
        if resource is EXTERNAL_WORKLOADS:
            self._report_changes(before)
            self._report_endpoints()

    def _report_endpoints(self) -> None:
        before = self._endpoints
        self._endpoints = {
            key_of(workload): workload for workload in self._all(EXTERNAL_WORKLOADS) if _is_ready(workload)
        }
        for key, known in before.items():
            if not _is_same_endpoint(known, self._endpoints.get(key)):
                gone = known["spec"].get("workloadIPs")
                self._added[key] = [one for one in self._added[key] if one["spec"].get("workloadIPs") != gone]
        for key, workload in self._endpoints.items():
            if not _is_same_endpoint(workload, before.get(key)):
                self._added.setdefault(key, []).append(workload)

    def _report_changes(self, before: Iterable[Object]) -> None:
        workloads = self._all(EXTERNAL_WORKLOADS)
        left = {key_of(workload) for workload in workloads}
        for workload in before:
            if key_of(workload) not in left:  # deleted with ports: older controllers crash, newer ones report it
                for endpoint in _workload_endpoints(workload):
                    self._reported.pop((endpoint.address, endpoint.port), None)
        for workload in workloads:
            for endpoint in _workload_endpoints(workload):
                if (endpoint.address, endpoint.port) in self._reported:
                    self._reported[endpoint.address, endpoint.port] = workload

    def mark_stale(self, resource: Resource) -> None:
        """The API server did not answer the newest list of a kind."""
        self._fresh.discard(resource)

    def find(self, address: str, port: int) -> tuple[MeshEndpoint, ...]:
        """The endpoints behind an address and port, none outside of the mesh. Raises NoEndpoints."""
        for service in self._all(SERVICES):
            if service["spec"].get("clusterIP") == address:
                return self._behind(service, port)
        claims = [workload for workload in self._all(EXTERNAL_WORKLOADS) if _endpoint_at(workload, address, port)]
        if len(claims) > 1:
            return ()
        if claims:
            self._reported.setdefault((address, port), claims[0])
        if (address, port) in self._reported:
            endpoint = _endpoint_at(self._reported[address, port], address, port)
            return (endpoint,) if endpoint is not None else ()
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
            for added in self._added[key_of(workload)]
            for endpoint in _workload_endpoints(added, target)
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


def _is_same_endpoint(workload: Object, other: Object | None) -> bool:
    """True if Linkerd lists both in one EndpointSlice: with other port numbers it would be another one."""
    return other is not None and set(workload_ports(workload)) == set(workload_ports(other))


def _workload_endpoints(workload: Object, target: int | str | None = None) -> Iterator[MeshEndpoint]:
    """The listed ports of an ExternalWorkload on each of its addresses; all, or those that `target` names."""
    spec = workload.get("spec", {})
    tls = spec.get("meshTLS", {})
    named = {str(port.get("name")): int(port["port"]) for port in spec.get("ports") or ()}
    numbers = {port["port"] for port in spec.get("ports") or () if target in (None, port["port"], port.get("name"))}
    for ip in spec.get("workloadIPs") or ():
        for number in sorted(numbers):
            identity, server_name = tls.get("identity"), tls.get("serverName")
            opaque = _is_opaque(workload, number, named)
            # Proxies use no TLS if the identity is no URI. Then they would use HTTP/2 in plaintext for a port that is
            # not opaque, which no application expects: here TLS to a wrong name stands for that.
            if opaque and ":" not in str(identity):
                identity = server_name = None
            yield MeshEndpoint(ip["ip"], number, identity, server_name, opaque)


def _endpoint_at(workload: Object, address: str, port: int) -> MeshEndpoint | None:
    found = (one for one in _workload_endpoints(workload) if (one.address, one.port) == (address, port))
    return next(found, None)


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


def _is_opaque(found: Object, port: int, named: Mapping[str, int] | None = None) -> bool:
    """True if the annotation, or the default, has the port: by its number, in a range, or by its name in `named`."""
    listed = (found["metadata"].get("annotations") or {}).get(OPAQUE_PORTS, DEFAULT_OPAQUE_PORTS)
    for part in filter(None, (part.strip() for part in listed.split(","))):
        if named is not None and part in named:
            if named[part] == port:
                return True
            continue
        first, _, last = part.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False
