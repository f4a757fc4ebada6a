"""`token create|list|revoke`: the one line by which a machine joins.

Rules: the account is made first and the Kubernetes token minted for it, so that whatever is minted can be revoked; if
minting fails the account is removed again. The line goes to standard output and nothing else does; it is in no error
and no argument list. Revoking is deleting the account: it works without exclave's controller.
"""

import argparse
import json
import secrets
from pathlib import Path

from exclave.admin.arguments import Subparsers, add_all_namespaces, add_output, add_subject, add_verb
from exclave.admin.manifests import CREDENTIAL_LIFE
from exclave.admin.member.rows import is_live
from exclave.admin.objects import Manifest, join_account, rejoin_account
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
from exclave.api.member import read_conditions
from exclave.api.names import ACCOUNTS_LABEL, EXPIRES, accounts_namespace, parse_member_name
from exclave.api.requests import MEMBERS, NAMESPACES, SERVICE_ACCOUNTS, WORKLOAD_GROUPS, Object
from exclave.cluster.credential import read_token_times
from exclave.errors import ApiRefusal, ClusterError, ExclaveError, Fault
from exclave.kit.formats.rfc3339 import rfc3339


def add_commands(subparsers: Subparsers) -> None:
    """Add `token` to the command line."""
    verbs = add_subject(subparsers, "token", "join tokens: the one line by which a machine joins a group")
    create = add_verb(
        verbs,
        "create",
        _create,
        "make a join token; its line is all that standard output gets",
        "# one machine within the hour\nkubectl exclave token create web -n shop",
        "# an autoscaling group: twenty machines within a day\n"
        "kubectl exclave token create web -n shop --uses 20 --ttl 24h >token",
        "# the machine of web-k7q2x-1 was reinstalled, or was off for too long\n"
        "kubectl exclave token create -n shop --for web-k7q2x-1",
        "# machines reach the API server by another address than this kubectl does\n"
        "kubectl exclave token create web -n shop --server https://10.0.0.1:6443 --ca-file ca.pem",
    )
    create.add_argument("group", nargs="?", metavar="GROUP")
    create.add_argument("--ttl", default="1h", metavar="TIME", help="10m to 24h; 1h if absent")
    create.add_argument("--uses", type=int, default=1, metavar="NUMBER", help="machines that may join, 1 to 999")
    create.add_argument("--for", dest="member", metavar="MEMBER", help="a member that is to join again by its old name")
    create.add_argument(
        "--server", action="append", metavar="URL", help="the API server as machines reach it; may be repeated"
    )
    create.add_argument("--ca-file", type=Path, metavar="FILE", help="its CA as PEM; the kubeconfig's, if absent")
    create.add_argument("--controller-namespace", default="exclave", metavar="NAME", help="where the controller is")
    add_output(create, "json", "yaml", "name")
    listed = add_verb(verbs, "list", _list, "list the join tokens that are still good", "kubectl exclave token list -A")
    add_all_namespaces(listed)
    add_output(listed)
    revoke = add_verb(
        verbs,
        "revoke",
        _revoke,
        "revoke a join token; whoever joined with it stays a member",
        "kubectl exclave token revoke k7q2x -n shop",
    )
    revoke.add_argument("id", metavar="ID", help="as token list shows it")


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
    name = manifest.name
    told: Object = {"token": line, "id": _id_of(manifest.body), "account": name, "group": group}
    told |= {"namespace": session.namespace, "uses": options.uses, "expires": rfc3339(expires)}
    if options.output == "name":
        print(object_name(SERVICE_ACCOUNTS, manifest.body))
        session.note("its line is not shown with -o name, and nobody has it; -o json shows both")
    else:
        print(_in_form(told, options.output))
        session.note(*token_notes(group, session.namespace, options.member, options.uses, expires, now))
    for note in _cap_notes(session, options.controller_namespace):
        session.note(note)
    session.note(f"take it back: kubectl exclave token revoke {_id_of(manifest.body)} -n {session.namespace}")
    return 0


def _in_form(told: Object, form: str | None) -> str:
    if form == "json":
        return json.dumps(told, indent=4)
    return yaml_text(told) if form == "yaml" else str(told["token"])


def _cap_notes(session: Session, controllers: str) -> list[str]:
    """What `install` has measured of the life of credentials, if it is short, and may be read."""
    try:
        found = session.kubectl.get(NAMESPACES, None, controllers)
    except ApiRefusal:
        return []
    life = str(((found or {}).get("metadata", {}).get("annotations") or {}).get(CREDENTIAL_LIFE, ""))
    note = credential_note(float(life)) if life.isdecimal() else None
    return [note] if note else []


def _access(session: Session, options: argparse.Namespace) -> tuple[tuple[str, ...], str]:
    """The API server's addresses and CA as the machine shall use them."""
    address = session.kubectl.cluster()
    servers = tuple(options.server or [address.server])
    ca = address.ca
    if options.ca_file is not None:
        try:
            ca = options.ca_file.read_text()
        except (OSError, UnicodeDecodeError) as problem:
            why = getattr(problem, "strerror", None) or "it is not text"
            raise ExclaveError(Fault.USAGE, f"--ca-file {options.ca_file}: {why}", "name a file of PEM") from None
    check_access(servers, ca)
    session.warn(server_warnings(servers))
    return servers, ca


