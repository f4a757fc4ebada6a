"""`token create|list|revoke`: the line with which a machine joins.

A token is an account in `<ns>-vms`: `<group>.join.<id>-<uses>`, or `<group>.rejoin.<id>-<number>` for one named member.
Commands name it by `<id>`, or `<id>-<number>` for a named member. Its line goes to standard output only, never into an
error or an argument list. Revoking deletes the account, which works without a controller.
"""

import argparse
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from math import ceil
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from exclave.admin import arguments
from exclave.admin.check.snapshot import find_linkerd, find_linkerd_namespace
from exclave.admin.member.rows import is_live
from exclave.admin.objects import (
    CREDENTIAL_LIFE,
    LONGEST_TTL,
    MOST_USES,
    SHORTEST_TTL,
    Manifest,
    join_account,
    rejoin_account,
)
from exclave.admin.session import Session
from exclave.admin.tables import Listing, age, human_duration, object_name, yaml_text
from exclave.api.join_token import JoinToken, encode_token, is_host
from exclave.api.linkerd.proxy_image import PODS_LABEL, running_images, with_digest
from exclave.api.member import condition_of
from exclave.api.names import ACCOUNTS_LABEL, EXPIRES, accounts_namespace, parse_member_name
from exclave.api.requests import MEMBERS, NAMESPACES, PODS, SERVICE_ACCOUNTS, WORKLOAD_GROUPS, Object
from exclave.cluster.credential import read_token_times
from exclave.cluster.endpoint import Access
from exclave.cluster.http_proxy import HttpProxy
from exclave.errors import ApiRefusal, ClusterError, Fault, UsageError
from exclave.kit.formats.proxy_url import check_proxy_url
from exclave.kit.formats.times import epoch, format_duration, parse_duration, rfc3339
from exclave.kit.formats.visible_text import VisibleText
from exclave.kit.formats.x509 import pem_of, read_certificate_file
from exclave.kit.host.output import print_out

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_LENGTH = 5

LONGEST_CREDENTIAL = 30 * 86400.0  # seconds of lifetime that we request for a machine's credential
MOST_JWT = 2048  # characters of a Kubernetes token, with room

SLACK = 60.0  # seconds of difference that we ignore, because clocks differ

NO_IMAGE = (
    "Linkerd's settings cannot be read here, so the line does not name the proxy's image: "
    "a machine without a proxy needs one first (exclave proxy install IMAGE)"
)

TITLES = ("ID", "GROUP", "USES", "USED", "EXPIRES", "AGE", "FOR")

_ACCOUNT = re.compile(
    r"(?P<group>[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?)[.](?P<kind>join|rejoin)[.](?P<id>[a-z0-9]{5})-(?P<number>[1-9][0-9]{0,2})"
)
_LOCAL_NAMES = ("localhost", "kubernetes", "kubernetes.default", "host.docker.internal", "kubernetes.docker.internal")


@dataclass(frozen=True)
class TokenAccount:
    """A token's account. `number`: its uses, or for `rejoin` the number of its named member."""

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
        """Its named member; "" if it is for new members."""
        return f"{self.group}-{self.token_id}-{self.number}" if self.kind == "rejoin" else ""

    @property
    def expires(self) -> str:
        """RFC 3339; "" if the account has no expiry."""
        return str((self.found["metadata"].get("annotations") or {}).get(EXPIRES, ""))


