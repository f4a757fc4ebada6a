"""The mesh's settings as the controller publishes them and the VM stores them: `settings.json`.

Rules: one JSON text, made here and read here; unknown keys are ignored, so that an older agent reads a newer
controller's; a missing or wrong key raises ValueError naming it, and the reader keeps its last good settings.
`digest` is what Member `status.settings` and `spec.loaded.settings` hold.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Literal

from exclave.api.identity import MeshIdentity
from exclave.kit.formats.duration import format_duration, parse_duration
from exclave.kit.formats.labels import is_label_key, is_label_value

Capture = Literal["cluster", "all", "none"]
VERSION = 1


@dataclass(frozen=True)
class Port:
    """One port that the group serves; `opaque` means that the proxy does not look for HTTP in it."""

    name: str
    port: int
    opaque: bool = False


@dataclass(frozen=True)
class Probe:
    """A check on the VM that must pass before pods may send traffic. [1] knows `tcp`: the port accepts.

    Times are seconds; `failures` in a row make it fail, one success makes it pass.
    """

    port: int
    kind: Literal["tcp"] = "tcp"
    every: float = 5.0
    timeout: float = 2.0
    failures: int = 3


@dataclass(frozen=True)
class FailurePolicy:
    """What happens when the proxy has been dead for `after` seconds: each direction `open` or `closed`."""

    after: float = 30.0
    outbound: Literal["open", "closed"] = "open"
    inbound: Literal["open", "closed"] = "closed"


@dataclass(frozen=True)
class GroupSpec:
    """A WorkloadGroup's spec with all defaults applied; durations in seconds."""

    service_account: str
    networks: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    certificate_lifetime: float = 86400.0
    capture: Capture = "cluster"
    inbound_policy: str | None = None
    probes: tuple[Probe, ...] = ()
    failure: FailurePolicy = FailurePolicy()
    forget_after: float = 720 * 3600.0


@dataclass(frozen=True)
class LinkerdSettings:
    """What Linkerd's own ConfigMaps say of the mesh."""

    namespace: str
    trust_domain: str
    cluster_domain: str
    cluster_networks: tuple[str, ...]
    proxy_version: str
    inbound_policy: str
    opaque_ports: str


@dataclass(frozen=True)
class ControlPlane:
    """Addresses of the pods behind Linkerd's destination and policy services and the cluster's DNS."""

    destination: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Everything a member needs to know of its mesh and group.

    `anchors` is PEM, one or several; `issuer` the sha256 (hex) of the issuing certificate's DER;
    `heartbeat` seconds between Lease renewals.
    """

    namespace: str
    group_name: str
    linkerd: LinkerdSettings
    anchors: str
    issuer: str
    control_plane: ControlPlane
    heartbeat: float
    group: GroupSpec

    @property
    def identity(self) -> MeshIdentity:
        """The identity that members of this group present."""
        from exclave.api.identity import MeshIdentity  # here, since identity's own modules read settings

        return MeshIdentity(
            self.group.service_account, self.namespace, self.linkerd.namespace, self.linkerd.trust_domain
        )

    @property
    def server_name(self) -> str:
        """The SNI that members of this group terminate."""
        from exclave.api.identity import server_name  # here, as above

        return server_name(self.group_name, self.namespace, self.linkerd.cluster_domain)


def digest(text: str) -> str:
    """sha256 (hex) of a settings text, the short name of its content."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_group(name: str, spec: Mapping[str, Any]) -> GroupSpec:
    """Read a WorkloadGroup's `spec`, applying defaults. Raises ValueError naming the field that is wrong."""
    failure = _optional(spec, "failure", dict)
    default = FailurePolicy()
    group = GroupSpec(
        service_account=_optional(spec, "serviceAccount", str) or name,
        networks=tuple(_network(network) for network in _need(spec, "networks", list)),
        labels=_optional(spec, "labels", dict),
        ports=tuple(_port(port) for port in _optional(spec, "ports", list)),
        certificate_lifetime=_seconds(spec, "certificateLifetime", "24h"),
        capture=_choice(spec, "capture", "cluster", "all", "none"),
        inbound_policy=_optional(spec, "inboundPolicy", str) or None,
        probes=tuple(_probe(probe) for probe in _optional(spec, "probes", list)),
        failure=FailurePolicy(
            _seconds(failure, "after", format_duration(default.after)),
            _choice(failure, "outbound", "open", "closed"),
            _choice(failure, "inbound", "closed", "open"),
        ),
        forget_after=_seconds(spec, "forgetAfter", "720h"),
    )
    if group.certificate_lifetime < 10:
        raise ValueError(f"certificateLifetime: at least 10s, found {spec.get('certificateLifetime')}")
    for key, value in group.labels.items():
        if not isinstance(value, str) or not is_label_key(key) or not is_label_value(value):
            raise ValueError(f"labels: a label as Kubernetes takes it was expected, found {key!r}: {value!r}")
    if "." in group.service_account:
        raise ValueError(f"serviceAccount: a name without dots, found {group.service_account!r}")
    return group


