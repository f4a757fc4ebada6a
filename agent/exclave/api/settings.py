"""The mesh's settings: the controller publishes them, the VM stores them as `settings.json`. Pure.

Unknown keys are ignored, so an older agent reads a newer controller's settings. A reader does not replace its last good
settings by wrong ones.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from exclave.api import fields
from exclave.api.fields import LONGEST, FieldError
from exclave.api.group import MOST_CORES, GroupSpec, parse_group, render_group
from exclave.api.identity import MeshIdentity, server_name
from exclave.kit.formats.json_text import parse_json

VERSION = 1
NOT_THE_CONTROLLERS = "holds other settings than the controller has written: find out who changes it"

PARAMETER_NAME = re.compile(r"(INBOUND|OUTBOUND)_SERVER_HTTP2_[A-Z0-9_]{1,64}")
PARAMETER_VALUE = re.compile(r"[A-Za-z0-9.]{1,32}")

DESTINATION_PORT, POLICY_PORT = 8086, 8090
"""Linkerd's destination and policy controllers. Source: linkerd2 charts/linkerd-control-plane, destination.yaml."""


@dataclass(frozen=True)
class Workers:
    """The number of the proxy's threads that carry traffic.

    `ratio`: at most this share of the processors, more than 0, up to 1.

    Source: linkerd2-proxy `linkerd2-proxy/src/rt.rs`.
    """

    minimum: int = 1
    maximum: int | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class LinkerdSettings:
    """The mesh, as described by Linkerd's own ConfigMaps.

    `workers`: of the proxies of pods. `parameters`: variables of the proxy for HTTP/2, without their prefix.
    `proxy_image`: the image's name; its tag is `proxy_version`. `proxy_digest`: `sha256:…`, as Linkerd's own pods run
    it. Both are "" if they are unknown.
    """

    namespace: str
    trust_domain: str
    cluster_domain: str
    cluster_networks: tuple[str, ...]
    proxy_version: str
    inbound_policy: str
    opaque_ports: str
    workers: Workers = Workers()
    parameters: Mapping[str, str] = field(default_factory=dict)
    proxy_image: str = ""
    proxy_digest: str = ""

    @property
    def proxy_reference(self) -> str:
        """The image as tools name it, such as `cr.l5d.io/linkerd/proxy:edge-26.8.3@sha256:…`; "" if it is unknown."""
        if not self.proxy_image or not self.proxy_version:
            return ""
        return f"{self.proxy_image}:{self.proxy_version}{self.proxy_digest and f'@{self.proxy_digest}'}"


@dataclass(frozen=True)
class ControlPlane:
    """Addresses of the pods behind Linkerd's destination and policy Services and the cluster's DNS."""

    destination: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()

    def has(self, address: str) -> bool:
        """True if one of these pods has the address."""
        return address in (*self.destination, *self.policy, *self.dns)


@dataclass(frozen=True)
class Settings:
    """The settings of a member's mesh and group."""

    namespace: str
    group_name: str
    linkerd: LinkerdSettings
    anchors: str  # PEM
    issuer: str  # sha256 (hex) of the issuing certificate
    control_plane: ControlPlane
    heartbeat: float  # seconds between Lease renewals
    group: GroupSpec
    server_ca: str = ""  # PEM of the API server's CAs, as pods trust them; "" if an older controller has published it

    @property
    def identity(self) -> MeshIdentity:
        """The identity that members of this group present."""
        return MeshIdentity(
            self.group.service_account, self.namespace, self.linkerd.namespace, self.linkerd.trust_domain
        )

    @property
    def server_name(self) -> str:
        """The SNI under which members of this group end TLS."""
        return server_name(self.group_name, self.namespace, self.linkerd.cluster_domain)


def digest(text: str) -> str:
    """sha256 (hex) of a settings text, as in a Member's `status.settings` and `spec.loaded.settings`."""
    return hashlib.sha256(text.encode()).hexdigest()


def render_settings(settings: Settings) -> str:
    """Settings as JSON. Equal settings have equal texts."""
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
                "workers": {key: value for key, value in asdict(linkerd.workers).items() if value is not None},
                "parameters": dict(linkerd.parameters),
                "proxyImage": linkerd.proxy_image,
                "proxyDigest": linkerd.proxy_digest,
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
            "serverCA": settings.server_ca,
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def _workers(linkerd: Mapping[str, Any]) -> Workers:
    tree = fields.need(linkerd, "workers", dict, "linkerd.")
    try:
        return Workers(
            fields.whole(tree, "minimum", 1, MOST_CORES),
            fields.whole(tree, "maximum", 1, MOST_CORES) if "maximum" in tree else None,
            fields.number(tree, "ratio", 1.0, least=0.0, most=1.0) if "ratio" in tree else None,
        )
    except FieldError as problem:
        raise FieldError(f"linkerd.workers.{problem}") from None


def _parameters(linkerd: Mapping[str, Any]) -> dict[str, str]:
    tree = fields.need(linkerd, "parameters", dict, "linkerd.")
    for name, value in tree.items():
        if not is_parameter(name, value):
            raise FieldError(f"linkerd.parameters: {fields.shown(name)}: a value of HTTP/2 was expected")
    return dict(tree)


def is_parameter(name: str, value: object) -> bool:
    """True for a variable of the proxy that concerns HTTP/2 to its clients, and for a value without special characters.

    No other variable may come from Linkerd's configuration: it could replace one that a machine depends on.
    """
    return bool(PARAMETER_NAME.fullmatch(name)) and isinstance(value, str) and bool(PARAMETER_VALUE.fullmatch(value))


def parse_settings(text: str) -> Settings:
    """Read a result of `render_settings`. Raises FieldError naming the missing or wrong field."""
    from exclave.kit.formats.x509 import read_blocks  # here, so that redirect imports this module without any library

    try:
        tree = parse_json(text)
    except ValueError as problem:
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
    anchors = fields.text(tree, "anchors", lines=True)
    server_ca = fields.text(tree, "serverCA", lines=True) if tree.get("serverCA", "") != "" else ""
    for name_of, pem in (("anchors", anchors), ("serverCA", server_ca)):
        try:
            if pem:
                read_blocks(pem)
        except ValueError:
            raise FieldError(f"{name_of}: certificates in PEM were expected") from None
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
            opaque_ports=fields.need(linkerd, "opaquePorts", str, "linkerd.", lines=True),
            # An older controller publishes none of these.
            workers=_workers(linkerd) if "workers" in linkerd else Workers(),
            parameters=_parameters(linkerd) if "parameters" in linkerd else {},
            proxy_image=fields.need(linkerd, "proxyImage", str, "linkerd.") if "proxyImage" in linkerd else "",
            proxy_digest=fields.need(linkerd, "proxyDigest", str, "linkerd.") if "proxyDigest" in linkerd else "",
        ),
        anchors=anchors,
        issuer=fields.text(tree, "issuer"),
        control_plane=ControlPlane(
            fields.addresses(control_plane, "destination", "controlPlane."),
            fields.addresses(control_plane, "policy", "controlPlane."),
            fields.addresses(control_plane, "dns", "controlPlane."),
        ),
        heartbeat=fields.number(tree, "heartbeat", 10.0, least=1.0, most=LONGEST),
        group=spec,
        server_ca=server_ca,
    )
