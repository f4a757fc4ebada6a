"""A WorkloadGroup: its namespace, its name and its spec. Pure.

`kubectl exclave group create`, the controller and the schema share these rules. `parse_group` raises for an unusable
spec; each `…_fault` function returns why a group is not accepted, as a text that follows the group's name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Literal

from exclave.api import fields
from exclave.api.fields import FieldError
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.names import accounts_namespace
from exclave.api.requests import Object
from exclave.kit.formats.kubernetes import MOST_LABEL, is_dns_label, is_label_key, is_label_value
from exclave.kit.formats.times import format_duration

Capture = Literal["cluster", "all", "none"]

INBOUND_POLICIES = (
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
)
"""Source: Linkerd's annotation config.linkerd.io/default-inbound-policy."""

LONGEST_CERTIFICATE = 720 * 3600.0  # seconds: a certificate cannot be revoked, only end
MOST_FAILURES = 2**31 - 1  # of a probe in a row
MOST_CORES = 1024  # as in config.toml
MOST_LISTED = 100  # networks, labels, ports, probes

LIMITS: Mapping[str, tuple[float, float]] = {
    "certificateLifetime": (10.0, LONGEST_CERTIFICATE),
    "every": (0.1, 3600.0),  # a probe without a pause takes a third of a processor
    "timeout": (0.01, 60.0),
    "after": (1.0, LONGEST_CERTIFICATE),
    "forgetAfter": (60.0, 876_000 * 3600.0),  # a member counts as silent after 30 s at the earliest
}
"""Seconds at least and at most, of each duration in a group's spec, which has no two of one name."""

PROXY_PORTS = (4140, 4143, 4190, 4191)  # the proxy's own ports
PROXY_PORT_NAME = "linkerd-proxy"  # name of the port at which Linkerd finds the proxy

MOST_GROUP_NAME = 40  # characters: in a member's name, a token's id and a slot follow in the same DNS label

CONTROL_PLANES = ("kube-", "linkerd")  # prefixes of the cluster's and Linkerd's own namespaces


@dataclass(frozen=True)
class Port:
    """A port that the group serves. `opaque`: the proxy does not detect HTTP in it."""

    name: str
    port: int
    opaque: bool = False


@dataclass(frozen=True)
class Probe:
    """A check on the machine that must pass before pods send traffic. Kind `tcp`: the port accepts."""

    port: int
    kind: Literal["tcp"] = "tcp"
    every: float = 5.0  # seconds
    timeout: float = 2.0  # seconds
    failures: int = 3  # in a row, until it fails; one success makes it pass


@dataclass(frozen=True)
class FailurePolicy:
    """The direction's policy, `open` or `closed`, after the proxy has been dead for `after` seconds."""

    after: float = 30.0
    outbound: Literal["open", "closed"] = "open"
    inbound: Literal["open", "closed"] = "closed"


@dataclass(frozen=True)
class GroupSpec:
    """A WorkloadGroup's spec with all defaults applied; durations in seconds.

    `proxy_cores`: threads of its members' proxies that carry traffic; None: as many as Linkerd sets for pods.
    """

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
    proxy_cores: int | None = None


def parse_group(name: str, spec: Mapping[str, Any]) -> GroupSpec:
    """Read a WorkloadGroup's `spec`, applying defaults. Raises FieldError naming the wrong field."""
    if not isinstance(spec, dict):
        raise FieldError(f"spec: a mapping was expected, found {fields.shown(spec)}")
    failure = fields.optional(spec, "failure", dict)
    default = FailurePolicy()
    group = GroupSpec(
        service_account=name if spec.get("serviceAccount") is None else fields.text(spec, "serviceAccount"),
        networks=tuple(_network(network) for network in fields.need(spec, "networks", list)),
        labels=fields.optional(spec, "labels", dict),
        ports=tuple(_port(port) for port in fields.optional(spec, "ports", list)),
        certificate_lifetime=fields.seconds(spec, "certificateLifetime", "24h", least=LIMITS["certificateLifetime"][0]),
        capture=fields.one_of(spec, "capture", "cluster", "all", "none"),
        inbound_policy=fields.optional(spec, "inboundPolicy", str) or None,
        probes=tuple(_probe(probe) for probe in fields.optional(spec, "probes", list)),
        failure=FailurePolicy(
            _limited(failure, "after", format_duration(default.after)),
            fields.one_of(failure, "outbound", "open", "closed"),
            fields.one_of(failure, "inbound", "closed", "open"),
        ),
        forget_after=_limited(spec, "forgetAfter", "720h"),
        proxy_cores=None if spec.get("proxyCores") is None else fields.whole(spec, "proxyCores", 1, MOST_CORES),
    )
    for key, value in group.labels.items():
        if not isinstance(value, str) or not is_label_key(key) or not is_label_value(value):
            label = f"{fields.shown(key)}: {fields.shown(value)}"
            raise FieldError(f"labels: a label as Kubernetes takes it was expected, found {label}")
    if "." in group.service_account:
        raise FieldError(f"serviceAccount: a name without dots, found {fields.shown(group.service_account)}")
    return group


