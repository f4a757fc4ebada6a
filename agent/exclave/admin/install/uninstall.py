"""`uninstall`: exclave taken out of a cluster, in the reverse order, with nothing left that acts or holds.

Rules: it says whom it would strand, and does so only when told. The controllers end first, and lose their rights, since
they put back what holds Members and groups; then everything is let go, ports before what has them. Machines lose their
rights before the policies go that limit these. Namespaces of groups, and the accounts in them, are others' to delete.
"""

import argparse
import time

from exclave.admin.arguments import Subparsers, add_verb
from exclave.admin.check.verbs import Found
from exclave.admin.kubectl import Objects
from exclave.admin.manifests import ISSUER, KINDS, Installation, first_objects, later_objects
from exclave.admin.objects import group_roles
from exclave.admin.session import Desk
from exclave.api.names import CONTROLLER, DRAIN, FINALIZER, GROUP_FINALIZER, PORTS_FINALIZER, settings_name
from exclave.api.requests import (
    CLUSTER_ROLE_BINDINGS,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    NAMESPACES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
)
from exclave.errors import ApiRefusal, ExclaveError, Fault


def add_commands(subparsers: Subparsers) -> None:
    """Add it to the command line."""
    uninstall = add_verb(
        subparsers, "uninstall", _uninstall, "remove exclave; says whom that would strand", "kubectl exclave uninstall"
    )
    uninstall.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="exclave, if absent")
    uninstall.add_argument("-L", "--linkerd-namespace", metavar="NAME", help="Linkerd's; as installed, if absent")
    uninstall.add_argument("--strand-members", action="store_true", help="though there are members")


def _uninstall(desk: Desk, options: argparse.Namespace) -> int:
    members = _all(desk, MEMBERS)
    if members and not options.strand_members:
        raise _stranding(members)
    found = Found(desk.kubectl, options.controller_namespace, options.linkerd_namespace)
    choice = found.installation
    _end_controllers(desk, choice)
    _let_go_of_workloads(desk)
    _let_go_of(desk, MEMBERS, FINALIZER)
    for one in members:
        _delete(desk, LEASES, one["metadata"]["namespace"], one["metadata"]["name"])
    _take_machines_rights(desk, found)
    _let_go_of(desk, WORKLOAD_GROUPS, GROUP_FINALIZER)
    _delete_installation(desk, choice)
    desk.note("what is left: the namespaces of groups and of their machines' accounts, with the accounts in them")
    return 0


def _stranding(members: Objects) -> ExclaveError:
    names = ", ".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in members[:5])
    more = f" and {len(members) - 5} more" if len(members) > 5 else ""
    count = "1 member" if len(members) == 1 else f"{len(members)} members"
    return ExclaveError(
        Fault.USAGE,
        f"{count} would be stranded: {names}{more}; pods would no longer reach them, and their certificates would end",
        "have them leave (exclave leave) or evict them (kubectl exclave member evict) while the controller runs; "
        "or, to strand them: --strand-members",
    )


def _end_controllers(desk: Desk, choice: Installation) -> None:
    """End them, and wait until they have ended; then take their rights, whoever still has their account."""
    _delete(desk, DEPLOYMENTS, choice.namespace, CONTROLLER)

    def are_gone() -> bool:
        return not desk.kubectl.list(PODS, choice.namespace, selector=f"app.kubernetes.io/name={CONTROLLER}")

    if not desk.wait_until(are_gone, "the controllers to end"):
        desk.warn(["a controller has not ended; without its rights it can do nothing more"])
    _delete(desk, CLUSTER_ROLE_BINDINGS, None, CONTROLLER)


