"""The ExternalWorkload that a member must have, all but its `status`, which the machine writes. Pure.

One condition is an exception: Ready=False before its address changes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from exclave.api.group import Port
from exclave.api.identity import server_name
from exclave.api.malformed import mapping_in, mappings_in
from exclave.api.member import READY, condition_of, read_conditions, transition_time
from exclave.api.names import GROUP_LABEL, PORTS_FINALIZER
from exclave.api.requests import EXTERNAL_WORKLOADS, WORKLOAD_GROUPS, Object, Request, create, patch
from exclave.api.workload.opaque_ports import OPAQUE_PORTS, opaque_list
from exclave.api.workload.withdrawal import is_withdrawn, withdrawal
from exclave.controller.policy.admit import address_refusal, is_listed_elsewhere
from exclave.controller.policy.claims import plain_address
from exclave.controller.policy.snapshot import Group, MemberSnapshot, Mesh, workload_ports
from exclave.kit.formats.kubernetes import is_label_value

ZONE_LABEL = "topology.kubernetes.io/zone"
# Annotation: the labels that we wrote, so that one removed from the group is removed here, and other labels stay.
OUR_LABELS = "exclave.dev/labels"

ADDRESS_CHANGES = "AddressChanges"  # reason of condition Ready: the controller is about to change the address

INBOUND_POLICY = "config.linkerd.io/default-inbound-policy"


def may_list(snapshot: MemberSnapshot, group: Group) -> bool:
    """True if ports are listed. Those of a cordoned member are withdrawn after it has reported that it is not ready."""
    view = snapshot.view
    # Pods speak TLS to every listed port, ready or not, so ports are listed only while a proxy serves them.
    if view.deleting or not view.serving or not snapshot.live or address_refusal(snapshot, group) is not None:
        return False
    if is_listed_elsewhere(snapshot, group):
        return False
    return not view.cordoned or is_ready(snapshot.workload)


def is_ready(workload: Object | None) -> bool:
    """True if an ExternalWorkload receives traffic."""
    conditions = ((workload or {}).get("status") or {}).get("conditions")
    return any(one.type == READY and one.status for one in read_conditions(conditions))


def is_of_group(workload: Object) -> bool:
    """True if an ExternalWorkload is a group's. The admission policy lets the controller touch no other."""
    metadata = mapping_in(workload, "metadata")
    owners = mappings_in(metadata, "ownerReferences")
    return (
        GROUP_LABEL in mapping_in(metadata, "labels")
        or PORTS_FINALIZER in (metadata.get("finalizers") or ())
        or any(one.get("kind") == WORKLOAD_GROUPS.kind for one in owners)
    )


def wanted_workload(snapshot: MemberSnapshot, group: Group, mesh: Mesh) -> Object:
    """The ExternalWorkload that the member must have."""
    view = snapshot.view
    ports = _served(snapshot, group) if may_list(snapshot, group) else ()
    labels = {**group.spec.labels, GROUP_LABEL: group.name}
    zone = view.facts.get("zone", "")
    if zone and is_label_value(zone):  # an invalid label fails every write, also one that withdraws the ports
        labels[ZONE_LABEL] = zone
    return {
        "apiVersion": EXTERNAL_WORKLOADS.api_version,
        "kind": EXTERNAL_WORKLOADS.kind,
        "metadata": {
            "name": view.name,
            "namespace": snapshot.namespace,
            "labels": labels,
            "annotations": {  # an ExternalWorkload does not inherit its namespace's annotations
                # An annotation replaces Linkerd's list, so it has that list, too.
                OPAQUE_PORTS: opaque_list(mesh.linkerd.opaque_ports, group.spec.ports),
                INBOUND_POLICY: group.spec.inbound_policy or mesh.linkerd.inbound_policy,
                OUR_LABELS: ",".join(sorted(labels)),
            },
            "finalizers": [PORTS_FINALIZER],
            "ownerReferences": [owner_of(group)],
        },
        "spec": {
            "meshTLS": {
                "identity": mesh.identity_of(group).spiffe_id,
                "serverName": server_name(group.name, group.namespace, mesh.linkerd.cluster_domain),
            },
            "workloadIPs": _addresses(snapshot, group),
            "ports": [{"name": port.name, "port": port.port, "protocol": "TCP"} for port in ports],
        },
    }


def _served(snapshot: MemberSnapshot, group: Group) -> tuple[Port, ...]:
    """The group's ports, without new ones that the member's proxy does not serve yet."""
    # If none is listed, list all: a member that serves but cannot read newer settings must stay reachable.
    loaded, listed = snapshot.view.loaded.get("settings"), set(workload_ports(snapshot.workload))
    if not loaded or not listed or snapshot.settings_digest is None:
        return group.spec.ports
    if loaded == snapshot.settings_digest:
        listed |= snapshot.settings_ports
    return tuple(port for port in group.spec.ports if port.port in listed)


