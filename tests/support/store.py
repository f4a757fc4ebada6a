"""The store of the sandbox in tests: with a clock that stands still, and as a Cluster in memory.

`StoreCluster` has no sockets, so that virtual time works. It refuses what the API server refuses, in the same words. A
watch of one object brings its present state and then its changes. During an outage (`away`) `send` fails and
`send_patiently` waits; `refused` makes every answer this HTTP status.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.requests import Object, Request, Resource, is_transient, refusal
from exclave.cluster.credential import Credential
from exclave.cluster.endpoint import ServerAddress
from exclave.cluster.watch import Removed, Upserted, WatchEvent
from exclave.errors import ClusterError, Fault
from exclave.kit.tasks.latest import Latest
from exclave_sandbox.apiserver.access import TokenKey
from exclave_sandbox.apiserver.api import Api
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.messages import HttpRequest, Reply
from exclave_sandbox.apiserver.store import WINDOW, ObjectChange, Scope, Store

START = 1_700_000_000.0
"""2023-11-14T22:13:20Z."""


def make_store(window: int = WINDOW) -> Store:
    """An empty store with a namespace `g`; uids are uid-1, uid-2, …; generated names end in 1, 2, …"""
    uids, suffixes = itertools.count(1), itertools.count(1)
    store = Store(lambda: START, lambda: f"uid-{next(uids)}", lambda: str(next(suffixes)), window)
    store.create(kinds.NAMESPACES, "", {"metadata": {"name": "g"}})
    return store


def config_map(name: str = "c", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {"a": "1"}}


def member(name: str = "web-abcde-1", **spec: Any) -> dict[str, Any]:
    """A Member as a machine creates it; `spec` replaces fields of it, None removes them."""
    whole = {"nonce": "n", "machineHash": "0123456789abcdef", "deliveryKey": "k", "serving": False, **spec}
    return {
        "apiVersion": "exclave.dev/v1alpha1",
        "kind": "Member",
        "metadata": {"name": name},
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def group(name: str = "web", **spec: Any) -> dict[str, Any]:
    """A WorkloadGroup; `spec` replaces fields of it."""
    return {
        "apiVersion": "exclave.dev/v1alpha1",
        "kind": "WorkloadGroup",
        "metadata": {"name": name},
        "spec": {"networks": ["10.0.0.0/8"], **spec},
    }


def external_workload(name: str = "web-abcde-1", **metadata: Any) -> dict[str, Any]:
    """An ExternalWorkload without ports."""
    return {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {"name": name, **metadata},
        "spec": {"meshTLS": {"identity": "spiffe://root/ns/g/sa/web", "serverName": "web.g.svc.cluster.local"}},
    }


SERVER = "https://10.0.0.1:6443"
SERVER_ADDRESS = ServerAddress("10.0.0.1", 6443)


class StoreCluster:
    """A fake of what `open_member_cluster` yields, over a store."""

    def __init__(self, now: Callable[[], float]) -> None:
        uids = itertools.count(1)
        self.store = Store(now, lambda: f"uid-{next(uids)}", lambda: "abcde")
        key = TokenKey(ec.generate_private_key(ec.SECP256R1()))
        self._api = Api(self.store, key, "admin", now, lambda: f"uid-{next(uids)}")
        self.away = Latest(False)
        self.refused: Latest[int | None] = Latest(None)
        self.requests = 0
        self.trace: list[str] = []  # requests that were answered, by verb and object
        self.reachable = Latest(True)
        self.waiting: Latest[str | None] = Latest(None)
        self.looping: Latest[str | None] = Latest(None)
        self.credential = Latest(Credential("t", now(), now() + 3600))
        self.counts: Counter[tuple[str, str]] = Counter()
        self.server = SERVER
        self.server_addresses = Latest((SERVER_ADDRESS,))
        self.skew = 0.0

    def drop_connections(self) -> None:
        self.trace.append("start afresh")

    async def send(self, request: Request) -> Object:
        self.requests += 1
        await trio.lowlevel.checkpoint()
        if self.away.value:
            raise ClusterError(Fault.UNREACHABLE, f"{SERVER} refuses connections", "wait")
        if self.refused.value is not None:
            raise refusal(request, self.refused.value, None, server=SERVER, who="somebody")
        body = b"" if request.body is None else json.dumps(request.body).encode()
        headers = {"authorization": "Bearer admin", "content-type": request.content_type}
        reply = self._api.respond(HttpRequest(request.method, request.path, request.query, headers, body))
        assert isinstance(reply, Reply)
        self.counts[request.verb, str(reply.status)] += 1
        self.trace.append(f"{request.verb} {request.what}")
        if reply.status >= 300:
            raise refusal(request, reply.status, reply.body, server=SERVER, who="somebody")
        assert isinstance(reply.body, dict)
        return reply.body

    async def send_patiently(self, request: Request) -> Object:
        while True:
            try:
                return await self.send(request)
            except ClusterError as problem:
                if not is_transient(problem):
                    raise
            await trio.sleep(1)

    @asynccontextmanager
    async def watch(
        self, resource: Resource, namespace: str | None, name: str | None = None
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        assert name is not None and namespace is not None
        if self.refused.value is not None:
            asked = Request("GET", "/", "watch", f"{resource.plural} {name}")
            raise refusal(asked, self.refused.value, None, server=SERVER, who="somebody")
        deliver, events = trio.open_memory_channel[WatchEvent](math.inf)
        kind = self._kind(resource)

        def follow(change: ObjectChange) -> None:
            deliver.send_nowait(Upserted(change.after) if change.after else Removed(change.before or {}))

        found = self.store.find(kind, namespace, name)
        deliver.send_nowait(Upserted(found) if found else Removed({"metadata": {"name": name}}))
        scope = Scope(kind.key, namespace, name)
        self.store.history.follow(scope, follow)
        try:
            yield events
        finally:
            self.store.history.unfollow(scope, follow)

    def put(self, resource: Resource, namespace: str, body: dict[str, Any]) -> Object:
        """Create an object as an administrator, making its namespace if there is none."""
        if self.store.find(kinds.NAMESPACES, "", namespace) is None:
            self.store.create(kinds.NAMESPACES, "", {"metadata": {"name": namespace}})
        typed = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return self.store.create(self._kind(resource), namespace, typed)

    def change(
        self, resource: Resource, namespace: str, name: str, tree: dict[str, Any], subresource: str | None = None
    ) -> Object:
        """Merge into an object as somebody else would."""
        kind = self._kind(resource)
        return self.store.patch(kind, namespace, name, lambda old: kinds.merge_patch(old, tree), subresource)

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """What the store holds."""
        return self.store.find(self._kind(resource), namespace, name)

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object as somebody else would."""
        self.store.delete(self._kind(resource), namespace, name, {})

    @staticmethod
    def _kind(resource: Resource) -> kinds.Kind:
        return next(kind for kind in kinds.KINDS if kind.resource == resource)
