"""Names, labels, annotations and finalizers of the objects in the cluster. Pure."""

import re
from dataclasses import dataclass

CONTROLLER = "exclave-controller"  # the controller's ServiceAccount, Deployment and Roles
ISSUER = "exclave-issuer"  # the issuer's Secret, Certificate (cert-manager) and Role
MACHINES = "exclave-machines"  # the Roles of machines, and their bindings
ELECTION = "exclave-controller"  # the Lease that elects one of the controller's replicas
SETTINGS_KEY = "settings.json"  # in the ConfigMap with a group's settings
MARK_SECRET, MARK_KEY = "exclave-marks", "key"  # the Secret with the key of admission marks, and its entry

# The admission policies and their bindings. If one is missing, the controller admits no machine.
ADMISSION_POLICY_NAMES = ("exclave-guard", "exclave-controller")

# Labels.
ACCOUNTS_LABEL = "exclave.dev/machines"  # of a namespace with machines' accounts: the group's namespace
GROUPS_LABEL = "exclave.dev/accounts"  # of a namespace with groups: the namespace of their machines' accounts
INSTALLATION = "exclave.dev/installation"  # of all that `install` makes: the controller's namespace
GROUP_LABEL = "exclave.dev/group"  # of an ExternalWorkload that belongs to a member of the group

# Finalizers.
GROUP_FINALIZER = "exclave.dev/group"  # of a WorkloadGroup: its members are removed first
FINALIZER = "exclave.dev/member"  # of a Member: its account and ExternalWorkload are removed first
PORTS_FINALIZER = "exclave.dev/ports"  # of an ExternalWorkload: its ports are withdrawn first

# Annotations.
RENEW = "exclave.dev/renew"  # of a Member that an admin asked to renew its certificate: the request, any text
CORDONED = "exclave.dev/cordoned"  # of a Member that an admin took out of service for a while: "true"
EXPIRES = "exclave.dev/expires"  # of a join account: the end of its token, RFC 3339

# The names of RoleBindings of others that an admin has accepted. Of a WorkloadGroup: those among its machines'
# accounts. Of the controller's namespace: those in it.
ADOPTED = "exclave.dev/adopted"
# Of the controller's namespace: it was there before the installation, so `uninstall` leaves it.
MADE_BY_OTHERS = "exclave.dev/made-by-others"

DRAIN = 10.0  # seconds between the withdrawal of the ports and the deletion of the ExternalWorkload


# Patterns of a group's name, and of a token's id with a slot. The admission policies contain them, too.
GROUP_PATTERN = "[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?"
TAIL_PATTERN = "[a-z0-9]{5}-[1-9][0-9]{0,2}"


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
    """Parse `<group>-<token id>-<slot>`. Raises ValueError, also for a slot such as `01`: it is not slot 1."""
    if re.fullmatch(f"{GROUP_PATTERN}-{TAIL_PATTERN}", name) is None:
        raise ValueError(f"{name!r} is not a member's name such as web-k7q2x-1")
    group, token_id, slot = name.rsplit("-", 2)
    return MemberName(group, token_id, int(slot))


def group_of_member(name: str) -> str:
    """The group in a member's name; "" for a name of another form."""
    try:
        return parse_member_name(name).group
    except ValueError:
        return ""


def accounts_namespace(namespace: str) -> str:
    """The namespace of machines' accounts, which holds no account that linkerd-identity certifies."""
    return f"{namespace}-vms"


def settings_name(group: str) -> str:
    """The ConfigMap with a group's settings."""
    return f"exclave-mesh.{group}"
