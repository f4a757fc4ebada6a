"""Join tokens and their accounts. Pure.

A token is an account in `<ns>-vms`: `<group>.join.<id>-<uses>`, or `<group>.rejoin.<id>-<number>` for one named member.
Its name and its expiry annotation are all that the cluster stores about it. Commands name a token by `<id>`, or by
`<id>-<number>` if it is for a named member.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from math import ceil
from typing import Literal
from urllib.parse import urlsplit

from cryptography import x509

from exclave.admin.objects import LONGEST_TTL, MOST_USES, SHORTEST_TTL
from exclave.admin.tables import age, human_duration
from exclave.api.names import EXPIRES, parse_member_name
from exclave.api.requests import Object
from exclave.errors import UsageError
from exclave.kit.formats.times import epoch, format_duration, parse_duration, rfc3339

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_LENGTH = 5

LONGEST_CREDENTIAL = 30 * 86400.0
"""Seconds of lifetime that we request for a machine's credential."""

SLACK = 60.0
"""Seconds of difference that we ignore, because the server's clock is not ours."""

TITLES = ("ID", "GROUP", "USES", "USED", "EXPIRES", "AGE", "FOR")

_ACCOUNT = re.compile(
    r"(?P<group>[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?)[.](?P<kind>join|rejoin)[.](?P<id>[a-z0-9]{5})-(?P<number>[1-9][0-9]{0,2})"
)
_LOCAL_NAMES = ("localhost", "kubernetes", "kubernetes.default", "host.docker.internal", "kubernetes.docker.internal")


@dataclass(frozen=True)
class TokenAccount:
    """A token's account. `number`: its uses, or for `rejoin` the number of the member that it is for."""

    group: str
    kind: Literal["join", "rejoin"]
    token_id: str
    number: int
    found: Object

    @property
    def name(self) -> str:
        """The account's name."""
        return f"{self.group}.{self.kind}.{self.token_id}-{self.number}"

    @property
    def id(self) -> str:
        """The token's id in commands."""
        return self.token_id if self.kind == "join" else f"{self.token_id}-{self.number}"

    @property
    def uses(self) -> int:
        """The number of machines that may join with it."""
        return self.number if self.kind == "join" else 1

    @property
    def member(self) -> str:
        """The member that it is for; "" if it is for new ones."""
        return f"{self.group}-{self.token_id}-{self.number}" if self.kind == "rejoin" else ""

    @property
    def expires(self) -> str:
        """RFC 3339; "" if the account has no expiry."""
        return str((self.found["metadata"].get("annotations") or {}).get(EXPIRES, ""))


def token_accounts(accounts: Iterable[Object]) -> list[TokenAccount]:
    """The accounts that are join tokens."""
    found = ((one, _ACCOUNT.fullmatch(one["metadata"]["name"])) for one in accounts)
    return [
        TokenAccount(
            name["group"], "join" if name["kind"] == "join" else "rejoin", name["id"], int(name["number"]), one
        )
        for one, name in found
        if name is not None
    ]


def count_used(account: TokenAccount, members: Iterable[str]) -> int:
    """The number of these Members that joined with it."""
    if account.kind == "rejoin":
        return sum(name == account.member for name in members)
    return sum(_is_of(name, account) for name in members)


def token_row(account: TokenAccount, members: Sequence[str], now: float) -> list[str]:
    """A row of `token list`."""
    until = epoch(account.expires)
    left = account.expires
    if until is not None:
        left = "expired" if until <= now else f"in {human_duration(round(until - now))}"
    count = count_used(account, members)
    created = age(account.found["metadata"].get("creationTimestamp"), now)
    return [account.id, account.group, str(account.uses), str(count), left, created, account.member or "-"]


def choose_token(accounts: Sequence[TokenAccount], named: str, namespace: str) -> TokenAccount:
    """The token with this id or account name. Raises UsageError if there is none, or more than one."""
    found = [one for one in accounts if named in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"there is no join token {named} in namespace {namespace}",
            f"it may have expired; list them: kubectl exclave token list -n {namespace}",
        )
    names = ", ".join(one.name for one in found)
    raise UsageError(f"two join tokens have the id {named}: {names}", "use one of these names")


