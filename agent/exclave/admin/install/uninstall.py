"""`uninstall`: removes exclave from a cluster, in the reverse order of the installation. `--dry-run` only reads.

Namespaces of groups, and the accounts in them, are not deleted, nor is a controller's namespace that others have made.
"""

import argparse
import time
from collections.abc import Iterable, Iterator

from exclave.admin import arguments
from exclave.admin.check.snapshot import ClusterSnapshot
from exclave.admin.install.ownership import is_marked_as_others
from exclave.admin.kubectl import Objects
from exclave.admin.objects import CERT_MANAGER, CREDENTIAL_LIFE, Installation, first_objects, later_objects
from exclave.admin.session import Session
from exclave.admin.tables import few
from exclave.api import requests as kinds
from exclave.api.malformed import mapping_in, object_title
from exclave.api.names import (
    CONTROLLER,
    DRAIN,
    ELECTION,
    FINALIZER,
    GROUP_FINALIZER,
    ISSUER,
    MARK_SECRET,
    PORTS_FINALIZER,
    settings_name,
)
from exclave.api.requests import Object, Resource
from exclave.api.workload.withdrawal import NOTICE, withdrawal
from exclave.errors import ApiRefusal, UsageError
from exclave.kit.host.output import print_out

Key = tuple[Resource, str | None, str]
"""Kind, namespace, name."""