def add_commands(subparsers: arguments.Subparsers) -> None:
    """Add `token` to the command line."""
    verbs = arguments.add_subject(subparsers, "token", "join tokens: the line with which machines join a group")
    create = arguments.add_verb(
        verbs,
        "create",
        _create,
        "create a join token and print its line to standard output",
        "# one machine within the hour\nkubectl exclave token create web -n shop",
        "# an autoscaling group: twenty machines within a day\n"
        "kubectl exclave token create web -n shop --uses 20 --ttl 24h >token",
        "# the machine of member web-k7q2x-1 was reinstalled, or was off for too long\n"
        "kubectl exclave token create -n shop --for web-k7q2x-1",
        "# machines reach the API server at another address than this kubectl\n"
        "kubectl exclave token create web -n shop --server https://10.0.0.1:6443 --ca-file ca.pem",
    )
    create.add_argument("group", nargs="?", metavar="GROUP")
    create.add_argument("--ttl", default="1h", metavar="TIME", help="lifetime, 10m to 24h; default: 1h")
    create.add_argument(
        "--uses", type=int, default=1, metavar="NUMBER", help="number of machines that may join, 1 to 999; default: 1"
    )
    create.add_argument(
        "--for", dest="member", metavar="MEMBER", help="a member whose machine joins again, under the same name"
    )
    create.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="URL at which machines reach the API server; repeatable; default: the kubeconfig's",
    )
    create.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM file with its CA; default: the kubeconfig's")
    create.add_argument(
        "--system-ca", action="store_true", help="machines trust their own CAs: the server has a public certificate"
    )
    create.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="the name in its certificate; default: the kubeconfig's, else the URL's",
    )
    create.add_argument(
        "--proxy-url", metavar="URL", help='HTTP proxy that machines use to reach it, or ""; default: the kubeconfig\'s'
    )
    arguments.add_controller_namespace(create)
    arguments.add_output(create, "json", "yaml", "name")
    arguments.add_list(verbs, _list, "join tokens", "kubectl exclave token list -A")
    summary = "revoke a join token; machines that joined with it stay members"
    revoke = arguments.add_verb(verbs, "revoke", _revoke, summary, "kubectl exclave token revoke k7q2x -n shop")
    revoke.add_argument("id", metavar="ID", help="the token's ID in token list")


def _create(session: Session, options: argparse.Namespace) -> int:
    ttl = read_ttl(options.ttl)
    check_uses(options.uses)
    group = choose_group(options.group, options.member, options.uses)
    way = _access(session, options)
    check_size(way, session.namespace, group)
    _check_group(session, group)
    now = session.now()
    if options.member is not None:
        _delete_former_member(session, options.member)
        manifest = rejoin_account(session.namespace, options.member, now + ttl)
    else:
        token_id = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
        manifest = join_account(session.namespace, group, token_id, options.uses, now + ttl)
    jwt = _account_and_token(session, manifest, int(ttl))
    expires = _settle_expiry(session, manifest, jwt, now, ttl)
    image = _running_image(session, options.controller_namespace)
    line = encode_token(replace(token_of(way, session.namespace, group, jwt, expires), proxy_image=image))
    (account,) = token_accounts([manifest.body])
    result: Object = {"token": line, "id": account.id, "account": account.name, "group": group}
    result |= {"namespace": session.namespace, "uses": options.uses, "expires": rfc3339(expires)}
    if options.output == "name":
        print_out(object_name(SERVICE_ACCOUNTS, manifest.body))
        session.note("-o name does not print the line, and it cannot be printed later; -o json prints both")
    else:
        print_out(_in_form(result, options.output))
        session.note(*token_notes(group, session.namespace, options.member, options.uses, expires, now))
    if not image:
        session.note(NO_IMAGE)
    for note in _cap_notes(session, options.controller_namespace):
        session.note(note)
    session.note(f"to revoke it: kubectl exclave token revoke {account.id} -n {session.namespace}")
    return 0


def _in_form(result: Object, form: str | None) -> str:
    if form == "json":
        return VisibleText(json.dumps(result, indent=4))
    return yaml_text(result) if form == "yaml" else str(result["token"])


def _running_image(session: Session, controllers: str) -> str:
    """The proxy's image that Linkerd runs, from objects of Linkerd's namespace alone; "" if they cannot be read."""
    kubectl = session.kubectl
    namespace = find_linkerd_namespace(kubectl, controllers)
    try:
        linkerd, _ = find_linkerd(kubectl, namespace)
    except ApiRefusal:
        return ""
    try:
        images = running_images(kubectl.list(PODS, namespace, PODS_LABEL))
    except ApiRefusal:
        images = {}
    return with_digest(linkerd, images).proxy_reference if linkerd is not None else ""


def _cap_notes(session: Session, controllers: str) -> list[str]:
    """A note if `install` measured a short lifetime of credentials. None if the admin may not read it."""
    try:
        found = session.kubectl.get(NAMESPACES, None, controllers)
    except ApiRefusal:
        return []
    life = str(((found or {}).get("metadata", {}).get("annotations") or {}).get(CREDENTIAL_LIFE, ""))
    note = credential_note(float(life)) if life.isdecimal() else None
    return [note] if note else []


