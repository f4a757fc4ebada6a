"""Names, labels, annotations and finalizers of the objects in the cluster. Pure."""

from dataclasses import dataclass

CONTROLLER = "exclave-controller"
"""The controller's ServiceAccount, Deployment and Roles."""

ELECTION = "exclave-controller"
"""The Lease that elects one of the controller's replicas."""

ADMISSION_POLICY_NAMES = ("exclave-guard", "exclave-controller")
"""The admission policies and their bindings. The controller admits nobody while one is missing."""

ACCOUNTS_LABEL = "exclave.dev/machines"
"""Label of a namespace that holds machines' accounts. Its value is the group's namespace."""

GROUPS_LABEL = "exclave.dev/accounts"
"""Label of a namespace that holds groups. Its value is the namespace of their machines' accounts."""

GROUP_LABEL = "exclave.dev/group"
"""Label of an ExternalWorkload that belongs to a member of the group."""

GROUP_FINALIZER = "exclave.dev/group"
"""Finalizer of a WorkloadGroup: its members go before it."""

FINALIZER = "exclave.dev/member"
"""Finalizer of a Member: its account and ExternalWorkload go before it."""

PORTS_FINALIZER = "exclave.dev/ports"
"""Finalizer of an ExternalWorkload: its ports are emptied before it goes."""

CORDONED = "exclave.dev/cordoned"
"""Annotation of a Member that an admin has put out of service for a while: "true"."""

EXPIRES = "exclave.dev/expires"
"""Annotation of a join account: when its token ends, RFC 3339."""

SETTINGS_KEY = "settings.json"
"""Key of a group's settings in their ConfigMap, see `settings_name`."""

DRAIN = 10.0
"""Seconds between the withdrawal of the ports and the deletion of the ExternalWorkload."""


@dataclass(frozen=True)
class MemberName:
    """A Member's name in its parts: group, token's id, slot."""

    group: str
    token_id: str
    slot: int

    @property
    def account(self) -> str:
        """The member's own ServiceAccount."""
        return f"{self.group}.vm.{self.token_id}-{self.slot}"

    def __str__(self) -> str:
        return f"{self.group}-{self.token_id}-{self.slot}"


def parse_member_name(name: str) -> MemberName:
    """Parse `<group>-<token id>-<slot>`. Raises ValueError."""
    group, token_id, slot = ("", "", *name.rsplit("-", 2))[-3:]
    if not group or not token_id or not (slot.isascii() and slot.isdecimal()):
        raise ValueError(f"{name!r} is not a member's name such as web-k7q2x-1")
    return MemberName(group, token_id, int(slot))


def group_of_member(name: str) -> str:
    """The group in a member's name. Of a name with another shape, a text that names no group with this member."""
    return name.rsplit("-", 2)[0]


def accounts_namespace(namespace: str) -> str:
    """The namespace of the machines' accounts, apart from every account that linkerd-identity certifies."""
    return f"{namespace}-vms"


def settings_name(group: str) -> str:
    """The ConfigMap that holds a group's settings."""
    return f"exclave-mesh.{group}"
