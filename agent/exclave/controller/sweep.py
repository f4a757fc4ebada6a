"""Deletes accounts that would stay behind: expired join accounts, and machines' accounts without a Member.

Before a deletion the API server is asked whether there is a Member, since a cache may be late. A failure is logged,
and the next round tries again.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from exclave.api.malformed import object_title, read_each
from exclave.api.names import accounts_namespace
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS, Object, delete, get, is_transient, list_all
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.expiry import accounts_of, expired_accounts, orphan_accounts
from exclave.controller.policy.snapshot import Key
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ApiRefusal, ClusterError
from exclave.kit.tasks.wall_clock import Now

T = TypeVar("T")

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two rounds."""


async def run_sweeps(
    cluster: Sender,
    namespaces: Callable[[], Iterable[str]],
    members: Callable[[], Iterable[Key]],
    now: Now,
    malformed: MalformedLog,
) -> None:
    """Sweep for ever. `namespaces`: those with groups. `members`: the keys of all Members that are known."""
    while True:
        for namespace in namespaces():
            try:
                names = {name for where, name in members() if where == namespace}
                await sweep(cluster, namespace, names, now, malformed)
            except ClusterError as problem:
                log.warning("accounts in %s: %s", accounts_namespace(namespace), problem)
        await trio.sleep(EVERY)


async def sweep(cluster: Sender, namespace: str, members: set[str], now: Now, malformed: MalformedLog) -> None:
    """One round in one namespace. Raises ClusterError."""
    where = accounts_namespace(namespace)
    listed = await cluster.send(list_all(SERVICE_ACCOUNTS, where))
    accounts: list[Object] = listed.get("items") or []
    for name in _each(accounts, lambda one: expired_accounts([one], now()), malformed):
        log.info("join account %s/%s has expired", where, name)
        await _delete_or_warn(cluster, where, name)
    for name, member in _each(accounts, lambda one: orphan_accounts([one], members, now()), malformed):
        if not await _exists(cluster, namespace, member):
            log.warning("account %s/%s has no Member and is deleted", where, name)
            await _delete_or_warn(cluster, where, name)


def _each(accounts: Iterable[Object], select: Callable[[Object], list[T]], malformed: MalformedLog) -> list[T]:
    """What `select` returns for the accounts; one that it fails for is reported and left out."""

    def report(one: Object, problem: Exception) -> None:
        malformed.report(object_title(one, SERVICE_ACCOUNTS.kind), problem)

    found = read_each(accounts, select, report)
    return [each for some in found for each in some]


async def delete_group_accounts(cluster: Sender, namespace: str, group: str) -> None:
    """Delete the accounts of a group that is about to be released, as far as permitted. Raises ClusterError."""
    # The sweeps visit namespaces with groups only, so the accounts of a namespace's last group would stay.
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


async def _exists(cluster: Sender, namespace: str, member: str) -> bool:
    try:
        await cluster.send(get(MEMBERS, namespace, member))
    except ApiRefusal as refusal:
        if refusal.status == 404:
            return False
        raise
    return True


async def _delete_or_warn(cluster: Sender, namespace: str, name: str) -> None:
    """Delete an account. A refusal is logged, so that the others are deleted all the same."""
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
