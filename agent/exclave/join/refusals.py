"""Every refusal of a join: class and fault show who must act. No text holds a token. Pure."""

from exclave.api.join_token import JoinToken
from exclave.api.member import MemberView
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, Fault, TokenError
from exclave.kit.formats.times import rfc3339

MOST_SKEW = 300.0  # seconds that two clocks may differ: beyond that, tokens and certificates may be invalid

PATIENCE = 60.0  # seconds for the controller to admit a Member

_ADDRESS_REFUSED = (
    ClusterError,
    Fault.ADDRESS_REFUSED,
    "address {addresses} was refused",
    "name another one: member.address in /etc/exclave/config.toml; or change the group's networks",
)

_REASONS: dict[str, tuple[type[ClusterError | TokenError], Fault, str, str]] = {
    "GroupNotFound": (
        TokenError,
        Fault.GROUP_GONE,
        "group {namespace}/{group} is gone",
        "ask the admin for a token of another group",
    ),
    "MachineKnown": (
        ClusterError,
        Fault.DUPLICATE_MACHINE,
        "a member with this machine's id lives already",
        "if this machine was reinstalled, evict that member; if it is a clone, give it an id of its own: "
        "rm /etc/machine-id && systemd-machine-id-setup",
    ),
    "AddressRefused": _ADDRESS_REFUSED,
    "AddressInUse": _ADDRESS_REFUSED,
    "GuardMissing": (
        ClusterError,
        Fault.NOT_ADMITTED,
        "the cluster admits nobody while its admission policy is missing",
        "ask the admin to install exclave's admission policy again",
    ),
    "GroupNotAccepted": (
        ClusterError,
        Fault.NOT_ADMITTED,
        "group {namespace}/{group} does not accept this machine",
        "ask the admin to look at it: kubectl exclave group describe {group} -n {namespace}",
    ),
    "RequestRefused": (
        ClusterError,
        Fault.NOT_ADMITTED,
        "the controller cannot use what this machine asked with, as Member {namespace}/{name}",
        "compare the versions of exclave here and in the cluster: exclave --version",
    ),
}
"""By the reason of condition Admitted: class, fault, message (the condition's own follows) and hint."""


def expired(token: JoinToken) -> TokenError:
    """The token has expired by this machine's clock."""
    return TokenError(
        Fault.TOKEN_EXPIRED,
        f"the join token for group {_group(token)} expired at {rfc3339(token.expires)}, by this machine's clock",
        f"check this machine's clock, or {_new_token(token)}",
    )


def malformed(token: JoinToken, problem: str) -> TokenError:
    """The token names no usable way to the API server."""
    return TokenError(Fault.TOKEN_MALFORMED, f"the join token cannot be used: {problem}", _new_token(token))


def revoked(token: JoinToken, server: str) -> TokenError:
    """The server refuses the token although it has not expired."""
    return TokenError(
        Fault.TOKEN_REVOKED,
        f"the join token for group {_group(token)} was revoked: {server} does not accept it",
        _new_token(token),
    )


def used_up(token: JoinToken) -> TokenError:
    """Every name that the token allows is in use."""
    uses = len(token.member_names)
    names = "its one name is" if uses == 1 else f"all {uses} of its names are"
    return TokenError(
        Fault.TOKEN_USED_UP,
        f"the join token for group {_group(token)} is used up: {names} taken by other machines",
        _new_token(token),
    )


def already_member(namespace: str, member: str) -> ClusterError:
    """This machine is already a member."""
    return ClusterError(
        Fault.ALREADY_MEMBER,
        f"this machine is already member {namespace}/{member}",
        "to join anew, keeping what runs until that has succeeded: exclave join --again",
    )


def clocks_differ(server: str, skew: float) -> ClusterError:
    """`skew`: seconds by which the server's clock is ahead of ours."""
    ahead = "ahead of" if skew > 0 else "behind"
    return ClusterError(
        Fault.CLOCK_SKEW,
        f"the clock of {server} is {abs(skew):.0f} s {ahead} this machine's; at most {MOST_SKEW:.0f} s were expected",
        "set this machine's clock, for instance with: timedatectl set-ntp true",
    )


def no_address(servers: tuple[str, ...]) -> ClusterError:
    """This machine has no address by which pods could reach it."""
    return ClusterError(
        Fault.UNREACHABLE,
        f"this machine has no address of its own on a route to {', '.join(servers)}",
        "bring up its network, or name the address: member.address in /etc/exclave/config.toml; if only an HTTP proxy "
        "reaches that server, name it: cluster.proxy",
    )


def not_admitted(namespace: str, member: str, last_report: str) -> ClusterError:
    """No admission within `PATIENCE`. `last_report`: the last progress of the Member, "" without any."""
    return ClusterError(
        Fault.NOT_ADMITTED,
        f"the controller did not admit Member {namespace}/{member} within {PATIENCE:.0f} s"
        + (f": {last_report}" if last_report else ""),
        "check that it runs: kubectl -n exclave get pods; then run the same command with the same token again",
    )


def unusable(what: str, problem: str) -> ClusterError:
    """The controller has sent something unusable."""
    return ClusterError(
        Fault.NOT_ADMITTED,
        f"{what} from the controller cannot be used: {problem}",
        "compare the versions of exclave here and in the cluster, and its issuer with Linkerd's trust anchors",
    )


def translated(problem: ClusterError, token: JoinToken, now: float, server: str, skew: float | None) -> ExclaveError:
    """The meaning of a failed request for a join with this token."""
    if not isinstance(problem, ApiRefusal):
        if problem.cause_kind == "tls-ca":
            return TokenError(Fault.CA_MISMATCH, problem.message, problem.hint)
        return problem
    if skew is not None and abs(skew) > MOST_SKEW:
        return clocks_differ(server, skew)
    if problem.status == 401:
        return expired(token) if now >= token.expires else revoked(token, server)
    return problem


def read_refusal(view: MemberView, token: JoinToken) -> ExclaveError | None:
    """The controller's refusal in a Member; None without one. An unknown reason is none: the controller may wait."""
    admitted = view.admitted
    if admitted is None or admitted.status or admitted.reason not in _REASONS:
        return None
    kind, fault, message, hint = _REASONS[admitted.reason]
    names = {"namespace": token.namespace, "group": token.group, "name": view.name}
    names["addresses"] = ", ".join(view.addresses)
    return kind(fault, f"{message.format(**names)}: {admitted.message}", hint.format(**names))


def _group(token: JoinToken) -> str:
    return f"{token.namespace}/{token.group}"


def _new_token(token: JoinToken) -> str:
    return f"ask the admin for a new one: kubectl exclave token create {token.group}"