NOT_DELETED = "not deleted: the namespaces of groups and of their machines' accounts, with the accounts in them"


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `uninstall` to the command line."""
    summary = "remove exclave from this cluster"
    uninstall = arguments.add_verb(
        subparsers, "uninstall", _uninstall, summary, "kubectl exclave uninstall --dry-run", "kubectl exclave uninstall"
    )
    arguments.add_namespaces(uninstall)
    uninstall.add_argument(
        "--strand-members", action="store_true", help="also if there are members, which then lose the mesh"
    )
    uninstall.add_argument("--dry-run", action="store_true", help="print what would be deleted, and change nothing")


def _uninstall(session: Session, options: argparse.Namespace) -> int:
    members = _all(session, kinds.MEMBERS)
    found = ClusterSnapshot(session.kubectl, options.controller_namespace, options.linkerd_namespace)
    if options.dry_run:
        return _preview(session, found, members)
    if members and not options.strand_members:
        names = few([f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in members])
        count = "1 member" if len(members) == 1 else f"{len(members)} members"
        raise UsageError(
            f"{count} would be stranded: {names}; pods would no longer reach them, and their certificates would end",
            "let them leave (exclave leave) or evict them (kubectl exclave member evict) while the controller runs; "
            "or strand them: --strand-members",
        )
    choice = found.installation
    _end_controllers(session, choice)
    _release_workloads(session)
    _release_all(session, kinds.MEMBERS, FINALIZER)
    for one in members:
        session.delete(kinds.LEASES, *_key(one))
    _revoke_machine_rights(session, found)
    _release_all(session, kinds.WORKLOAD_GROUPS, GROUP_FINALIZER)
    leaves_namespace = _leaves_namespace(session, choice)
    _delete_installation(session, choice, leaves_namespace=leaves_namespace)
    _note_what_stays(session, choice, leaves_namespace=leaves_namespace)
    return 0


def _preview(session: Session, found: ClusterSnapshot, members: Objects) -> int:
    """Print what an uninstallation would delete, in its order."""
    workloads = _our_workloads(session)
    if listed := _with_ports(workloads):
        session.note(f"the ports of {len(listed)} machines would be withdrawn first")
    leases = {_key(one) for one in session.kubectl.list(kinds.LEASES)}
    groups = _all(session, kinds.WORKLOAD_GROUPS)
    first: list[Key] = [(kinds.DEPLOYMENTS, found.installation.namespace, CONTROLLER)]
    first.append((kinds.CLUSTER_ROLE_BINDINGS, None, CONTROLLER))
    leaves_namespace = _leaves_namespace(session, found.installation)
    keys = _installation_keys(session, found.installation, leaves_namespace=leaves_namespace)
    for resource, namespace, name in (
        *_existing(session, first),
        *((kinds.EXTERNAL_WORKLOADS, *_key(one)) for one in workloads),
        *((kinds.MEMBERS, *_key(one)) for one in members),
        *((kinds.LEASES, *_key(one)) for one in members if _key(one) in leases),
        *_existing(session, _machine_rights(found)),
        *_existing(session, [key for one in groups for key in _group_keys(one)]),
        *_existing(session, [key for key in keys if key not in first]),
    ):
        print_out(f"{resource.kind} {name}{f' in {namespace}' if namespace else ''} would be deleted")
    _note_what_stays(session, found.installation, leaves_namespace=leaves_namespace)
    if members:
        session.note(f"members would be stranded: {len(members)}; without --strand-members, uninstall refuses")
    return 0


def _existing(session: Session, keys: Iterable[Key]) -> Iterator[Key]:
    return (key for key in keys if session.kubectl.get(*key) is not None)


def _end_controllers(session: Session, choice: Installation) -> None:
    """Delete the controllers, wait for their end, and revoke their rights. Else they would add finalizers again."""
    session.delete(kinds.DEPLOYMENTS, choice.namespace, CONTROLLER)

    def are_gone() -> bool:
        return not session.kubectl.list(kinds.PODS, choice.namespace, selector=f"app.kubernetes.io/name={CONTROLLER}")

    if not session.wait_until(are_gone, "the controllers to end"):
        session.warn(["a controller has not ended; it has no rights any more"])
    session.delete(kinds.CLUSTER_ROLE_BINDINGS, None, CONTROLLER)


def _release_workloads(session: Session) -> None:
    """Withdraw the ports, wait, then delete: older Linkerd controllers crash when a listed port disappears."""
    workloads = _our_workloads(session)
    listed = _with_ports(workloads)
    for one in listed:
        _patch(session, kinds.EXTERNAL_WORKLOADS, one, withdrawal(one))
    if listed:
        time.sleep(NOTICE)
    for one in listed:
        _patch(session, kinds.EXTERNAL_WORKLOADS, one, {"spec": {"ports": []}})
    if listed:
        session.note(f"the ports of {len(listed)} machines are withdrawn; waiting {DRAIN:.0f}s until all clients know")
        time.sleep(DRAIN)
    for one in workloads:
        _release(session, kinds.EXTERNAL_WORKLOADS, one, PORTS_FINALIZER)
        session.delete(kinds.EXTERNAL_WORKLOADS, *_key(one))


def _our_workloads(session: Session) -> Objects:
    return [one for one in _all(session, kinds.EXTERNAL_WORKLOADS) if _has_finalizer(one, PORTS_FINALIZER)]


def _with_ports(workloads: Objects) -> Objects:
    return [one for one in workloads if mapping_in(one, "spec").get("ports")]


def _release_all(session: Session, resource: Resource, finalizer: str) -> None:
    """Delete all objects of a kind, and remove our finalizer, since no controller is left to do this."""
    for one in _all(session, resource):
        _release(session, resource, one, finalizer)
        for key in _group_keys(one) if resource is kinds.WORKLOAD_GROUPS else [(resource, *_key(one))]:
            session.delete(*key)


def _group_keys(group: Object) -> list[Key]:
    where, name = _key(group)
    return [(kinds.WORKLOAD_GROUPS, where, name), (kinds.CONFIG_MAPS, where, settings_name(name))]


def _revoke_machine_rights(session: Session, found: ClusterSnapshot) -> None:
    """Delete the rights before the policies that limit them."""
    for key in _machine_rights(found):
        session.delete(*key)


def _machine_rights(found: ClusterSnapshot) -> list[Key]:
    """Bindings before Roles."""
    if not found.has_definitions:
        return []
    wanted = {one.key for one in found.wanted_by_groups if one.resource in (kinds.ROLES, kinds.ROLE_BINDINGS)}
    return sorted(wanted, key=lambda one: (one[0] is kinds.ROLES, one[1:]))


def _leaves_namespace(session: Session, choice: Installation) -> bool:
    """True if others have made the controller's namespace, and may have more in it."""
    found = session.kubectl.get(kinds.NAMESPACES, None, choice.namespace)
    return found is not None and is_marked_as_others(found)


