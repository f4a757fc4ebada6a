"""Executes transitions, with one or two requests each. All may be repeated: nothing fails if it was done before."""

import logging
from collections.abc import Callable
from dataclasses import replace

from cryptography import x509

from exclave.api.csr import csr_sha256
from exclave.api.delivery import seal
from exclave.api.group import parse_group
from exclave.api.issuer import Issuer
from exclave.api.malformed import MALFORMED
from exclave.api.member import READY, Condition, with_condition
from exclave.api.names import (
    FINALIZER,
    GROUP_LABEL,
    PORTS_FINALIZER,
    accounts_namespace,
    group_of_member,
    parse_member_name,
)
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Object,
    Request,
    Resource,
    create,
    create_token,
    delete,
    get,
    list_all,
    patch,
)
from exclave.api.workload.withdrawal import is_withdrawn
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.admit import admit, foreign_refusal
from exclave.controller.policy.register import MarkNotReady
from exclave.controller.policy.sign import sign
from exclave.controller.policy.snapshot import Adoption, Group, MemberSnapshot, workload_ports
from exclave.controller.policy.transitions import (
    Action,
    DeleteMember,
    PutWorkload,
    Transition,
    WriteStatus,
    signing_fault,
)
from exclave.errors import ApiRefusal
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

CREDENTIAL_LIFE = 30 * 86400  # seconds; the API server may grant less


