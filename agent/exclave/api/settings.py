"""The mesh's settings as the controller publishes them and the VM stores them: `settings.json`.

Rules: one JSON text, made here and read here; unknown keys are ignored, so that an older agent reads a newer
controller's; a missing or wrong field raises FieldError naming it, and the reader keeps its last good settings.
`digest` is what Member `status.settings` and `spec.loaded.settings` hold.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Literal

from exclave.api import fields
from exclave.api.fields import LONGEST, FieldError
from exclave.api.identity import MeshIdentity
from exclave.kit.formats.duration import format_duration
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
    """Read a WorkloadGroup's `spec`, applying defaults. Raises FieldError naming the field that is wrong."""
    if not isinstance(spec, dict):
        raise FieldError(f"spec: a mapping was expected, found {fields.shown(spec)}")
    failure = fields.optional(spec, "failure", dict)
    default = FailurePolicy()
    group = GroupSpec(
        service_account=fields.optional(spec, "serviceAccount", str) or name,
        networks=tuple(_network(network) for network in fields.need(spec, "networks", list)),
        labels=fields.optional(spec, "labels", dict),
        ports=tuple(_port(port) for port in fields.optional(spec, "ports", list)),
        certificate_lifetime=fields.seconds(spec, "certificateLifetime", "24h", least=10.0),
        capture=fields.one_of(spec, "capture", "cluster", "all", "none"),
        inbound_policy=fields.optional(spec, "inboundPolicy", str) or None,
        probes=tuple(_probe(probe) for probe in fields.optional(spec, "probes", list)),
        failure=FailurePolicy(
            fields.seconds(failure, "after", format_duration(default.after)),
            fields.one_of(failure, "outbound", "open", "closed"),
            fields.one_of(failure, "inbound", "closed", "open"),
        ),
        forget_after=fields.seconds(spec, "forgetAfter", "720h", least=1.0),
    )
    for key, value in group.labels.items():
        if not isinstance(value, str) or not is_label_key(key) or not is_label_value(value):
            label = f"{fields.shown(key)}: {fields.shown(value)}"
            raise FieldError(f"labels: a label as Kubernetes takes it was expected, found {label}")
    if "." in group.service_account:
        raise FieldError(f"serviceAccount: a name without dots, found {fields.shown(group.service_account)}")
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
    """Read what `render_settings` wrote. Raises FieldError naming the field that is missing or wrong."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise FieldError(f"settings are not JSON: {problem}") from None
    if not isinstance(tree, dict):
        raise FieldError("settings: a JSON object was expected")
    version = tree.get("version")
    if type(version) is not int or version != VERSION:
        raise FieldError(f"settings version {fields.shown(version)}: this agent reads version {VERSION}")
    linkerd = fields.need(tree, "linkerd", dict)
    control_plane = fields.need(tree, "controlPlane", dict)
    name = fields.text(tree, "name")
    group = fields.need(tree, "group", dict)
    try:
        spec = parse_group(name, group)
    except FieldError as problem:
        raise FieldError(f"group.{problem}") from None
    return Settings(
        namespace=fields.text(tree, "namespace"),
        group_name=name,
        linkerd=LinkerdSettings(
            namespace=fields.text(linkerd, "namespace", "linkerd."),
            trust_domain=fields.text(linkerd, "trustDomain", "linkerd."),
            cluster_domain=fields.text(linkerd, "clusterDomain", "linkerd."),
            cluster_networks=fields.networks(linkerd, "clusterNetworks", "linkerd."),
            proxy_version=fields.need(linkerd, "proxyVersion", str, "linkerd."),
            inbound_policy=fields.text(linkerd, "inboundPolicy", "linkerd."),
            opaque_ports=fields.need(linkerd, "opaquePorts", str, "linkerd."),
        ),
        anchors=fields.text(tree, "anchors"),
        issuer=fields.text(tree, "issuer"),
        control_plane=ControlPlane(
            fields.addresses(control_plane, "destination", "controlPlane."),
            fields.addresses(control_plane, "policy", "controlPlane."),
            fields.addresses(control_plane, "dns", "controlPlane."),
        ),
        heartbeat=fields.number(tree, "heartbeat", 10.0, least=1.0, most=LONGEST),
        group=spec,
    )


def _network(network: Any) -> str:
    if not isinstance(network, str):
        raise FieldError(f"networks: a network such as 10.0.0.0/8 was expected, found {fields.shown(network)}")
    try:
        return str(ip_network(network))
    except ValueError as problem:
        raise FieldError(f"networks: {problem}") from None


def _port(port: Any) -> Port:
    if not isinstance(port, dict):
        raise FieldError(f"ports: a mapping was expected, found {fields.shown(port)}")
    number = fields.whole(port, "port", 1, 65535)
    return Port(fields.optional(port, "name", str) or str(number), number, fields.optional(port, "opaque", bool))


def _probe(probe: Any) -> Probe:
    if not isinstance(probe, dict):
        raise FieldError(f"probes: a mapping was expected, found {fields.shown(probe)}")
    default = Probe(port=0)
    return Probe(
        port=fields.whole(probe, "port", 1, 65535),
        kind=fields.one_of(probe, "kind", "tcp"),
        every=fields.seconds(probe, "every", format_duration(default.every), least=0.1),
        timeout=fields.seconds(probe, "timeout", format_duration(default.timeout), least=0.01),
        failures=default.failures if probe.get("failures") is None else fields.whole(probe, "failures", 1, 1000),
    )
