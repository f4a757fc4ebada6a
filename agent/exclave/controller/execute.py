"""Carrying out the controller's steps: each a request or two, nothing decided here.

Rules: what is there already, or gone already, counts as done, so that every step may be repeated. A certificate is
signed only after Member and group were read live: a cache may lie behind an eviction. Returns the world with what the
step changed.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from cryptography import x509

from exclave.api.csr import csr_sha256
from exclave.api.delivery import seal
from exclave.api.issuer import Issuer
from exclave.api.member import READY, Condition, with_condition
from exclave.api.names import FINALIZER, PORTS_FINALIZER, accounts_namespace, parse_member_name
from exclave.api.requests import (
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    Object,
    Request,
    Resource,
    create,
    create_token,
    delete,
    get,
    patch,
)
from exclave.api.settings import parse_group
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.reap import (
    DeleteAccount,
    DeleteLease,
    DeleteWorkload,
    EmptyPorts,
    MarkNotReady,
    ReleaseMember,
)
from exclave.controller.policy.sign import sign
from exclave.controller.policy.snapshot import MemberWorld, workload_ports
from exclave.controller.policy.transitions import (
    AddFinalizer,
    DeleteMember,
    MakeAccount,
    MakeLease,
    PutWorkload,
    Seal,
    Sign,
    Step,
    WriteStatus,
)
from exclave.errors import ApiRefusal
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

CREDENTIAL_LIFE = 30 * 86400
"""Seconds asked for; the API server may grant less."""


class Carrier:
    """Carries out steps. `issuer` gives the issuer of the moment, None if there is none that may sign."""

    def __init__(self, cluster: Sender, issuer: Callable[[], Issuer | None], now: Now) -> None:
        self._cluster = cluster
        self._issuer = issuer
        self._now = now

    async def carry(self, step: Step, world: MemberWorld) -> MemberWorld | None:
        """Do one step; None if the Member is gone. Raises ExclaveError, ValueError."""
        if isinstance(step, Sign):
            return await self._sign(world)
        if isinstance(step, Seal):
            return await self._seal(world)
        if isinstance(step, (AddFinalizer, MakeAccount, MakeLease, PutWorkload, WriteStatus)):
            return await self._make(step, world)
        return await self._undo(step, world)

    async def _make(
        self, step: AddFinalizer | MakeAccount | MakeLease | PutWorkload | WriteStatus, world: MemberWorld
    ) -> MemberWorld | None:
        namespace, name = world.namespace, world.view.name
        if isinstance(step, AddFinalizer):
            body = _metadata(finalizers=[*world.view.finalizers, FINALIZER])
            return await self._member(patch(MEMBERS, namespace, name, body), world)
        if isinstance(step, WriteStatus):
            body = step.patch
            if world.signed is not None:  # two controllers must not both sign one CSR: the second meets a conflict
                body = {**body, **_metadata(resourceVersion=world.view.resource_version)}
            written = await self._member(patch(MEMBERS, namespace, name, body, "status"), world)
            return written.seen(signed=None, sealed=None) if written else None
        if isinstance(step, PutWorkload):
            workload = await self._cluster.send(step.request)
            return world.seen(workload=workload, emptied_at=None if workload_ports(workload) else self._now())
        if isinstance(step, MakeAccount):
            account = {"metadata": {"name": _account(world)}}
            await self._unless(409, create(SERVICE_ACCOUNTS, accounts_namespace(namespace), account))
            return world.seen(has_account=True)
        lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": name}, "spec": {}}
        await self._unless(409, create(LEASES, namespace, lease))
        return world.seen(has_lease=True)

    async def _sign(self, world: MemberWorld) -> MemberWorld | None:
        live = await self._member(get(MEMBERS, world.namespace, world.view.name), world)
        if live is None or live.view.deleting or live.group is None or live.mesh is None:
            return live
        view, known = live.view, live.view.certificate
        if known is not None and known.csr_sha256 == csr_sha256(view.csr):
            return live  # our cache lay behind: signed already
        group = await self._cluster.send(get(WORKLOAD_GROUPS, live.namespace, live.group.name))
        issuer = self._issuer()
        if issuer is None:
            raise ValueError("there is no issuer that may sign")
        spec = parse_group(live.group.name, group.get("spec") or {})
        signed = sign(
            view.csr,
            view.name,
            live.mesh.identity_of(replace(live.group, spec=spec)),
            spec.certificate_lifetime,
            issuer,
            now=self._now(),
            serial=x509.random_serial_number(),
        )
        log.info("signed %x for %s/%s", signed.serial, live.namespace, view.name)
        return live.seen(signed=signed)

    async def _seal(self, world: MemberWorld) -> MemberWorld:
        request = create_token(accounts_namespace(world.namespace), _account(world), CREDENTIAL_LIFE)
        granted = await self._unless(404, request)
        if granted is None:
            return world.seen(has_account=False)  # somebody deleted it: the next step makes it again
        return world.seen(sealed=seal(str(granted["status"]["token"]), world.view.delivery_key))

    async def _undo(self, step: Step, world: MemberWorld) -> MemberWorld | None:
        namespace, name = world.namespace, world.view.name
        if isinstance(step, DeleteMember):
            log.info("%s/%s is deleted: %s", namespace, name, step.why)
            gone = await self._unless(404, delete(MEMBERS, namespace, name))
            # Our own finalizer holds it, and what was made for it is undone next.
            return world.seen(member=gone) if gone is not None and gone.get("kind") == MEMBERS.kind else None
        if isinstance(step, DeleteAccount):
            await self._unless(404, delete(SERVICE_ACCOUNTS, accounts_namespace(namespace), _account(world)))
            return world.seen(account_deleted=True)
        if isinstance(step, DeleteLease):
            await self._unless(404, delete(LEASES, namespace, name))
            return world.seen(has_lease=False)
        if isinstance(step, ReleaseMember):
            await self._release((MEMBERS, namespace, name), FINALIZER)
            return None
        return await self._undo_workload(step, world)

    async def _undo_workload(self, step: Step, world: MemberWorld) -> MemberWorld:
        place = (EXTERNAL_WORKLOADS, world.namespace, world.view.name)
        workload = world.workload or {}
        if isinstance(step, MarkNotReady):
            found = (workload.get("status") or {}).get("conditions") or []
            condition = Condition(READY, False, step.reason, step.message)
            body = {"status": {"conditions": with_condition(found, condition, self._now())}}
            changed = await self._unless(404, patch(*place, body, "status"))
            return world.seen(workload=changed)
        if isinstance(step, EmptyPorts):
            changed = await self._unless(404, patch(*place, {"spec": {"ports": []}}))
            return world.seen(workload=changed, emptied_at=self._now())
        if isinstance(step, DeleteWorkload):
            await self._unless(404, delete(*place))
            gone = {**workload, "metadata": {**workload.get("metadata", {}), "deletionTimestamp": "now"}}
            return world.seen(workload=gone)
        await self._release(place, PORTS_FINALIZER)
        return world.seen(workload=None)

    async def _release(self, place: tuple[Resource, str, str], finalizer: str) -> None:
        """Take our finalizer off what is being deleted.

        Others' are read live: Kubernetes takes its own off meanwhile (`orphan`), and none can be put back.
        """
        found = await self._unless(404, get(*place))
        if found is not None:
            left = [one for one in found["metadata"].get("finalizers") or () if one != finalizer]
            await self._unless(404, patch(*place, _metadata(finalizers=left)))

    async def _member(self, request: Request, world: MemberWorld) -> MemberWorld | None:
        """Send what answers with the Member; None if it is gone."""
        member = await self._unless(404, request)
        return None if member is None else world.seen(member=member)

    async def _unless(self, status: int, request: Request) -> Object | None:
        """Send; None if the answer is this status, which means that nothing was left to do."""
        try:
            return await self._cluster.send(request)
        except ApiRefusal as refusal:
            if refusal.status == status:
                return None
            raise


def _metadata(**fields: object) -> Object:
    return {"metadata": fields}


def _account(world: MemberWorld) -> str:
    return parse_member_name(world.view.name).account