def _access(session: Session, options: argparse.Namespace) -> Access:
    """The way of the machine to the API server."""
    cluster = session.kubectl.cluster()
    servers = tuple(options.server or [cluster.server])
    is_other = options.server is not None  # what the kubeconfig has may be of no use for another URL
    ca = b"" if options.system_ca else cluster.ca
    if options.ca_file is not None:
        ca = arguments.load_file("--ca-file", options.ca_file)
    elif not ca and not options.system_ca and (cluster.skips_verification or is_other):
        raise UsageError(
            "the API server's CA is not known: there is none in the kubeconfig",
            "name a PEM file with it: --ca-file FILE; or --system-ca if machines trust its certificate without one",
        )
    name = options.tls_server_name if options.tls_server_name is not None else "" if is_other else cluster.tls_name
    proxy = options.proxy_url if options.proxy_url is not None else "" if is_other else cluster.proxy
    found = check_access(servers, ca, name, proxy)
    session.warn(server_warnings(servers))
    if not found.ca:
        session.note(
            "the token has no CA: machines trust the server's certificate by the CAs that they have themselves"
        )
    return found


def token_of(way: Access, namespace: str, group: str, jwt: str, expires: float) -> JoinToken:
    """The token's content."""
    proxy = way.proxy.url if way.proxy is not None else ""
    return JoinToken(way.servers, way.ca, namespace, group, jwt, expires, tls_name=way.tls_name, proxy=proxy)


def _check_group(session: Session, name: str) -> None:
    found = session.kubectl.get(WORKLOAD_GROUPS, session.namespace, name)
    if found is None:
        raise UsageError(
            f"there is no group {name} in namespace {session.namespace}",
            "list the groups: kubectl exclave group list -A; or create it: "
            f"kubectl exclave group create {name} -n {session.namespace}",
        )
    accepted = condition_of(found, "Accepted")
    if accepted is None:
        session.warn([f"the controller has not accepted group {name} yet: check that it runs: kubectl exclave check"])
    elif not accepted.status:
        session.warn([f"the controller does not accept group {name} and admits no machine to it: {accepted.message}"])


def _delete_former_member(session: Session, member: str) -> None:
    """Delete the member whose machine joins again, and its account. Raises ExclaveError if it is live."""
    kubectl, namespace = session.kubectl, session.namespace
    accounts, name = accounts_namespace(namespace), parse_member_name(member)
    found = kubectl.get(MEMBERS, namespace, member)
    if found is not None and is_live(found):
        raise refuse_living(member, namespace)
    kubectl.delete(SERVICE_ACCOUNTS, accounts, name.account)
    if found is not None:
        kubectl.delete(MEMBERS, namespace, member)
        session.note(f"the former member {member} and its credential are deleted")
        if not session.wait_until(lambda: kubectl.get(MEMBERS, namespace, member) is None, f"{member} to be gone"):
            raise ClusterError(
                Fault.UNREACHABLE,
                f"the former member {member} was deleted, but the controller has not removed its finalizer",
                "check that the controller runs (kubectl get pods -n exclave), then run the same command again",
            )
    earlier = rejoin_account(namespace, member, 0.0).body["metadata"]["name"]
    if kubectl.delete(SERVICE_ACCOUNTS, accounts, earlier):
        session.note(f"an earlier token for {member} is revoked")


def _account_and_token(session: Session, manifest: Manifest, seconds: int) -> str:
    """Create the account before its Kubernetes token, so that every token can be revoked."""
    name, namespace = manifest.name, str(manifest.namespace)
    try:
        session.kubectl.create(manifest.resource, namespace, manifest.body)
    except ApiRefusal as refusal:
        if refusal.status == 404:  # the namespace is missing
            raise UsageError(
                f"namespace {namespace} of the machines' accounts does not exist",
                "create the missing objects of the group: "
                f"kubectl exclave group create {name.split('.')[0]} -n {session.namespace}",
            ) from None
        raise
    try:
        return session.kubectl.create_token(namespace, name, seconds)
    except BaseException:
        session.kubectl.delete(SERVICE_ACCOUNTS, namespace, name)
        raise