def render_group(group: GroupSpec) -> dict[str, Any]:
    """A group's spec as `parse_group` reads it, with every default written out."""
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
        "proxyCores": group.proxy_cores,
    }


def namespace_fault(namespace: str, controller: str, linkerd: str) -> str | None:
    """The reason why no group may be in a namespace; None if one may. `controller`, `linkerd`: their namespaces."""
    # A right to create accounts in a control plane's namespace is a right to everything.
    if namespace.startswith(CONTROL_PLANES) or namespace in ("default", "exclave", controller, linkerd):
        return "is no place for machines: it belongs to the cluster itself, or to nobody in particular"
    if namespace.endswith(accounts_namespace("")):
        return "ends in -vms, as the namespaces of machines' accounts do"
    if not is_dns_label(accounts_namespace(namespace)) or not is_dns_label(namespace):
        most = MOST_LABEL - len(accounts_namespace(""))
        return f"is not a namespace's name of at most {most} characters (that of its accounts is four longer)"
    return None


def name_fault(name: str) -> str | None:
    """The reason why no group may have this name; None if one may."""
    if is_dns_label(name) and len(name) <= MOST_GROUP_NAME:
        return None
    return f"is no name for a group: one DNS label of at most {MOST_GROUP_NAME} characters was expected"


def spec_faults(spec: GroupSpec, written: Mapping[str, Any]) -> list[str]:
    """The reasons why a group is not accepted; empty if it is. `spec` is what `parse_group` read from `written`."""
    words = ", ".join(INBOUND_POLICIES)
    counts = {"networks": spec.networks, "labels": spec.labels, "ports": spec.ports, "probes": spec.probes}
    return [
        *([] if spec.networks else ["networks: at least one was expected"]),
        *([] if is_dns_label(spec.service_account) else ["serviceAccount: one DNS label was expected"]),
        *(f"{key}: at most {MOST_LISTED} were expected" for key, found in counts.items() if len(found) > MOST_LISTED),
        *port_faults(spec.ports),
        *(f"labels: {key} is the controller's to write" for key in spec.labels if is_our_label(key)),
        *duration_faults(written),
        *([] if spec.inbound_policy in (None, *INBOUND_POLICIES) else [f"inboundPolicy: one of {words} was expected"]),
    ]


def duration_faults(written: Mapping[str, Any]) -> Iterator[str]:
    """The durations of a spec that are out of their limits. `parse_group` can read the spec."""
    for tree in (written, *mappings_in(written, "probes"), mapping_in(written, "failure")):
        for key, (least, most) in LIMITS.items():
            if tree.get(key) is not None and not least <= fields.seconds(tree, key, "") <= most:
                yield f"{key}: {duration_limits(key)}, found {fields.shown(tree[key])}"


def duration_limits(key: str) -> str:
    """The limits of a duration, for a person."""
    least, most = LIMITS[key]
    return f"{format_duration(least)} to {format_duration(most)} was expected"


def port_faults(ports: Sequence[Port]) -> Iterator[str]:
    """The faults of ports, such as a name that occurs twice."""
    for title, values in (("name", [port.name for port in ports]), ("number", [str(port.port) for port in ports])):
        for value in sorted({value for value in values if values.count(value) > 1}):
            yield f"two ports have the {title} {value}"
    for port in ports:
        if port.port in PROXY_PORTS:
            yield f"port {port.port} is the proxy's own"
        if port.name == PROXY_PORT_NAME:
            yield f"a port named {PROXY_PORT_NAME} tells Linkerd where the proxy is, and is no port of a group"
        if not is_dns_label(port.name):
            yield f"port {port.port}: a name of one DNS label was expected"


def is_our_label(key: str) -> bool:
    """True if only the controller may write this label."""
    return re.fullmatch("(.*[.])?exclave[.]dev", key.partition("/")[0]) is not None


def account_of(group: Object) -> str:
    """The ServiceAccount of a WorkloadGroup, whose spec may be malformed."""
    return str(mapping_in(group, "spec").get("serviceAccount") or group["metadata"]["name"])


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
    name = str(number) if port.get("name") is None else fields.text(port, "name")
    return Port(name, number, fields.optional(port, "opaque", bool))


def _limited(tree: Mapping[str, Any], key: str, default: str) -> float:
    """A duration within its limits."""
    # Others were accepted before. The members of such a group go on, with the nearest possible value.
    least, most = LIMITS[key]
    return min(max(fields.seconds(tree, key, default), least), most)


def _probe(probe: Any) -> Probe:
    if not isinstance(probe, dict):
        raise FieldError(f"probes: a mapping was expected, found {fields.shown(probe)}")
    default = Probe(port=0)
    return Probe(
        port=fields.whole(probe, "port", 1, 65535),
        kind=fields.one_of(probe, "kind", "tcp"),
        every=_limited(probe, "every", format_duration(default.every)),
        timeout=_limited(probe, "timeout", format_duration(default.timeout)),
        failures=default.failures
        if probe.get("failures") is None
        else fields.whole(probe, "failures", 1, MOST_FAILURES),
    )