def _note_what_stays(session: Session, choice: Installation, *, leaves_namespace: bool) -> None:
    session.note(NOT_DELETED)
    if leaves_namespace:
        session.note(f"not deleted: namespace {choice.namespace}, because others have made it")


def _installation_keys(session: Session, choice: Installation, *, leaves_namespace: bool) -> list[Key]:
    """The installation's objects. What the controller or an admin made is deleted with the namespace, or by name."""
    issuer = (kinds.SECRETS, choice.namespace, ISSUER)
    later = [one.key for one in reversed(later_objects(choice)) if one.key != issuer]
    if leaves_namespace:
        place = later.index((kinds.NAMESPACES, None, choice.namespace))
        later[place : place + 1] = _keys_in_namespace(session, choice.namespace)
    return [*later, *(one.key for one in first_objects())]


def _keys_in_namespace(session: Session, namespace: str) -> list[Key]:
    """The objects of the controller's namespace that the controller, an admin or cert-manager made."""
    has_certificates = session.kubectl.get(kinds.CUSTOM_RESOURCE_DEFINITIONS, None, CERT_MANAGER) is not None
    return [
        *([(kinds.CERTIFICATES, namespace, ISSUER)] if has_certificates else []),  # it would make the Secret again
        (kinds.SECRETS, namespace, ISSUER),
        (kinds.SECRETS, namespace, MARK_SECRET),
        (kinds.LEASES, namespace, ELECTION),
    ]


def _delete_installation(session: Session, choice: Installation, *, leaves_namespace: bool) -> None:
    for key in _installation_keys(session, choice, leaves_namespace=leaves_namespace):
        session.delete(*key)
    if leaves_namespace:
        # What this command has set there, and no longer sets, is removed.
        session.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": choice.namespace}}])
        session.kubectl.patch(
            kinds.NAMESPACES, None, choice.namespace, {"metadata": {"annotations": {CREDENTIAL_LIFE: None}}}
        )
    definitions = first_objects()

    def left() -> list[str]:
        found = [one.name for one in definitions if session.kubectl.get(*one.key) is not None]
        stays = not leaves_namespace and session.kubectl.get(kinds.NAMESPACES, None, choice.namespace) is not None
        return [*found, *([f"namespace {choice.namespace}"] if stays else [])]

    if not session.wait_until(lambda: not left(), "the definitions and the namespace to be gone"):
        session.warn([f"not gone yet: {', '.join(left())}; their status shows the reason: kubectl get … -o yaml"])


def _all(session: Session, resource: Resource) -> Objects:
    """All objects of a kind; none if the API server does not serve the kind."""
    try:
        return session.kubectl.list(resource)
    except ApiRefusal as refusal:
        if refusal.status == 404:
            return []
        raise


def _key(one: Object) -> tuple[str, str]:
    return one["metadata"]["namespace"], one["metadata"]["name"]


def _has_finalizer(one: Object, finalizer: str) -> bool:
    return finalizer in (one["metadata"].get("finalizers") or ())


def _release(session: Session, resource: Resource, one: Object, finalizer: str) -> None:
    """Remove our finalizer, and no other."""
    if _has_finalizer(one, finalizer):
        left = [other for other in one["metadata"]["finalizers"] if other != finalizer]
        _patch(session, resource, one, {"metadata": {"finalizers": left}})


def _patch(session: Session, resource: Resource, one: Object, body: Object) -> None:
    """Patch an object, which may be gone. If the API server finds it invalid, this is only reported."""
    try:
        session.kubectl.patch(resource, *_key(one), body)
    except ApiRefusal as refusal:
        if refusal.status == 422:
            session.warn([f"{object_title(one)} is left as it is: {refusal.message}"])
        elif refusal.status != 404:
            raise