def _settle_expiry(session: Session, manifest: Manifest, jwt: str, now: float, ttl: float) -> float:
    """The token's expiry (epoch seconds). If the API server granted less than `ttl`, the account is updated."""
    try:
        until = read_token_times(jwt)[1]
    except ValueError:
        return now + ttl  # not a JWT: the account's expiry applies
    warning = life_warning(ttl, until - now)
    if warning is None:
        return min(now + ttl, until)
    session.warn([warning])
    body = {"metadata": {"annotations": {EXPIRES: rfc3339(until)}}}
    session.kubectl.patch(SERVICE_ACCOUNTS, manifest.namespace, manifest.name, body)
    return until


def _list(session: Session, options: argparse.Namespace) -> int:
    kubectl = session.kubectl
    if options.all_namespaces:
        namespaces = kubectl.list(NAMESPACES, None, selector=ACCOUNTS_LABEL)
        places = sorted(one["metadata"]["labels"][ACCOUNTS_LABEL] for one in namespaces)
    else:
        places = [session.namespace]
    objects: list[Object] = []
    rows: list[list[str]] = []
    for place in places:
        accounts = token_accounts(kubectl.list(SERVICE_ACCOUNTS, accounts_namespace(place)))
        members = [one["metadata"]["name"] for one in kubectl.list(MEMBERS, place)] if accounts else []
        objects += [one.found for one in accounts]
        rows += [[place, *token_row(one, members, session.now())] for one in accounts]
    listing = Listing(SERVICE_ACCOUNTS, objects, ["NAMESPACE", *TITLES], rows)
    session.show_list(listing, options, "join tokens")
    return 0


def _revoke(session: Session, options: argparse.Namespace) -> int:
    accounts = accounts_namespace(session.namespace)
    found = token_accounts(session.kubectl.list(SERVICE_ACCOUNTS, accounts))
    token = choose_token(found, options.id, session.namespace)
    session.kubectl.delete(SERVICE_ACCOUNTS, accounts, token.name)
    print_out(f"token {token.id} of group {token.group} revoked")
    session.note(
        "within about ten seconds it is refused; machines that joined with it stay members: "
        f"kubectl exclave member list -n {session.namespace} --group {token.group}"
    )
    return 0


# Options, rows and notes.


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
    """The token with this id or account name. Raises UsageError unless there is exactly one."""
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


def check_access(servers: Sequence[str], ca: bytes, tls_name: str = "", proxy: str = "") -> Access:
    """The way to the API server, with nothing of `ca` (a PEM file) but its certificates. Raises UsageError.

    Without `ca`, machines use the CAs that they trust.
    """
    for server in servers:
        parts = urlsplit(server)
        if parts.scheme != "https" or not parts.hostname:
            raise UsageError(
                f"{server or 'the kubeconfig'} is no https URL of an API server",
                "name a URL that machines reach: --server https://10.0.0.1:6443",
            )
    try:
        pem = "".join(map(pem_of, read_certificate_file(ca))) if ca else ""
    except ValueError:
        raise UsageError(
            "the API server's CA is not known: there is no readable one in the kubeconfig",
            "name a PEM file with it: --ca-file FILE",
        ) from None
    if tls_name and not is_host(tls_name):
        raise UsageError(f"tls-server-name: {tls_name!r} is no name of a server", "name it with --tls-server-name")
    try:
        through = HttpProxy(check_proxy_url(proxy)) if proxy else None
    except ValueError as problem:
        raise UsageError(
            f"proxy-url of the kubeconfig, or --proxy-url, cannot go into a token: {problem}",
            "name a proxy that machines reach: --proxy-url http://proxy.example.org:3128; without any: --proxy-url ''",
        ) from None
    return Access(tuple(servers), pem, tls_name, through)


def check_size(way: Access, namespace: str, group: str) -> None:
    """Raise UsageError if a token would be too large, before anything is made."""
    try:
        encode_token(token_of(way, namespace, group, "x" * MOST_JWT, 0.0))
    except ValueError as problem:
        count = way.ca.count("BEGIN CERTIFICATE")
        raise UsageError(
            f"the join token would be too large, with {count} certificates of CAs: {problem}",
            "name a file that has only the API server's CA: --ca-file FILE; if its certificate is public: --system-ca",
        ) from None


def server_warnings(servers: Sequence[str]) -> list[str]:
    """Warnings for URLs that other machines can hardly reach."""
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
    """The owner of an address that means something else on another machine."""
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