def _let_go_of_workloads(desk: Desk) -> None:
    """Empty ports, have clients hear of it, then delete: Linkerd's older controllers crash at a port that vanishes."""
    workloads = [one for one in _all(desk, EXTERNAL_WORKLOADS) if _holds(one, PORTS_FINALIZER)]
    listed = [one for one in workloads if (one.get("spec") or {}).get("ports")]
    for one in listed:
        desk.kubectl.patch(EXTERNAL_WORKLOADS, *_place(one), {"spec": {"ports": []}})
    if listed:
        desk.note(f"the ports of {len(listed)} machines are withdrawn; clients get {DRAIN:.0f}s to hear of it")
        time.sleep(DRAIN)
    for one in workloads:
        _release(desk, EXTERNAL_WORKLOADS, one, PORTS_FINALIZER)
        _delete(desk, EXTERNAL_WORKLOADS, *_place(one))


def _let_go_of(desk: Desk, resource: Resource, finalizer: str) -> None:
    """Delete all of a kind of ours, with nothing that would hold them: nobody is left to let go."""
    for one in _all(desk, resource):
        _release(desk, resource, one, finalizer)
        _delete(desk, resource, *_place(one))
        if resource is WORKLOAD_GROUPS:
            where, name = _place(one)
            _delete(desk, CONFIG_MAPS, where, settings_name(name))


def _take_machines_rights(desk: Desk, found: Found) -> None:
    """Bindings before Roles, all of them before the policies."""
    if not found.is_defined:
        return
    wanted = {
        (one.resource, str(one.namespace), one.body["metadata"]["name"])
        for one in found.wanted_by_groups
        if one.resource in (ROLES, ROLE_BINDINGS)
    }
    for group in found.groups:
        for name in group_roles(group["metadata"]["name"]):
            wanted |= {(kind, group["metadata"]["namespace"], name) for kind in (ROLES, ROLE_BINDINGS)}
    for resource, namespace, name in sorted(wanted, key=lambda one: (one[0] is ROLES, one[1:])):
        _delete(desk, resource, namespace, name)


def _delete_installation(desk: Desk, choice: Installation) -> None:
    for one in reversed(later_objects(choice)):
        if one["kind"] == SECRETS.kind and one["metadata"]["name"] == ISSUER:
            continue  # goes with its namespace
        _delete(desk, KINDS[one["kind"]], one["metadata"].get("namespace"), one["metadata"]["name"])
    names = [one["metadata"]["name"] for one in first_objects()]
    for name in names:
        _delete(desk, CUSTOM_RESOURCE_DEFINITIONS, None, name)

    def left() -> list[str]:
        found = [name for name in names if desk.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, name) is not None]
        stays = desk.kubectl.get(NAMESPACES, None, choice.namespace) is not None
        return [*found, *([f"namespace {choice.namespace}"] if stays else [])]

    if not desk.wait_until(lambda: not left(), "the definitions and the namespace to be gone"):
        desk.warn([f"still going: {', '.join(left())}; what holds them is in their status: kubectl get … -o yaml"])


def _all(desk: Desk, resource: Resource) -> Objects:
    """Everything of a kind; nothing where the kind is not there."""
    try:
        return desk.kubectl.list(resource)
    except ApiRefusal as refusal:
        if refusal.status == 404:
            return []
        raise


def _place(one: Object) -> tuple[str, str]:
    return one["metadata"]["namespace"], one["metadata"]["name"]


def _holds(one: Object, finalizer: str) -> bool:
    return finalizer in (one["metadata"].get("finalizers") or ())


def _release(desk: Desk, resource: Resource, one: Object, finalizer: str) -> None:
    """Take our finalizer off; others' stay."""
    if _holds(one, finalizer):
        left = [other for other in one["metadata"]["finalizers"] if other != finalizer]
        try:
            desk.kubectl.patch(resource, *_place(one), {"metadata": {"finalizers": left}})
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise


def _delete(desk: Desk, resource: Resource, namespace: str | None, name: str) -> None:
    if desk.kubectl.delete(resource, namespace, name):
        print(f"{resource.kind} {name}{f' in {namespace}' if namespace else ''} deleted")
