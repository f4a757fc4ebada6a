"""The objects that an admin creates: a group with its rights, a join token's account, the controller's rights. Pure.

Machines' accounts are in `<ns>-vms`, apart from all accounts that linkerd-identity certifies. Their rights come from a
few static Roles for the whole namespace: there is no Role for a single machine. The controller cannot grant rights. It
reads and deletes in the whole cluster, because a namespace that is being deleted loses its Roles before its finalizers
are removed; it creates only where Roles allow it, in a group's two namespaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exclave.api.definitions.admission import admission_objects
from exclave.api.names import (
    ACCOUNTS_LABEL,
    ADMISSION_POLICY_NAMES,
    CONTROLLER,
    ELECTION,
    EXPIRES,
    GROUPS_LABEL,
    accounts_namespace,
    parse_member_name,
    settings_name,
)
from exclave.api.requests import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICIES,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
)
from exclave.kit.formats.times import rfc3339

MACHINES_ROLE = "exclave-machines"
ISSUER_ROLE = "exclave-issuer"


MOST_USES = 999
SHORTEST_TTL = 600.0
LONGEST_TTL = 86400.0
"""Seconds. Kubernetes' shortest token lifetime is ten minutes; a join token is valid for a day at most."""

Rule = dict[str, list[str]]


@dataclass(frozen=True)
class Manifest:
    """An object with its kind and namespace (None: cluster-scoped)."""

    resource: Resource
    namespace: str | None
    body: Object

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])


def group_objects(namespace: str, name: str, spec: dict[str, Any], controller_namespace: str) -> list[Manifest]:
    """A group and everything that it needs, in the order of creation."""
    accounts = accounts_namespace(namespace)
    machines = _all_accounts_of(accounts)
    controller = _account(CONTROLLER, controller_namespace)
    settings, publisher = group_roles(name)
    return [
        _placed(NAMESPACES, None, {"name": namespace, "labels": {GROUPS_LABEL: accounts}}),
        _placed(NAMESPACES, None, {"name": accounts, "labels": {ACCOUNTS_LABEL: namespace}}),
        _placed(SERVICE_ACCOUNTS, namespace, {"name": spec.get("serviceAccount") or name}),
        _role(namespace, MACHINES_ROLE, _machine_rules()),
        _binding(namespace, MACHINES_ROLE, machines),
        _role(accounts, MACHINES_ROLE, [_rule("", "serviceaccounts/token", "create")]),
        _binding(accounts, MACHINES_ROLE, machines),
        _role(namespace, settings, [_rule("", "configmaps", "get", names=[settings_name(name)])]),
        _binding(namespace, settings, machines),
        _role(namespace, publisher, [_rule("", "configmaps", "patch", names=[settings_name(name)])]),
        _binding(namespace, publisher, controller),
        _role(namespace, CONTROLLER, _controller_create_rules()),
        _binding(namespace, CONTROLLER, controller),
        _role(accounts, CONTROLLER, _controller_account_rules()),
        _binding(accounts, CONTROLLER, controller),
        _placed(WORKLOAD_GROUPS, namespace, {"name": name}, spec=spec),
    ]


def group_roles(name: str) -> tuple[str, str]:
    """The names of the two Roles of one group: reading its settings, and writing them."""
    return f"exclave-settings.{name}", f"exclave-publisher.{name}"


def join_account(namespace: str, group: str, token_id: str, uses: int, expires: float) -> Manifest:
    """The account of a join token. `expires` in epoch seconds. Raises ValueError for a wrong number of uses."""
    if not 1 <= uses <= MOST_USES:
        raise ValueError(f"uses: a number from 1 to {MOST_USES} was expected, found {uses}")
    return _expiring(namespace, f"{group}.join.{token_id}-{uses}", expires)


def rejoin_account(namespace: str, member: str, expires: float) -> Manifest:
    """The account of a token with which one member's machine joins again. Raises ValueError for a wrong name."""
    name = parse_member_name(member)
    return _expiring(namespace, f"{name.group}.rejoin.{name.token_id}-{name.slot}", expires)


def _expiring(namespace: str, account: str, expires: float) -> Manifest:
    metadata = {"name": account, "annotations": {EXPIRES: rfc3339(expires)}}
    return _placed(SERVICE_ACCOUNTS, accounts_namespace(namespace), metadata)


