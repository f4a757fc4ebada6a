"""A store whose clock stands still and whose draws count up, and bodies of objects to put into it."""

import itertools
from typing import Any

from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.store import WINDOW, Store

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
