"""Reads who else has rights in the namespaces of machines' accounts. A group there takes no new members then."""

import logging
from collections.abc import Callable, Iterable

import trio

from exclave.api.definitions.account_rights import foreign_bindings
from exclave.api.malformed import mapping_in
from exclave.api.names import accounts_namespace
from exclave.api.requests import ROLE_BINDINGS, list_all
from exclave.cluster.answers import AnswerTooLarge
from exclave.controller.leader.lead import Sender
from exclave.controller.policy.accept import GroupRights
from exclave.errors import ApiRefusal, ClusterError

log = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two rounds
MOST = 500  # RoleBindings that are read in a namespace. Exclave makes two.


async def read_rights(cluster: Sender, namespace: str, controller_namespace: str) -> GroupRights:
    """The rights around the groups of a namespace. Raises ClusterError."""
    where = accounts_namespace(namespace)
    try:
        listed = await cluster.send(list_all(ROLE_BINDINGS, where, limit=str(MOST)))
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        return GroupRights((), f"the controller may not list the RoleBindings in namespace {where}")
    except AnswerTooLarge as problem:
        return GroupRights((), problem.message)
    if mapping_in(listed, "metadata").get("continue"):
        return GroupRights((), f"there are more than {MOST} RoleBindings in namespace {where}")
    return GroupRights(tuple(foreign_bindings(listed.get("items") or [], where, controller_namespace)))


async def follow_rights(
    cluster: Sender,
    namespaces: Callable[[], Iterable[str]],
    controller_namespace: str,
    store: Callable[[str, GroupRights], None],
) -> None:
    """Read these namespaces with groups again and again, until cancelled. A failure keeps what was read before."""
    while True:
        await trio.sleep(EVERY)
        for namespace in namespaces():
            try:
                store(namespace, await read_rights(cluster, namespace, controller_namespace))
            except ClusterError as problem:
                log.warning("RoleBindings in %s: %s", accounts_namespace(namespace), problem)
