"""The objects that `check` and other commands read from the cluster."""

from functools import cached_property

from exclave.admin.check.rights import ObjectIndex, foreign_objects, index_objects, is_accounts_namespace
from exclave.admin.kubectl import Kubectl, Objects
from exclave.admin.objects import Installation, Manifest, group_objects, read_installation
from exclave.api import requests as kinds
from exclave.api.linkerd.config import config_fault, read_linkerd
from exclave.api.malformed import mapping_in
from exclave.api.names import CONTROLLER
from exclave.api.requests import Object
from exclave.api.settings import LinkerdSettings
from exclave.errors import ApiRefusal


class ClusterSnapshot:
    """Objects of the cluster, each read once, at its first use. The first use may raise ClusterError."""

    def __init__(self, kubectl: Kubectl, namespace: str, linkerd: str | None) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._linkerd = linkerd

    @cached_property
    def deployment(self) -> Object | None:
        """The controller's Deployment."""
        return self._kubectl.get(kinds.DEPLOYMENTS, self._namespace, CONTROLLER)

    @cached_property
    def installation(self) -> Installation:
        """The options of the installation; the defaults without an installation."""
        if self.deployment is None:
            return Installation(self._namespace, self._linkerd or "linkerd")
        return read_installation(self.deployment)

    @property
    def linkerd(self) -> str:
        """Linkerd's namespace."""
        return self._linkerd or self.installation.linkerd

    @cached_property
    def groups(self) -> Objects:
        """Every group."""
        return self._kubectl.list(kinds.WORKLOAD_GROUPS)

    @property
    def has_definitions(self) -> bool:
        """True if the API server serves our kinds."""
        try:
            return self.groups is not None
        except ApiRefusal as refusal:
            if refusal.status == 404:
                return False
            raise

    @cached_property
    def namespaces(self) -> Objects:
        """Every namespace."""
        return self._kubectl.list(kinds.NAMESPACES)

    @cached_property
    def bindings(self) -> Objects:
        """ClusterRoleBindings and RoleBindings."""
        return [*self._kubectl.list(kinds.CLUSTER_ROLE_BINDINGS), *self._kubectl.list(kinds.ROLE_BINDINGS)]

    @property
    def wanted_by_groups(self) -> list[Manifest]:
        """The manifests of all groups, without the groups themselves."""
        return [
            one
            for group in self.groups
            for one in group_objects(
                group["metadata"]["namespace"], group["metadata"]["name"], mapping_in(group, "spec"), self._namespace
            )
            if one.resource is not kinds.WORKLOAD_GROUPS
        ]

    @property
    def accounts_namespaces(self) -> list[str]:
        """The namespaces of machines' accounts."""
        return [one["metadata"]["name"] for one in self.namespaces if is_accounts_namespace(one)]

    def rights(self) -> ObjectIndex:
        """All objects that grant rights."""
        kubectl, wanted = self._kubectl, self.wanted_by_groups
        accounts = {(one.namespace, one.name) for one in wanted if one.resource is kinds.SERVICE_ACCOUNTS}
        accounts.add((self._namespace, CONTROLLER))
        named = [kubectl.get(kinds.SERVICE_ACCOUNTS, *place) for place in sorted(accounts, key=str)]
        named.append(kubectl.get(kinds.CLUSTER_ROLES, None, CONTROLLER))
        existing = [one for one in named if one is not None]
        return index_objects([*self.namespaces, *kubectl.list(kinds.ROLES), *self.bindings, *existing])


def find_linkerd_namespace(kubectl: Kubectl, controllers: str) -> str:
    """Linkerd's namespace as chosen at the installation; the usual one if this is unknown. Raises ClusterError."""
    try:
        return ClusterSnapshot(kubectl, controllers, None).linkerd
    except ApiRefusal:
        return "linkerd"


def find_opaque_ports(kubectl: Kubectl, linkerd: str) -> str | None:
    """Linkerd's own list of opaque ports, from its ConfigMap; None if that cannot be read. Raises ClusterError."""
    try:
        found, _ = find_linkerd(kubectl, linkerd)
    except ApiRefusal:
        return None  # the other checks report who may not read it
    return found.opaque_ports if found is not None else None


def find_linkerd(kubectl: Kubectl, linkerd: str) -> tuple[LinkerdSettings | None, str | None]:
    """Linkerd's settings, from its ConfigMap, None if they are unknown; and what is refused. Raises ClusterError."""
    config = kubectl.get(kinds.CONFIG_MAPS, linkerd, "linkerd-config")
    found, faults = read_linkerd(config, linkerd) if config is not None else (None, {})
    return found, config_fault(faults)


def find_foreign(kubectl: Kubectl, home: str) -> list[str]:
    """The objects in a namespace of machines' accounts that belong to no machine. Raises ClusterError."""
    return foreign_objects(home, kubectl.list(kinds.SERVICE_ACCOUNTS, home), kubectl.list(kinds.PODS, home))
