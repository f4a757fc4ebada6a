"""The rows of `check` about members that stand where something else stands: at its address, or in its Service. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address

from exclave.admin.check.rows import Row, row
from exclave.admin.group.checks import group_warnings
from exclave.admin.tables import few
from exclave.api.fields import FieldError
from exclave.api.group import parse_group
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.names import GROUP_LABEL
from exclave.api.requests import Object


def cluster_addresses(nodes: Iterable[Object], services: Iterable[Object], slices: Iterable[Object]) -> dict[str, str]:
    """Whose each address of the cluster is. The slices have the addresses of pods and of API servers."""
    found: dict[str, str] = {}
    for node in nodes:
        for one in mappings_in(mapping_in(node, "status"), "addresses"):
            _add(found, one.get("address"), f"node {node['metadata']['name']}")
    for service in services:
        spec, balancer = mapping_in(service, "spec"), mapping_in(mapping_in(service, "status"), "loadBalancer")
        addresses: list[object] = [*_texts(spec.get("clusterIPs")), *_texts(spec.get("externalIPs"))]
        addresses += [one.get("ip") for one in mappings_in(balancer, "ingress")]
        for address in addresses:
            _add(found, address, f"Service {_place(service)}")
    for one in slices:
        for endpoint in mappings_in(one, "endpoints"):
            target = mapping_in(endpoint, "targetRef")
            if target.get("kind") == "ExternalWorkload":
                continue
            name = f"pod {target.get('namespace')}/{target.get('name')}" if target else f"an endpoint of {_place(one)}"
            for address in _texts(endpoint.get("addresses")):
                _add(found, address, name)
    return found


def address_rows(workloads: Iterable[Object], cluster: Mapping[str, str]) -> list[Row]:
    """Does a member have an address of the cluster? Pods would speak TLS to it, for the member's identity."""
    found = []
    for one in workloads:
        if GROUP_LABEL not in mapping_in(mapping_in(one, "metadata"), "labels"):
            continue
        for listed in mappings_in(mapping_in(one, "spec"), "workloadIPs"):
            address = _plain(listed.get("ip"))
            if address is not None and address in cluster:
                found.append(f"{_place(one)} has {address}, the address of {cluster[address]}")
    hint = (
        "evict it: kubectl exclave member evict NAME; and name networks of machines only: "
        "kubectl exclave group create GROUP --network CIDR"
    )
    return [row("no member has an address of the cluster", few(found), hint)]


def overlap_rows(groups: Sequence[Object], services: Sequence[Object], pods: Sequence[Object]) -> list[Row]:
    """Do groups share Services, labels or identities with pods or with each other? Headless Services have a row."""
    usable = [one for one in services if mapping_in(one, "spec").get("clusterIP") != "None"]
    found = []
    for group in groups:
        name, where = group["metadata"]["name"], group["metadata"]["namespace"]
        try:
            spec = parse_group(name, mapping_in(group, "spec"))
        except FieldError:
            continue  # the check of groups reports it
        here = [[one for one in some if one["metadata"]["namespace"] == where] for some in (groups, usable, pods)]
        found += [f"in {where}: {line}" for line in group_warnings(name, spec, *here, opaque_ports=None)]
    hint = "if it is not meant, give the group other labels: kubectl exclave group create GROUP --label KEY=VALUE"
    title = "groups share no Service and no identity"
    return [row(title, "; ".join(dict.fromkeys(found)) or None, hint, "warning")]


def _add(found: dict[str, str], address: object, whose: str) -> None:
    if (plain := _plain(address)) is not None:
        found.setdefault(plain, whose)


def _plain(address: object) -> str | None:
    try:
        found = ip_address(str(address))
    except ValueError:
        return None  # such as "None" of a headless Service, or a node's name
    return str((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found)


def _texts(listed: object) -> list[str]:
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _place(one: Object) -> str:
    return f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