def _addresses(snapshot: MemberSnapshot, group: Group) -> list[Object]:
    """The stated address; if it is refused, those in its ExternalWorkload, so that it takes over no other address."""
    if address_refusal(snapshot, group) is not None:
        return list((snapshot.workload or {}).get("spec", {}).get("workloadIPs") or [])
    return [{"ip": plain_address(snapshot.view.addresses[0])}]


@dataclass(frozen=True)
class MarkNotReady:
    """Write Ready=False to the ExternalWorkload. Only the machine may write Ready=True."""

    label: ClassVar = "MarkNotReady"
    reason: str
    message: str


def register(snapshot: MemberSnapshot, group: Group, mesh: Mesh) -> Request | MarkNotReady | float | None:
    """The request that creates or corrects the ExternalWorkload, or the seconds to wait before the next one.

    None if nothing differs, or there is no address.
    """
    wanted, found = wanted_workload(snapshot, group, mesh), snapshot.workload
    if found is None:
        return create(EXTERNAL_WORKLOADS, snapshot.namespace, wanted) if wanted["spec"]["workloadIPs"] else None
    if _must_give_notice(wanted, found) and (step := withdraw(snapshot, found)) is not None:
        return step
    if _moves(wanted, found) and (removal := _end_endpoint(snapshot, found)) is not None:
        return removal
    changes = _changes(wanted, found)
    return patch(EXTERNAL_WORKLOADS, snapshot.namespace, snapshot.view.name, changes) if changes else None


def withdraw(snapshot: MemberSnapshot, workload: Object) -> Request | float | None:
    """The request that marks the ExternalWorkload, or the seconds to wait; None if its ports or its address may go."""
    if is_withdrawn(workload):
        return snapshot.notice_left or None
    return snapshot.settle_left or patch(
        EXTERNAL_WORKLOADS, snapshot.namespace, snapshot.view.name, withdrawal(workload)
    )


def _must_give_notice(wanted: Object, found: Object) -> bool:
    """True if ports are listed at an address where no port is wanted."""
    return _moves(wanted, found) or bool(workload_ports(found) and not wanted["spec"]["ports"])


def _moves(wanted: Object, found: Object) -> bool:
    """True if ports are listed at another address than the wanted one."""
    return bool(workload_ports(found)) and not _same(wanted["spec"]["workloadIPs"], found["spec"].get("workloadIPs"))


def _end_endpoint(snapshot: MemberSnapshot, workload: Object) -> MarkNotReady | float | None:
    """The step that ends the endpoint of Services, or the seconds to wait; None if its address may change.

    Linkerd reports endpoints of a Service to pods by the name of the ExternalWorkload. Another address of an endpoint
    is never reported, and pods use the old one for ever. See `awaits_ready_since` for its return.
    """
    if is_ready(workload):
        return MarkNotReady(ADDRESS_CHANGES, "pods get its new address in a second")
    return snapshot.settle_left or None


def awaits_ready_since(snapshot: MemberSnapshot, group: Group) -> str | None:
    """The time since which the machine must report Ready again after a change of its address; None if it need not.

    It must, too, if the Member got its former address again before the change.
    """
    ready = condition_of(snapshot.workload, READY)
    if ready is None or ready.reason != ADDRESS_CHANGES:
        return None
    listed = mapping_in(snapshot.workload, "spec").get("workloadIPs")
    if not _same(_addresses(snapshot, group), listed):
        return None  # it changes now
    return transition_time(mapping_in(snapshot.workload, "status"), READY)


def _changes(wanted: Object, found: Object) -> Object:
    """A merge patch that turns `found` into `wanted` in the fields that we own; empty if nothing differs."""
    spec = {key: value for key, value in wanted["spec"].items() if not _same(value, found.get("spec", {}).get(key))}
    metadata: dict[str, Any] = {}
    for key in ("labels", "annotations"):
        theirs = found["metadata"].get(key) or {}
        changed = {name: value for name, value in wanted["metadata"][key].items() if theirs.get(name) != value}
        if key == "labels":
            ours = (found["metadata"].get("annotations") or {}).get(OUR_LABELS, "").split(",")
            changed |= {name: None for name in ours if name in theirs and name not in wanted["metadata"]["labels"]}
        if changed:
            metadata[key] = changed
    for key in ("ownerReferences", "finalizers"):
        if (found["metadata"].get(key) or []) != wanted["metadata"][key]:
            metadata[key] = wanted["metadata"][key]
    return {key: value for key, value in (("metadata", metadata), ("spec", spec)) if value}


def _same(wanted: Any, found: Any) -> bool:
    """Equal, where an absent list is an empty one."""
    return bool(wanted == found or (not wanted and not found))


def owner_of(group: Group) -> Object:
    """The owner reference with which an object is deleted together with its group."""
    return {
        "apiVersion": WORKLOAD_GROUPS.api_version,
        "kind": WORKLOAD_GROUPS.kind,
        "name": group.name,
        "uid": group.uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }
