"""`token create|list|revoke`: the line with which a machine joins.

Only the line goes to standard output; it is never in an error or an argument list. Revoking deletes the account, which
works without exclave's controller.
"""

import argparse
import json
import secrets
from pathlib import Path

from exclave.admin import arguments
from exclave.admin.member.rows import is_live
from exclave.admin.objects import CREDENTIAL_LIFE, Manifest, join_account, rejoin_account
from exclave.admin.session import Session
from exclave.admin.tables import Listing, object_name, yaml_text
from exclave.admin.token.checks import (
    ALPHABET,
    ID_LENGTH,
    TITLES,
    check_access,
    check_uses,
    choose_group,
    choose_token,
    credential_note,
    life_warning,
    read_ttl,
    refuse_living,
    server_warnings,
    token_accounts,
    token_notes,
    token_row,
)
from exclave.api.join_token import JoinToken, encode_token
from exclave.api.member import condition_of
from exclave.api.names import ACCOUNTS_LABEL, EXPIRES, accounts_namespace, parse_member_name
from exclave.api.requests import MEMBERS, NAMESPACES, SERVICE_ACCOUNTS, WORKLOAD_GROUPS, Object
from exclave.cluster.credential import read_token_times
from exclave.errors import ApiRefusal, ClusterError, Fault, UsageError
from exclave.kit.formats.times import rfc3339


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
    servers, ca = _access(session, options)
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
    line = encode_token(JoinToken(servers, ca, session.namespace, group, jwt, expires))
    (account,) = token_accounts([manifest.body])
    result: Object = {"token": line, "id": account.id, "account": account.name, "group": group}
    result |= {"namespace": session.namespace, "uses": options.uses, "expires": rfc3339(expires)}
    if options.output == "name":
        print(object_name(SERVICE_ACCOUNTS, manifest.body))
        session.note("-o name does not print the line, and it cannot be printed later; -o json prints both")
    else:
        print(_in_form(result, options.output))
        session.note(*token_notes(group, session.namespace, options.member, options.uses, expires, now))
    for note in _cap_notes(session, options.controller_namespace):
        session.note(note)
    session.note(f"to revoke it: kubectl exclave token revoke {account.id} -n {session.namespace}")
    return 0


def _in_form(result: Object, form: str | None) -> str:
    if form == "json":
        return json.dumps(result, indent=4)
    return yaml_text(result) if form == "yaml" else str(result["token"])


def _cap_notes(session: Session, controllers: str) -> list[str]:
    """A note if `install` has measured a short lifetime of credentials. None if the admin may not read it."""
    try:
        found = session.kubectl.get(NAMESPACES, None, controllers)
    except ApiRefusal:
        return []
    life = str(((found or {}).get("metadata", {}).get("annotations") or {}).get(CREDENTIAL_LIFE, ""))
    note = credential_note(float(life)) if life.isdecimal() else None
    return [note] if note else []


def _access(session: Session, options: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    """The API server's URLs and CA for the machine."""
    server, ca = session.kubectl.cluster()
    servers = tuple(options.server or [server])
    if options.ca_file is not None:
        ca = arguments.load_pem("--ca-file", options.ca_file)
    check_access(servers, ca)
    session.warn(server_warnings(servers))
    return servers, ca


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
        return now + ttl  # not a JWT: the account's expiry ends it
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
    print(f"token {token.id} of group {token.group} revoked")
    session.note(
        "within about ten seconds it is refused; machines that joined with it stay members: "
        f"kubectl exclave member list -n {session.namespace} --group {token.group}"
    )
    return 0