def controller_objects(
    namespace: str, linkerd_namespace: str, issuer_secret: str, issuer_namespace: str | None = None
) -> list[Manifest]:
    """The controller's account and its rights: in the whole cluster, on Linkerd's settings, on the issuer's Secret.

    `issuer_namespace` defaults to the controller's namespace.
    """
    issuer_role = _role(
        issuer_namespace or namespace, ISSUER_ROLE, [_rule("", "secrets", "get", "watch", names=[issuer_secret])]
    )
    controller = _account(CONTROLLER, namespace)
    slices = _rule("discovery.k8s.io", "endpointslices", "get", "list", "watch")
    return [
        _placed(NAMESPACES, None, {"name": namespace}),
        _placed(SERVICE_ACCOUNTS, namespace, {"name": CONTROLLER}),
        _placed(CLUSTER_ROLES, None, {"name": CONTROLLER}, rules=_controller_rules()),
        _placed(
            CLUSTER_ROLE_BINDINGS,
            None,
            {"name": CONTROLLER},
            roleRef=_role_ref("ClusterRole", CONTROLLER),
            subjects=[controller],
        ),
        _role(
            linkerd_namespace,
            CONTROLLER,
            [
                _rule("", "configmaps", "get", "watch", names=["linkerd-config", "linkerd-identity-trust-roots"]),
                slices,
            ],
        ),
        _binding(linkerd_namespace, CONTROLLER, controller),
        _role("kube-system", CONTROLLER, [slices]),
        _binding("kube-system", CONTROLLER, controller),
        _role(
            namespace,
            CONTROLLER,
            [
                _rule("coordination.k8s.io", "leases", "create"),
                _rule("coordination.k8s.io", "leases", "get", "update", names=[ELECTION]),
                _rule("events.k8s.io", "events", "create"),
            ],
        ),
        _binding(namespace, CONTROLLER, controller),
        issuer_role,
        _binding(issuer_namespace or namespace, ISSUER_ROLE, controller),
    ]


def _machine_rules() -> list[Rule]:
    return [
        _rule("exclave.dev", "members", "create", "get", "watch", "patch", "delete"),
        _rule("workload.linkerd.io", "externalworkloads/status", "get", "patch"),
        _rule("coordination.k8s.io", "leases", "get", "patch"),
    ]


def _controller_account_rules() -> list[Rule]:
    return [
        _rule("", "serviceaccounts", "list", "create", "delete"),
        _rule("", "serviceaccounts/token", "create"),
    ]


def _controller_create_rules() -> list[Rule]:
    """RBAC cannot limit the names of objects to be created; the admission policies do."""
    return [
        _rule("", "configmaps", "create"),
        _rule("coordination.k8s.io", "leases", "create"),
        _rule("workload.linkerd.io", "externalworkloads", "create"),
        _rule("events.k8s.io", "events", "create"),
        _rule("", "services", "list"),  # to warn about headless ones
    ]


def _controller_rules() -> list[Rule]:
    return [
        _rule("exclave.dev", "workloadgroups", "get", "list", "watch", "patch"),
        _rule("exclave.dev", "workloadgroups/status", "patch"),
        _rule("exclave.dev", "members", "get", "list", "watch", "patch", "delete"),
        _rule("exclave.dev", "members/status", "patch"),
        _rule("workload.linkerd.io", "externalworkloads", "get", "list", "watch", "patch", "delete"),
        _rule("workload.linkerd.io", "externalworkloads/status", "patch"),
        _rule("coordination.k8s.io", "leases", "get", "list", "watch", "delete"),
        _rule(
            "admissionregistration.k8s.io",
            "validatingadmissionpolicies",
            "get",
            "watch",
            names=ADMISSION_POLICY_NAMES,
        ),
        _rule(
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            "get",
            "watch",
            names=ADMISSION_POLICY_NAMES,
        ),
    ]


def _rule(group: str, resource: str, *verbs: str, names: Sequence[str] = ()) -> Rule:
    rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return {**rule, "resourceNames": list(names)} if names else rule


def _role(namespace: str, name: str, rules: list[Rule]) -> Manifest:
    return _placed(ROLES, namespace, {"name": name}, rules=rules)


def _binding(namespace: str, role: str, subject: Object) -> Manifest:
    return _placed(ROLE_BINDINGS, namespace, {"name": role}, roleRef=_role_ref("Role", role), subjects=[subject])


def _role_ref(kind: str, name: str) -> Object:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}


def _all_accounts_of(namespace: str) -> Object:
    return {
        "kind": "Group",
        "apiGroup": "rbac.authorization.k8s.io",
        "name": f"system:serviceaccounts:{namespace}",
    }


def _account(name: str, namespace: str) -> Object:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def _placed(resource: Resource, namespace: str | None, metadata: Object, **more: Any) -> Manifest:
    where = {"namespace": namespace} if namespace is not None else {}
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {**metadata, **where}, **more}
    return Manifest(resource, namespace, body)


def guard_manifests(controller_namespace: str) -> list[Manifest]:
    """The admission policies as manifests."""
    kinds = {one.kind: one for one in (VALIDATING_ADMISSION_POLICIES, VALIDATING_ADMISSION_POLICY_BINDINGS)}
    return [Manifest(kinds[body["kind"]], None, body) for body in admission_objects(controller_namespace)]
