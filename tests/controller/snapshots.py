"""Values for tests of the pure modules: one Member of group `web`, and what belongs to it."""

from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.delivery import delivery_key_text
from exclave.api.group import GroupSpec, Port
from exclave.api.member import Condition, make_condition, member_object
from exclave.api.names import FINALIZER
from exclave.api.requests import Object
from exclave.api.settings import ControlPlane, LinkerdSettings
from exclave.api.workload.withdrawal import is_withdrawn
from exclave.controller.policy.mark import MarkKey, mark_of
from exclave.controller.policy.register import wanted_workload
from exclave.controller.policy.snapshot import Group, MemberSnapshot, Mesh, Signed, workload_ports
from exclave.controller.policy.transitions import (
    Action,
    MarkNotReady,
    PutWorkload,
    RecheckAfter,
    Transition,
    WriteStatus,
)
from exclave.kit.formats.times import rfc3339
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from support.mesh import CA

NOW = 1_800_000_000.0
NAMESPACE, NAME, ADDRESS = "shop", "web-k7q2x-1", "10.77.0.20"
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = make_csr(KEY, NAME)
DELIVERY_KEY = delivery_key_text(KEY)

GROUP = Group(
    NAMESPACE,
    "web",
    "group-uid",
    GroupSpec(service_account="web", networks=("10.77.0.0/24",), labels={"app": "web"}, ports=(Port("http", 8080),)),
)
MESH = Mesh(
    LinkerdSettings(
        "linkerd", "cluster.local", "cluster.local", ("10.42.0.0/16",), "v2", "all-unauthenticated", "25,3306"
    ),
    CA,
    "ab" * 32,
    ControlPlane(("10.42.0.2",), ("10.42.0.3",), ("10.42.0.4",)),
)


MARK_KEY = MarkKey(b"k" * 32, NOW - 86400.0)


def make_member(age: float = 5.0, deleting: bool = False, finalizer: bool = True, **spec: Any) -> Object:
    """A Member as a machine made it `age` seconds ago; `spec` replaces fields of its spec."""
    found = member_object(
        NAMESPACE,
        NAME,
        nonce="n",
        machine_hash="0123456789abcdef",
        delivery_key=DELIVERY_KEY,
        csr=CSR,
        addresses=[ADDRESS],
        facts={},
    )
    found["spec"] |= spec
    found["metadata"] |= {"uid": "member-uid", "creationTimestamp": rfc3339(NOW - age)}
    if finalizer:
        found["metadata"]["finalizers"] = [FINALIZER]
    if deleting:
        found["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    return found


def with_status(member: Object, *conditions: Condition, **status: Any) -> Object:
    """The Member with this status."""
    made = [make_condition(condition, NOW - 60) for condition in conditions]
    return {**member, "status": {"conditions": made, **status}}


def marked(member: Object) -> Object:
    """The Member with the mark of the controller that admitted it."""
    return {**member, "status": {**member.get("status", {}), "mark": mark_of(MARK_KEY, member)}}


def make_snapshot(member: Object | None = None, **changes: Any) -> MemberSnapshot:
    """Its snapshot. Nothing is made for it yet, except by `changes`."""
    made = {"member": member or make_member(), "now": NOW, "group": GROUP, "mesh": MESH, "mark_key": MARK_KEY}
    return MemberSnapshot(**{**made, **changes})


ADMITTED = Condition("Admitted", True, "Admitted", "a member of group web")
REGISTERED = Condition("Registered", True, "Registered", f"ExternalWorkload {NAME} exists")
LIVE = Condition("Live", True, "HeartbeatsArrive", "its Lease is being renewed")


def settled_snapshot(serving: bool = False, **changes: Any) -> MemberSnapshot:
    """A live member for whom everything is done."""
    member = make_member(3600.0, serving=serving)
    workload = wanted_workload(make_snapshot(member, live=True), GROUP, MESH)
    workload["metadata"]["uid"] = "workload-uid"
    ports = [port["port"] for port in workload["spec"]["ports"]]
    status = {
        "certificate": {"csrSha256": csr_sha256(CSR), "chain": "chain", "notAfter": rfc3339(NOW + 3600)},
        "externalWorkload": {"uid": "workload-uid", "ports": ports},
        "settings": "d" * 64,
        "mark": mark_of(MARK_KEY, member),
    }
    return make_snapshot(
        with_status(member, ADMITTED, REGISTERED, LIVE, **status),
        **{
            "workload": workload,
            "has_account": True,
            "has_lease": True,
            "has_heartbeat": True,
            "live": True,
            "settings_digest": "d" * 64,
            **changes,
        },
    )


def make_lease(renewed: str | None = "2027-01-15T08:00:00.000000Z", **spec: str) -> Object:
    times = {"renewTime": renewed} if renewed else {}
    return {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {**times, **spec}}


def with_metadata(found: Object, **changes: Any) -> Object:
    return {**found, "metadata": {**found["metadata"], **changes}}


SIGNED = Signed(csr_sha256(CSR), "chain", NOW + 3600.5, 0x7A, "key")


def executed(transition: Transition | None, snapshot: MemberSnapshot) -> MemberSnapshot:
    """The snapshot after a transition, as executor and API server leave it."""
    workload = snapshot.workload or {}
    if isinstance(transition, PutWorkload):
        made = merge_patch(workload, transition.request.body or {})
        return snapshot.replaced(
            workload=merge_patch(made, {"metadata": {"uid": "workload-uid"}}),
            unready_at=snapshot.unready_at if workload_ports(made) else None,
            withdrawn_at=snapshot.now if is_withdrawn(made) else None,
        )
    if isinstance(transition, WriteStatus):
        return snapshot.replaced(member=merge_patch(snapshot.member, transition.patch), signed=None, sealed=None)
    if isinstance(transition, MarkNotReady):
        return snapshot.replaced(workload={**workload, "status": {}}, unready_at=snapshot.now)
    if isinstance(transition, RecheckAfter):
        return snapshot.replaced(now=snapshot.now + transition.seconds)
    assert isinstance(transition, Action), transition
    held = {"metadata": {"finalizers": [FINALIZER]}}
    changes: dict[Action, dict[str, Any]] = {
        Action.ADD_FINALIZER: {"member": merge_patch(snapshot.member, held)},
        Action.MAKE_ACCOUNT: {"has_account": True},
        Action.MAKE_LEASE: {"has_lease": True},
        Action.SIGN: {"signed": replace(SIGNED, csr_sha256=csr_sha256(snapshot.view.csr))},
        Action.SEAL: {"sealed": "eyJ"},
        Action.DELETE_ACCOUNT: {"account_deleted": True},
        Action.EMPTY_PORTS: {"workload": merge_patch(workload, {"spec": {"ports": []}}), "emptied_at": snapshot.now},
        Action.DELETE_WORKLOAD: {"workload": merge_patch(workload, {"metadata": {"deletionTimestamp": "now"}})},
        Action.RELEASE_WORKLOAD: {"workload": None},
        Action.DELETE_LEASE: {"has_lease": False, "has_heartbeat": False, "live": False},
        Action.RELEASE_MEMBER: {},
    }
    return snapshot.replaced(**changes[transition])
