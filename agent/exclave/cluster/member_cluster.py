"""A client of the cluster with the member's own credential, which is renewed while it is open.

A new credential is stored before it is used. Only a leave deletes it. Tokens are never logged.
"""

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from exclave.api.requests import create_token
from exclave.cluster.client import Cluster, Draw
from exclave.cluster.credential import Credential, granted_credential, parse_credential, render_credential
from exclave.cluster.endpoint import Access, ServerAddress
from exclave.cluster.http import Exchange, open_exchange
from exclave.cluster.server_addresses import forget_answers, open_server_addresses
from exclave.ending import Ending, EndingSwitch
from exclave.errors import ExclaveError, Fault, HostError, describe
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.tasks.backoff import Attempts, Backoff
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now, sleep_until_wall
from exclave.milestones import Leaving, log_milestone

log = logging.getLogger(__name__)

FILE = "credential.json"

ASKED = 30 * 24 * 3600  # seconds of life requested: the most that the admission policy allows; servers may grant less

RETRIES = Backoff(first=10.0, most=600.0)

SOONEST = 60.0  # least seconds between two credentials: clocks that differ must not cause many requests


class MemberCluster(Cluster):
    """A cluster with the member's credential and the servers' addresses. Made by `open_member_cluster`."""

    def __init__(
        self,
        exchange: Exchange,
        draw: Draw,
        credential: Latest[Credential],
        server_addresses: Latest[tuple[ServerAddress, ...]],
    ) -> None:
        super().__init__(exchange, draw)
        self.credential = credential
        self.server_addresses = server_addresses


@asynccontextmanager
async def open_member_cluster(
    access: Access,
    state: Path,
    namespace: str,
    account: str,
    endings: EndingSwitch,
    now: Now,
    draw: Draw = random.random,
) -> AsyncIterator[MemberCluster]:
    """A client of the cluster as a member. `account`: its ServiceAccount, in `namespace` (`<ns>-vms`).

    Raises HostError if `state` has no usable credential, ClusterError if the CA cannot be read.
    """
    path = state / FILE
    credential = Latest(load_credential(path))
    try:
        async with (
            open_exchange(access, lambda: credential.value.token, now) as exchange,
            open_server_addresses(access.endpoints, state) as server_addresses,
        ):
            cluster = MemberCluster(exchange, draw, credential, server_addresses)
            async with open_bare_nursery() as nursery:
                renew = partial(_renew_credential, cluster, path, namespace, account, now, draw)
                nursery.start_soon(supervise, "credential", renew)
                yield cluster
                nursery.cancel_scope.cancel()
    finally:
        if endings.value is Ending.LEAVE and not _is_replaced(path, credential.value):
            forget_answers(state)
            remove(path)
            log_milestone(Leaving.CREDENTIAL)


def _is_replaced(path: Path, ours: Credential) -> bool:
    """True if a new join, which may begin once membership.json is gone, has stored another credential."""
    try:
        return load_credential(path).token != ours.token
    except HostError:
        return False


def load_credential(path: Path) -> Credential:
    """Read credential.json. Raises HostError."""
    hint = "leave, then join again with a new token"
    try:
        return parse_credential(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise HostError(Fault.DISK, f"cannot read {path}: {problem.strerror}", hint) from problem
    except ValueError as problem:
        raise HostError(Fault.DISK, f"{path} is damaged: {problem}", hint) from None


async def _renew_credential(
    cluster: MemberCluster, path: Path, namespace: str, account: str, now: Now, draw: Draw
) -> None:
    attempts = Attempts()
    while True:
        await sleep_until_wall(cluster.credential.value.renew_at, now)
        try:
            answer = await cluster.send(create_token(namespace, account, ASKED))
            renewed = granted_credential(answer, now(), ASKED)
            write_atomic(path, render_credential(renewed).encode())
        except (ExclaveError, ValueError) as problem:
            pause = attempts.failed(RETRIES, draw())
            log.warning("the credential was not renewed and is tried again in %.0f s: %s", pause, describe(problem))
            await trio.sleep(pause)  # not by the wall clock: one that is set back would make it longer
            continue
        cluster.credential.set(renewed)
        attempts.succeeded()
        log.info("the credential was renewed for %.0f s", renewed.expires - renewed.granted)
        await trio.sleep(SOONEST)