def render_group(group: GroupSpec) -> dict[str, Any]:
    """A group's spec in the form `parse_group` reads, with every default written out."""
    return {
        "serviceAccount": group.service_account,
        "labels": dict(group.labels),
        "networks": list(group.networks),
        "ports": [{"name": port.name, "port": port.port, "opaque": port.opaque} for port in group.ports],
        "certificateLifetime": format_duration(group.certificate_lifetime),
        "capture": group.capture,
        "inboundPolicy": group.inbound_policy,
        "probes": [
            {
                "kind": probe.kind,
                "port": probe.port,
                "every": format_duration(probe.every),
                "timeout": format_duration(probe.timeout),
                "failures": probe.failures,
            }
            for probe in group.probes
        ],
        "failure": {
            "after": format_duration(group.failure.after),
            "outbound": group.failure.outbound,
            "inbound": group.failure.inbound,
        },
        "forgetAfter": format_duration(group.forget_after),
    }


def render_settings(settings: Settings) -> str:
    """The JSON text of settings: the same settings always give the same text."""
    linkerd = settings.linkerd
    return json.dumps(
        {
            "version": VERSION,
            "namespace": settings.namespace,
            "name": settings.group_name,
            "linkerd": {
                "namespace": linkerd.namespace,
                "trustDomain": linkerd.trust_domain,
                "clusterDomain": linkerd.cluster_domain,
                "clusterNetworks": list(linkerd.cluster_networks),
                "proxyVersion": linkerd.proxy_version,
                "inboundPolicy": linkerd.inbound_policy,
                "opaquePorts": linkerd.opaque_ports,
            },
            "anchors": settings.anchors,
            "issuer": settings.issuer,
            "controlPlane": {
                "destination": list(settings.control_plane.destination),
                "policy": list(settings.control_plane.policy),
                "dns": list(settings.control_plane.dns),
            },
            "heartbeat": settings.heartbeat,
            "group": render_group(settings.group),
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def parse_settings(text: str) -> Settings:
    """Read what `render_settings` wrote. Raises ValueError naming the key that is missing or wrong."""
    try:
        tree = json.loads(text)
    except ValueError as problem:
        raise ValueError(f"settings are not JSON: {problem}") from None
    if not isinstance(tree, dict):
        raise ValueError("settings: a JSON object was expected")
    if tree.get("version") != VERSION:
        raise ValueError(f"settings version {tree.get('version')!r}: this agent reads version {VERSION}")
    linkerd = _need(tree, "linkerd", dict)
    control_plane = _need(tree, "controlPlane", dict)
    name = _need(tree, "name", str)
    return Settings(
        namespace=_need(tree, "namespace", str),
        group_name=name,
        linkerd=LinkerdSettings(
            namespace=_need(linkerd, "namespace", str),
            trust_domain=_need(linkerd, "trustDomain", str),
            cluster_domain=_need(linkerd, "clusterDomain", str),
            cluster_networks=tuple(_need(linkerd, "clusterNetworks", list)),
            proxy_version=_need(linkerd, "proxyVersion", str),
            inbound_policy=_need(linkerd, "inboundPolicy", str),
            opaque_ports=_need(linkerd, "opaquePorts", str),
        ),
        anchors=_need(tree, "anchors", str),
        issuer=_need(tree, "issuer", str),
        control_plane=ControlPlane(
            tuple(control_plane.get("destination", ())),
            tuple(control_plane.get("policy", ())),
            tuple(control_plane.get("dns", ())),
        ),
        heartbeat=float(tree.get("heartbeat", 10.0)),
        group=parse_group(name, _need(tree, "group", dict)),
    )


def _network(network: Any) -> str:
    if not isinstance(network, str):
        raise ValueError(f"networks: a network such as 10.0.0.0/8 was expected, found {network!r}")
    try:
        return str(ip_network(network))
    except ValueError as problem:
        raise ValueError(f"networks: {problem}") from None


def _port(port: Any) -> Port:
    if not isinstance(port, dict):
        raise ValueError(f"ports: a mapping was expected, found {port!r}")
    number = _need(port, "port", int)
    if not 1 <= number <= 65535:
        raise ValueError(f"port: 1 to 65535, found {number}")
    return Port(_optional(port, "name", str) or str(number), number, port.get("opaque") is True)


def _probe(probe: Any) -> Probe:
    if not isinstance(probe, dict):
        raise ValueError(f"probes: a mapping was expected, found {probe!r}")
    default = Probe(port=0)
    return Probe(
        port=_need(probe, "port", int),
        kind=_choice(probe, "kind", "tcp"),
        every=_seconds(probe, "every", format_duration(default.every)),
        timeout=_seconds(probe, "timeout", format_duration(default.timeout)),
        failures=_optional(probe, "failures", int) or default.failures,
    )


def _need(tree: Mapping[str, Any], key: str, kind: type) -> Any:
    value = tree.get(key)
    if type(value) is not kind:  # JSON's own types, and true is no number
        raise ValueError(f"{key}: {kind.__name__} was expected, found {type(value).__name__}")
    return value


def _optional(tree: Mapping[str, Any], key: str, kind: type) -> Any:
    return kind() if tree.get(key) is None else _need(tree, key, kind)


def _choice(tree: Mapping[str, Any], key: str, default: str, *others: str) -> Any:
    value = tree.get(key) or default
    if value not in (default, *others):
        raise ValueError(f"{key}: {' or '.join((default, *others))} was expected, found {value!r}")
    return value


def _seconds(tree: Mapping[str, Any], key: str, default: str) -> float:
    try:
        return parse_duration(tree.get(key) or default)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{key}: {problem}") from None
