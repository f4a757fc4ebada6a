"""Deletes accounts that nothing else deletes: expired join accounts, and machines' accounts without a Member."""

import logging
from collections.abc import Callable, Iterable

import trio

from exclave.api.malformed import object_title
from exclave.api.names import EXPIRES, accounts_namespace
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS, Object, delete, get, is_transient, list_all
from exclave.controller.cache import Cache
from exclave.controller.leader.lead import Sender
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.formats.times import epoch
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two rounds
GRACE = 60.0  # seconds for which a new account may have no Member in the cache: the machine may be joining


async def run_sweeps(
    cluster: Sender, namespaces: Callable[[], Iterable[str]], members: Cache, now: Now, malformed: MalformedLog
) -> None:
    """Sweep these namespaces with groups until cancelled. A failure is logged, and the next round tries again."""
    while True:
        for namespace in namespaces():
            try:
                names = {name for where, name in members.objects if where == namespace}
                await sweep(cluster, namespace, names, now, malformed)
            except ClusterError as problem:
                log.warning("accounts in %s: %s", accounts_namespace(namespace), problem)
        await trio.sleep(EVERY)


async def sweep(cluster: Sender, namespace: str, members: set[str], now: Now, malformed: MalformedLog) -> None:
    """One round in one namespace. Raises ClusterError."""
    where = accounts_namespace(namespace)
    listed = await cluster.send(list_all(SERVICE_ACCOUNTS, where))
    for account in listed.get("items") or []:
        name, is_expired, member = "", False, None
        with malformed.isolate(object_title(account, SERVICE_ACCOUNTS.kind)):
            name = str(account["metadata"]["name"])
            is_expired, member = has_expired(account, now()), missing_member(account, members, now())
        if is_expired:
            log.info("join account %s/%s has expired", where, name)
        elif member is not None and not await _exists(cluster, namespace, member):  # the cache may be late
            log.warning("account %s/%s has no Member and is deleted", where, name)
        else:
            continue
        await _delete_or_warn(cluster, where, name)


def has_expired(account: Object, now: float) -> bool:
    """True if it is a join account that has expired. One without a readable expiry is not deleted."""
    expires = epoch((account["metadata"].get("annotations") or {}).get(EXPIRES, ""))
    _, kind, _ = _parts(account)
    return kind in ("join", "rejoin") and expires is not None and expires <= now


def missing_member(account: Object, members: set[str], now: float) -> str | None:
    """The Member of a machine's account, if it is not in `members`; else None."""
    group, kind, tail = _parts(account)
    member = f"{group}-{tail}"
    if kind != "vm" or member in members:
        return None
    created = epoch(str(account["metadata"].get("creationTimestamp") or ""))
    return member if created is not None and now - created > GRACE else None


def _parts(account: Object) -> tuple[str, str, str]:
    """Group, kind and tail of an account's name; empty texts for a name of another form."""
    parts = str(account["metadata"]["name"]).split(".")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")


async def delete_group_accounts(cluster: Sender, namespace: str, group: str) -> None:
    """Delete the accounts of a group that will be released, as far as permitted. Raises ClusterError."""
    # The sweeps visit only namespaces with groups, so the accounts of a namespace's last group would stay.
    where = accounts_namespace(namespace)
    try:
        listed = await cluster.send(list_all(SERVICE_ACCOUNTS, where))
        for name in accounts_of(listed.get("items") or [], group):
            log.info("account %s/%s goes with its group", where, name)
            await _delete(cluster, where, name)
    except ApiRefusal as refusal:
        if refusal.status not in (403, 404):
            raise
        log.warning("accounts of group %s/%s are left: %s", namespace, group, refusal)  # its Roles were deleted first


def accounts_of(accounts: Iterable[Object], group: str) -> list[str]:
    """Names of all accounts of a group: of machines and of join tokens."""
    return [str(account["metadata"]["name"]) for account in accounts if _parts(account)[0] == group]


async def _exists(cluster: Sender, namespace: str, member: str) -> bool:
    try:
        await cluster.send(get(MEMBERS, namespace, member))
    except ApiRefusal as refusal:
        if refusal.status == 404:
            return False
        raise
    return True


async def _delete_or_warn(cluster: Sender, namespace: str, name: str) -> None:
    """Delete an account. A refusal is only logged, so that the other accounts are deleted, too."""
    try:
        await _delete(cluster, namespace, name)
    except ApiRefusal as refusal:
        if is_transient(refusal):
            raise
        log.warning("account %s/%s is left: %s", namespace, name, refusal)


async def _delete(cluster: Sender, namespace: str, name: str) -> None:
    try:
        await cluster.send(delete(SERVICE_ACCOUNTS, namespace, name))
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