class Executor:
    """Executes transitions. `issuer` returns the current issuer, None if there is none."""

    def __init__(self, cluster: Sender, issuer: Callable[[], Issuer | None], now: Now) -> None:
        self._cluster = cluster
        self._issuer = issuer
        self._now = now

    async def execute(self, transition: Transition, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        """Execute a transition. Returns the next snapshot, None without a Member. Raises ExclaveError, ValueError."""
        if isinstance(transition, Action):
            return await self._act(transition, snapshot)
        if isinstance(transition, WriteStatus):
            return await self._write_status(transition.patch, snapshot)
        if isinstance(transition, PutWorkload):
            workload = await self._cluster.send(transition.request)
            now = self._now()
            return snapshot.replaced(
                workload=workload,
                emptied_at=None if workload_ports(workload) else now,
                unready_at=snapshot.unready_at if workload_ports(workload) else None,
                withdrawn_at=now if is_withdrawn(workload) else None,
            )
        if isinstance(transition, MarkNotReady):
            return await self._mark_not_ready(transition, snapshot)
        if isinstance(transition, DeleteMember):
            return await self._delete_member(transition, snapshot)
        raise TypeError(f"{transition} is not executed")

    async def _act(self, action: Action, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        namespace, name = snapshot.namespace, snapshot.view.name
        if action is Action.ADD_FINALIZER:
            body = _metadata(finalizers=[*snapshot.view.finalizers, FINALIZER])
            return await self._member(patch(MEMBERS, namespace, name, body), snapshot)
        if action is Action.RELEASE_MEMBER:  # of any name: others may have added our finalizer
            if foreign_refusal(snapshot) is None:
                # A Lease without the label is not watched. One that the admission policy protects is not ours.
                await self._unless((403, 404, 422), delete(LEASES, namespace, name))
            await self._release((MEMBERS, namespace, name), FINALIZER)
            return None
        accounts, account = accounts_namespace(namespace), parse_member_name(name).account
        if action is Action.MAKE_ACCOUNT:
            await self._unless((409,), create(SERVICE_ACCOUNTS, accounts, {"metadata": {"name": account}}))
            return snapshot.replaced(has_account=True)
        if action is Action.MAKE_LEASE:
            return await self._make_lease(snapshot)
        if action is Action.SIGN:
            return await self._sign(snapshot)
        if action is Action.ADOPT:
            return snapshot.replaced(adoption=await self._adoption(accounts, account))
        if action is Action.SEAL:
            granted = await self._unless((404,), create_token(accounts, account, CREDENTIAL_LIFE))
            if granted is None:
                return snapshot.replaced(has_account=False)  # deleted meanwhile: the next transition creates it
            return snapshot.replaced(sealed=seal(str(granted["status"]["token"]), snapshot.view.delivery_key))
        if action is Action.DELETE_ACCOUNT:
            if snapshot.was_never_admitted:  # without a group there are no Roles
                await self._unless((403, 404), delete(SERVICE_ACCOUNTS, accounts, account))
            else:
                await self._delete_account(accounts, account)
            return snapshot.replaced(account_deleted=True)
        if action is Action.DELETE_LEASE:
            await self._unless((403, 404, 422), delete(LEASES, namespace, name))  # as above
            return snapshot.replaced(has_lease=False, has_heartbeat=False, live=False, clones=None)
        return await self._retire_workload(action, snapshot)

    async def _delete_account(self, namespace: str, account: str) -> None:
        """Delete an account, with all its tokens. A namespace that is being deleted takes its accounts with it."""
        try:
            await self._unless((404,), delete(SERVICE_ACCOUNTS, namespace, account))
        except ApiRefusal as refusal:
            # Such a namespace loses our right first. What it still has goes without us: do not wait for it.
            if refusal.status != 403 or not await self._is_going(namespace):
                raise

    async def _is_going(self, namespace: str) -> bool:
        """True if a namespace is being deleted, or is gone."""
        found = await self._unless((404,), get(NAMESPACES, None, namespace))
        return found is None or "deletionTimestamp" in found["metadata"]

    async def _make_lease(self, snapshot: MemberSnapshot) -> MemberSnapshot:
        namespace, name = snapshot.namespace, snapshot.view.name
        labels = {GROUP_LABEL: group_of_member(name)}
        metadata = {"name": name, "labels": labels}
        lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": {}}
        made = await self._unless((409,), create(LEASES, namespace, lease))
        if made is None and not snapshot.was_live:
            # It was there before this Member, so its renewals prove nothing about this one: make another.
            await self._unless((404,), delete(LEASES, namespace, name))
            made = await self._cluster.send(create(LEASES, namespace, lease))
        if made is not None:
            return snapshot.replaced(has_lease=True)
        # An earlier version made it without the label, or somebody has removed the label: the watch does not show it.
        adopted = await self._cluster.send(patch(LEASES, namespace, name, _metadata(labels=labels)))
        return snapshot.replaced(has_lease=True, adopted_lease=adopted)

    async def _retire_workload(self, action: Action, snapshot: MemberSnapshot) -> MemberSnapshot:
        place = (EXTERNAL_WORKLOADS, snapshot.namespace, snapshot.view.name)
        if action is Action.EMPTY_PORTS:
            changed = await self._unless((404,), patch(*place, {"spec": {"ports": []}}))
            return snapshot.replaced(workload=changed, emptied_at=self._now())
        if action is Action.DELETE_WORKLOAD:
            await self._unless((404,), delete(*place))
            workload = snapshot.workload or {}
            gone = {**workload, "metadata": {**workload.get("metadata", {}), "deletionTimestamp": "now"}}
            return snapshot.replaced(workload=gone)
        await self._release(place, PORTS_FINALIZER)
        return snapshot.replaced(workload=None)

    async def _write_status(self, body: Object, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        if snapshot.signed is not None:  # two controllers must not both sign one CSR: the second gets a conflict
            body = {**body, **_metadata(resourceVersion=snapshot.view.resource_version)}
        request = patch(MEMBERS, snapshot.namespace, snapshot.view.name, body, "status")
        written = await self._member(request, snapshot)
        return written.replaced(signed=None, sealed=None) if written else None

    async def _mark_not_ready(self, transition: MarkNotReady, snapshot: MemberSnapshot) -> MemberSnapshot:
        found = ((snapshot.workload or {}).get("status") or {}).get("conditions") or []
        condition = Condition(READY, False, transition.reason, transition.message)
        body = {"status": {"conditions": with_condition(found, condition, self._now())}}
        request = patch(EXTERNAL_WORKLOADS, snapshot.namespace, snapshot.view.name, body, "status")
        workload = await self._unless((404,), request)
        return snapshot.replaced(workload=workload, unready_at=self._now() if workload_ports(workload) else None)

    async def _delete_member(self, transition: DeleteMember, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        view = snapshot.view
        log.info("%s/%s is deleted: %s", snapshot.namespace, view.name, transition.why)
        # Another machine may have joined under this name since the decision, so delete only the Member with this uid.
        gone = await self._unless((404, 409), delete(MEMBERS, snapshot.namespace, view.name, uid=view.uid))
        # Our finalizer holds the Member until everything that was created for it is removed.
        return snapshot.replaced(member=gone) if gone is not None and gone.get("kind") == MEMBERS.kind else None

    async def _sign(self, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        # The cache may be late and the Member evicted meanwhile, so read Member and group again before signing.
        live = await self._member(get(MEMBERS, snapshot.namespace, snapshot.view.name), snapshot)
        if live is None or live.view.deleting or live.group is None or live.mesh is None:
            return live
        mesh = live.mesh
        found = await self._cluster.send(get(WORKLOAD_GROUPS, live.namespace, live.group.name))
        group = _newest(live.group, found)
        live = live.replaced(group=group)
        view, issued = live.view, live.view.certificate
        if issued is not None and issued.csr_sha256 == csr_sha256(view.csr):
            return live  # signed already
        if not admit(live).admitted or signing_fault(live) is not None:
            return live  # the next transition writes the reason
        issuer = self._issuer()
        if issuer is None:
            raise ValueError("there is no issuer that may sign")
        signed = sign(
            view.csr,
            view.name,
            mesh.identity_of(group),
            group.spec.certificate_lifetime,
            issuer,
            now=self._now(),
            serial=x509.random_serial_number(),
        )
        log.info("signed %x for %s/%s", signed.serial, live.namespace, view.name)
        return live.replaced(signed=signed)

    async def _adoption(self, accounts: str, account: str) -> Adoption:
        """Find the member's account, which proves an admission: the controller alone creates it, and only then."""
        try:
            listed = await self._cluster.send(
                list_all(SERVICE_ACCOUNTS, accounts, fieldSelector=f"metadata.name={account}")
            )
        except ApiRefusal as refusal:
            if refusal.status == 403:
                log.warning("account %s/%s cannot be read: %s", accounts, account, refusal)
                return "unknown"
            raise
        return "adopted" if listed.get("items") else "refused"

    async def _release(self, place: tuple[Resource, str, str], finalizer: str) -> None:
        """Remove our finalizer from an object that is being deleted."""
        # Kubernetes may remove its finalizer `orphan` meanwhile, and does not accept it again: read the current ones.
        found = await self._unless((404,), get(*place))
        if found is not None:
            left = [one for one in found["metadata"].get("finalizers") or () if one != finalizer]
            await self._unless((404,), patch(*place, _metadata(finalizers=left)))

    async def _member(self, request: Request, snapshot: MemberSnapshot) -> MemberSnapshot | None:
        member = await self._unless((404,), request)
        return None if member is None else snapshot.replaced(member=member)

    async def _unless(self, statuses: tuple[int, ...], request: Request) -> Object | None:
        """Send a request; None if the response has one of these statuses, which mean that there is nothing to do."""
        try:
            return await self._cluster.send(request)
        except ApiRefusal as refusal:
            if refusal.status in statuses:
                return None
            raise


def _newest(group: Group, found: Object) -> Group:
    """The group as it is now, or its last good reading. Raises ValueError if its account has just changed."""
    try:
        spec = parse_group(group.name, found.get("spec") or {})
    except MALFORMED:
        return group
    if spec.service_account != group.spec.service_account:
        # Whether it may have this account is decided when the watch has reported the change.
        raise ValueError(f"group {group.name}: its ServiceAccount has just changed")
    return replace(group, spec=spec)


def _metadata(**fields: object) -> Object:
    return {"metadata": fields}
