"""Talking to Kubernetes: requests, watches, and the credential they are made with."""

from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.credential import Credential
from exclave.cluster.endpoint import Access
from exclave.cluster.events import Listed, Removed, Upserted, WatchEvent
from exclave.cluster.renewal import MemberCluster, open_member_cluster

__all__ = [
    "Access",
    "Cluster",
    "Credential",
    "Listed",
    "MemberCluster",
    "Removed",
    "Upserted",
    "WatchEvent",
    "open_cluster",
    "open_member_cluster",
]