def _check_group(session: Session, name: str) -> None:
    found = session.kubectl.get(WORKLOAD_GROUPS, session.namespace, name)
    if found is None:
        raise ExclaveError(
            Fault.USAGE,
            f"there is no group {name} in namespace {session.namespace}",
            "list the groups: kubectl exclave group list -A; or create it: "
            f"kubectl exclave group create {name} -n {session.namespace}",
        )
    conditions = read_conditions((found.get("status") or {}).get("conditions"))
    accepted = next((one for one in conditions if one.type == "Accepted"), None)
    if accepted is None:
        session.warn([f"the controller has not said yet whether group {name} can be one: see that it runs"])
    elif not accepted.status:
        session.warn([f"the controller does not accept group {name}, and admits nobody to it: {accepted.message}"])


def _delete_former_member(session: Session, member: str) -> None:
    """Remove what is left of a member whose machine joins again. Raises ExclaveError if it lives."""
    kubectl, namespace = session.kubectl, session.namespace
    accounts, name = accounts_namespace(namespace), parse_member_name(member)
    found = kubectl.get(MEMBERS, namespace, member)
    if found is not None and is_live(found):
        raise refuse_living(member, namespace)
    kubectl.delete(SERVICE_ACCOUNTS, accounts, name.account)
    if found is not None:
        kubectl.delete(MEMBERS, namespace, member)
        session.note(f"the old member {member} is deleted, and its credential with it")
        if not session.wait_until(lambda: kubectl.get(MEMBERS, namespace, member) is None, f"{member} to be gone"):
            raise ClusterError(
                Fault.UNREACHABLE,
                f"the old member {member} was deleted, and the controller has not let go of it",
                "see that the controller runs (kubectl get pods -n exclave), then type this again",
            )
    earlier = rejoin_account(namespace, member, 0.0).body["metadata"]["name"]
    if kubectl.delete(SERVICE_ACCOUNTS, accounts, earlier):
        session.note(f"an earlier token for {member} is revoked")


def _account_and_token(session: Session, manifest: Manifest, seconds: int) -> str:
    name, namespace = manifest.name, str(manifest.namespace)
    try:
        session.kubectl.create(manifest.resource, namespace, manifest.body)
    except ApiRefusal as refusal:
        if refusal.status == 404:  # the namespace is missing
            raise ExclaveError(
                Fault.USAGE,
                f"namespace {namespace}, which holds the machines' accounts, is not there",
                f"make what the group lacks: kubectl exclave group create {name.split('.')[0]} -n {session.namespace}",
            ) from None
        raise
    try:
        return session.kubectl.create_token(namespace, name, seconds)
    except BaseException:
        session.kubectl.delete(SERVICE_ACCOUNTS, namespace, name)
        raise


def _settle_expiry(session: Session, manifest: Manifest, jwt: str, now: float, ttl: float) -> float:
    """When the token ends: as was asked, or earlier if the API server granted less; then the account says so, too."""
    try:
        until = read_token_times(jwt)[1]
    except ValueError:
        return now + ttl  # a token of another form; the account ends it
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
        labelled = kubectl.list(NAMESPACES, None, selector=ACCOUNTS_LABEL)
        places = sorted(one["metadata"]["labels"][ACCOUNTS_LABEL] for one in labelled)
    else:
        places = [session.namespace]
    objects: list[Object] = []
    rows: list[list[str]] = []
    for place in places:
        accounts = token_accounts(kubectl.list(SERVICE_ACCOUNTS, accounts_namespace(place)))
        members = [one["metadata"]["name"] for one in kubectl.list(MEMBERS, place)] if accounts else []
        objects += [one.found for one in accounts]
        rows += [
            [*([place] if options.all_namespaces else []), *token_row(one, members, session.now())] for one in accounts
        ]
    titles = ["NAMESPACE", *TITLES] if options.all_namespaces else list(TITLES)
    where = "any namespace" if options.all_namespaces else f"namespace {session.namespace}"
    session.show(Listing(SERVICE_ACCOUNTS, objects, titles, rows), options.output, f"no join tokens in {where}")
    return 0


def _revoke(session: Session, options: argparse.Namespace) -> int:
    accounts = accounts_namespace(session.namespace)
    found = token_accounts(session.kubectl.list(SERVICE_ACCOUNTS, accounts))
    token = choose_token(found, options.id, session.namespace)
    session.kubectl.delete(SERVICE_ACCOUNTS, accounts, token.name)
    print(f"token {token.id} of group {token.group} revoked")
    session.note(
        "it is refused within about ten seconds; machines that joined with it stay members: "
        f"kubectl exclave member list -n {session.namespace} --group {token.group}"
    )
    return 0


def _id_of(account: Object) -> str:
    return token_accounts([account])[0].id
