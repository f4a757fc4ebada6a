"""TODO."""

from dataclasses import dataclass

FINALIZER = "exclave.dev/member"


CORDONED = "exclave.dev/cordoned"
"""Annotation of a Member that an admin has put out of service for a while: "true"."""


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
    """Take `<group>-<t>-<n>` apart. Raises ValueError."""
    group, token_id, slot = ("", "", *name.rsplit("-", 2))[-3:]
    if not group or not token_id or not (slot.isascii() and slot.isdecimal()):
        raise ValueError(f"{name!r} is not a member's name such as web-k7q2x-1")
    return MemberName(group, token_id, int(slot))


def accounts_namespace(namespace: str) -> str:
    """Where the accounts of machines live: apart from every account that linkerd-identity may certify."""
    return f"{namespace}-vms"


def settings_name(group: str) -> str:
    """The ConfigMap that holds a group's settings, under key `SETTINGS_KEY`."""
    return f"exclave-mesh.{group}"


SETTINGS_KEY = "settings.json"


CONTROLLER = "exclave-controller"


ELECTION = "exclave-controller"
"""The Lease by which the controllers elect one of them."""


GUARD_NAMES = ("exclave-guard", "exclave-controller")
"""Admission policies and their bindings, which the controller looks for before it admits anybody."""


ACCOUNTS_LABEL = "exclave.dev/machines"
"""Label of a namespace that holds machines' accounts; its value is the group's namespace."""


GROUPS_LABEL = "exclave.dev/accounts"
"""Label of a namespace that holds groups; its value is the namespace of their machines' accounts."""


EXPIRES = "exclave.dev/expires"
"""Annotation of a join account: when its token ends, RFC 3339."""


PORTS_FINALIZER = "exclave.dev/ports"


GROUP_LABEL = "exclave.dev/group"


GROUP_FINALIZER = "exclave.dev/group"


DRAIN = 10.0
"""Seconds between the ports' withdrawal and the ExternalWorkload's deletion."""