def read_ttl(text: str) -> float:
    """A token's lifetime in seconds. Raises UsageError."""
    bounds = f"{format_duration(SHORTEST_TTL)} to {format_duration(LONGEST_TTL)}"
    hint = "use a time such as 30m, 1h or 24h"
    try:
        seconds = parse_duration(text)
    except ValueError as problem:
        raise UsageError(f"--ttl: {problem}", hint) from None
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise UsageError(f"--ttl: {bounds} was expected, found {text}", hint)
    return seconds


def check_uses(uses: int) -> None:
    """Raise UsageError for a wrong number of uses."""
    if not 1 <= uses <= MOST_USES:
        raise UsageError(
            f"--uses: a number from 1 to {MOST_USES} was expected, found {uses}",
            "create several tokens for more machines",
        )


def choose_group(group: str | None, member: str | None, uses: int) -> str:
    """The group of a token for GROUP or for one member. Raises UsageError if the options contradict each other."""
    if member is None:
        if group is None:
            raise UsageError("no group was named", "name one: kubectl exclave token create GROUP")
        return group
    try:
        name = parse_member_name(member)
    except ValueError as problem:
        raise UsageError(f"--for: {problem}", "list them: kubectl exclave member list") from None
    if group not in (None, name.group):
        raise UsageError(f"{member} is a member of group {name.group}, not of {group}", "name only the member")
    if uses != 1:
        raise UsageError("--for: a token for one member has one use", "omit --uses")
    return name.group


def refuse_living(member: str, namespace: str) -> UsageError:
    """The error for a token for a live member."""
    return UsageError(
        f"{member} is live and needs no token",
        f"if its machine was replaced, evict it first: kubectl exclave member evict {member} -n {namespace}",
    )


def check_access(servers: Sequence[str], ca: str) -> None:
    """Raise UsageError if these are no https URLs, or this is no CA certificate."""
    for server in servers:
        parts = urlsplit(server)
        if parts.scheme != "https" or not parts.hostname:
            raise UsageError(
                f"{server or 'the kubeconfig'} is no https URL of an API server",
                "name a URL that machines reach: --server https://10.0.0.1:6443",
            )
    try:
        x509.load_pem_x509_certificate(ca.encode())
    except ValueError:
        raise UsageError(
            "the API server's CA is not known: there is no readable one in the kubeconfig",
            "name a PEM file with it: --ca-file FILE",
        ) from None


def server_warnings(servers: Sequence[str]) -> list[str]:
    """Warnings for URLs that a machine elsewhere can hardly reach."""
    return [
        f"{server} is an address of {where}: name one that machines reach with --server"
        for server in servers
        if (where := _local_place(urlsplit(server).hostname or "")) is not None
    ]


def life_warning(asked: float, granted: float) -> str | None:
    """A warning if the API server granted less lifetime than requested (seconds)."""
    if granted >= asked - SLACK:
        return None
    return (
        f"this API server limits the lifetime of tokens: it granted {human_duration(ceil(granted))} "
        f"instead of {human_duration(asked)}"
    )


def credential_note(life: float) -> str | None:
    """A note if the API server grants machines' credentials less lifetime (seconds) than we request."""
    if life >= LONGEST_CREDENTIAL - SLACK:
        return None
    return (
        f"this API server limits the lifetime of tokens to {human_duration(life)}: machines renew their credential at "
        "half of that, and a machine that is off for longer needs a new join token (kubectl exclave token create "
        "--for MEMBER)"
    )


def token_notes(group: str, namespace: str, member: str | None, uses: int, expires: float, now: float) -> list[str]:
    """Notes about a new token: what it is for, its expiry, what to type on the machine."""
    if member is not None:
        whom = f"this machine becomes member {member} again"
    else:
        whom = "one machine joins" if uses == 1 else f"up to {uses} machines join"
    return [
        f"with the line above {whom}: group {group}, namespace {namespace}",
        f"until {rfc3339(expires)} (in {human_duration(ceil(expires - now))}); everybody who has the line can use it",
        "on the machine: sudo exclave join, then paste the line",
    ]


def _is_of(name: str, account: TokenAccount) -> bool:
    try:
        member = parse_member_name(name)
    except ValueError:
        return False
    return (member.group, member.token_id) == (account.group, account.token_id)


def _local_place(host: str) -> str | None:
    """What an address belongs to, if it means something else on another machine."""
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return "this machine or cluster only"
    if host.endswith((".svc", ".svc.cluster.local")):
        return "the cluster's own network"
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified:
        return "this machine only"
    return "this link only" if address.is_link_local else None
