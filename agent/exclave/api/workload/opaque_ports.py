"""Opaque ports: those in which Linkerd's proxies detect no protocol, in Linkerd's list, in a group, in a Service. Pure.

Detection waits up to 10 s for a client's first bytes. A program whose server speaks first, such as a database, suffers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from exclave.api.group import Port
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.requests import Object
from exclave.kit.formats.kubernetes import is_dns_label
from exclave.kit.formats.ranges import Span, parse_span

OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
"""Annotation of a workload (its own ports) or of a Service (the Service's ports). Where it is missing, Linkerd's own
list holds, and where it is present, only the annotation. Source: linkerd2, controller/api/destination/watcher."""

_ITEM = re.compile("[^,]+")

DETECTION = "each connection on which the server speaks first waits 10 s"


def read_opaque(text: str) -> tuple[tuple[Span, ...], frozenset[str]]:
    """Numbers and names in a list such as `25,4000-4010,db`. An item that is neither is skipped, as Linkerd does."""
    spans: set[Span] = set()
    names = set()
    for found in _ITEM.finditer(text):
        item = found[0].strip()
        if re.fullmatch("[0-9]{1,5}", item):
            spans.add((int(item), int(item)))
        elif is_dns_label(item) and not item.replace("-", "").isdecimal():
            names.add(item)
        else:
            with suppress(ValueError):
                spans.add(parse_span(item))
    return tuple(sorted(spans)), frozenset(names)


def is_opaque(text: str, port: int, name: str = "") -> bool:
    """True if a list has the port, by its number, in a range or by its name."""
    spans, names = read_opaque(text)
    return name in names or any(first <= port <= last for first, last in spans)


def opaque_list(linkerd: str, ports: Sequence[Port]) -> str:
    """Linkerd's list and the group's opaque ports: what the annotation of a member, and its proxy, must have."""
    listed = [item for item in (item.strip() for item in linkerd.split(",")) if item]
    listed += [str(port.port) for port in ports if port.opaque and not is_opaque(linkerd, port.port)]
    return ",".join(listed)


@dataclass(frozen=True)
class OpaqueMismatch:
    """A port that is opaque for a Service and not for the group it leads to, or the other way; and the remedy."""

    problem: str
    remedy: str


def opaque_mismatches(service: Object, group: str, ports: Sequence[Port], linkerd: str) -> Iterator[OpaqueMismatch]:
    """The mismatches of a Service that selects the group. `linkerd`: Linkerd's own list."""
    if mapping_in(service, "spec").get("clusterIP") == "None":
        return  # its callers connect to addresses of members, for which the members' annotation holds
    metadata = service["metadata"]
    name, namespace = str(metadata["name"]), str(metadata.get("namespace", ""))
    annotation = mapping_in(metadata, "annotations").get(OPAQUE_PORTS)
    listed = linkerd if annotation is None else str(annotation)
    title = f"Service {name}"
    for port, target in _targets(service, ports):
        number = int(port["port"])
        has_service = is_opaque(listed, number, str(port.get("name") or ""))
        has_group = target.opaque or is_opaque(linkerd, target.port)
        if has_group and not has_service:
            wanted = ",".join(filter(None, [listed.strip(" ,"), str(number)]))
            yield OpaqueMismatch(
                f"port {target.port} of group {group} is opaque, and port {number} of {title} is not: {DETECTION}",
                f"kubectl -n {namespace} annotate --overwrite service {name} {OPAQUE_PORTS}={wanted}",
            )
        elif has_service and not has_group:
            yield OpaqueMismatch(
                f"port {number} of {title} is opaque, and port {target.port} of group {group} is not: {DETECTION}",
                f"kubectl exclave group create {group} -n {namespace} {_options(ports, target)}",
            )


def _targets(service: Object, ports: Sequence[Port]) -> Iterator[tuple[Mapping[str, Any], Port]]:
    """The ports of a Service, each with the group's port that it leads to."""
    for port in mappings_in(mapping_in(service, "spec"), "ports"):
        target = port.get("targetPort") or port.get("port")
        for one in ports:
            if target in (one.port, one.name) and isinstance(port.get("port"), int):
                yield port, one


def _options(ports: Sequence[Port], opaque: Port) -> str:
    """All ports as options of `group create`, which replaces the list; this one as opaque."""
    return " ".join(
        f"--port name={port.name},port={port.port}{',opaque' if port.opaque or port == opaque else ''}"
        for port in ports
    )
