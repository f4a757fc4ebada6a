"""The environment variables of linkerd2-proxy, which are its whole configuration. None of them is secret. Pure.

The same settings result in the same variables, so that digests can be compared. Source of names and formats:
linkerd2-proxy, linkerd/app/src/env.rs. Values that Linkerd's chart sets are the chart's.
"""

import hashlib
import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from exclave.api.identity import destination_identity
from exclave.api.settings import DESTINATION_PORT, POLICY_PORT, Settings, Workers, digest
from exclave.api.workload.opaque_ports import opaque_list
from exclave.kit.formats.host_port import join_host_port
from exclave.link.layout import ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, Family, Instance, instance_address

PREFIX = "LINKERD2_PROXY_"

FORGET_UNUSED = "1h"
"""How long the proxy caches an unused destination or policy. With its default of 5 s, almost every new connection would
need Linkerd's controllers, and would hang while they are down."""

LONGEST_CONNECT_PAUSE = "5s"
"""The longest pause between two attempts to connect to an endpoint or to Linkerd's controllers; a share of it, drawn
each time, comes on top. With the proxy's default of 60 s, an outage of the controllers lasts up to a minute longer for
this machine. Shorter pauses would let thousands of machines connect to returning controllers in the same second."""

_TIMEOUTS = {
    "INBOUND_DISCOVERY_IDLE_TIMEOUT": FORGET_UNUSED,
    "OUTBOUND_DISCOVERY_IDLE_TIMEOUT": FORGET_UNUSED,
    "INBOUND_ACCEPT_KEEPALIVE": "10000ms",
    "OUTBOUND_CONNECT_KEEPALIVE": "10000ms",
    "INBOUND_ACCEPT_USER_TIMEOUT": "30s",
    "OUTBOUND_CONNECT_USER_TIMEOUT": "30s",
    # The proxy accepts all three or none.
    "OUTBOUND_CONNECT_EXP_BACKOFF_MIN": "100ms",
    "OUTBOUND_CONNECT_EXP_BACKOFF_MAX": LONGEST_CONNECT_PAUSE,
    "OUTBOUND_CONNECT_EXP_BACKOFF_JITTER": "0.5",
    # A connection whose peer has silently disappeared is found in 13 s. Linkerd's defaults; settings replace them.
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "10s",
    "INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "3s",
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL": "10s",
    "OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT": "3s",
    "CONTROL_STREAM_INITIAL_TIMEOUT": "3s",
    "CONTROL_STREAM_IDLE_TIMEOUT": "5m",
    "CONTROL_STREAM_LIFETIME": "1h",
}


def proxy_environment(
    settings: Settings,
    member: str,
    addresses: tuple[str, ...],
    instance: Instance,
    socket: Path,
    log: str,
    *,
    drain: float,
    families: tuple[Family, ...],
    cores: int | None = None,
) -> dict[str, str]:
    """The environment of one instance.

    `addresses`: the member's in the mesh, the only inbound destinations that the proxy accepts. `families`: those of
    the private link. `drain`: the proxy's grace period in seconds. `log`: its log filter.
    `cores`: the threads that carry traffic, at most one for each processor; None: as the group, or else Linkerd's
    configuration, has it.
    """
    inbound_family: Family = 6 if ip_address(addresses[0]).version == 6 else 4
    inbound = instance_address(instance, inbound_family)
    outbound = [join_host_port(instance_address(instance, family), OUTBOUND_PORT) for family in families]
    named = {
        # Headers may hold secrets. Only these two directives exclude them from debug logs.
        "LOG": f"{log},hickory=error,[{{headers}}]=off,[{{request}}]=off",
        "LOG_FORMAT": "plain",
        "INBOUND_LISTEN_ADDR": join_host_port(inbound, INBOUND_PORT),
        "OUTBOUND_LISTEN_ADDR": outbound[0],
        "OUTBOUND_LISTEN_ADDRS": ",".join(outbound),
        "ADMIN_LISTEN_ADDR": join_host_port(instance_address(instance), ADMIN_PORT),
        **_workers(settings, cores),
        "SHUTDOWN_GRACE_PERIOD": f"{round(drain * 1000)}ms",
        **_identity(settings, socket),
        **_control_plane(settings, member),
        **_inbound(settings, addresses),
        **_TIMEOUTS,
        **settings.linkerd.parameters,
    }
    return {PREFIX + name: value for name, value in sorted(named.items())}


def environment_digest(environment: Mapping[str, str]) -> str:
    """16 hex digits that identify the content of an environment."""
    return hashlib.sha256(json.dumps(dict(environment), sort_keys=True).encode()).hexdigest()[:16]


def anchors_digest(environment: Mapping[str, str]) -> str:
    """sha256 (hex) of the trust anchors in an environment, as in a Member's `spec.loaded.anchors`."""
    return digest(environment[f"{PREFIX}IDENTITY_TRUST_ANCHORS"])


def _workers(settings: Settings, cores: int | None) -> dict[str, str]:
    """As the chart writes them: older proxies read `CORES`, newer ones `CORES_MIN` first."""
    chosen = settings.group.proxy_cores if cores is None else cores
    workers = settings.linkerd.workers if chosen is None else Workers(chosen)
    return {
        "CORES": str(workers.minimum),
        "CORES_MIN": str(workers.minimum),
        **({"CORES_MAX": str(workers.maximum)} if workers.maximum is not None else {}),
        **({"CORES_MAX_RATIO": f"{workers.ratio:g}"} if workers.ratio is not None else {}),
    }


def _identity(settings: Settings, socket: Path) -> dict[str, str]:
    address = f"unix://{socket}"
    return {
        # Older proxies read only the second name. Newer ones read the first one, and then ignore the second silently.
        "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": address,
        "IDENTITY_SPIRE_SOCKET": address,
        "IDENTITY_SERVER_ID": settings.identity.spiffe_id,
        "IDENTITY_SERVER_NAME": settings.server_name,
        "IDENTITY_TRUST_ANCHORS": settings.anchors,
    }


def _control_plane(settings: Settings, member: str) -> dict[str, str]:
    linkerd = settings.linkerd
    suffix = f"{linkerd.namespace}.svc.{linkerd.cluster_domain}."
    name = destination_identity(linkerd.namespace, linkerd.trust_domain)
    # No nodeName: Linkerd would log an error with every lookup if it is not the name of a Node.
    workload = json.dumps({"ns": settings.namespace, "external_workload": member}, separators=(",", ":"))
    networks = ",".join(linkerd.cluster_networks)
    return {
        "DESTINATION_SVC_ADDR": f"linkerd-dst-headless.{suffix}:{DESTINATION_PORT}",
        "DESTINATION_SVC_NAME": name,
        "DESTINATION_CONTEXT": workload,
        "DESTINATION_PROFILE_SUFFIXES": f"svc.{linkerd.cluster_domain}.",
        "DESTINATION_PROFILE_NETWORKS": networks,
        "POLICY_SVC_ADDR": f"linkerd-policy.{suffix}:{POLICY_PORT}",
        "POLICY_SVC_NAME": name,
        "POLICY_WORKLOAD": workload,
        "POLICY_CLUSTER_NETWORKS": networks,
    }


def _inbound(settings: Settings, addresses: tuple[str, ...]) -> dict[str, str]:
    ports = settings.group.ports
    return {
        "INBOUND_IPS": ",".join(addresses),
        "INBOUND_PORTS": ",".join(str(port.port) for port in ports),
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": opaque_list(settings.linkerd.opaque_ports, ports),
        # In force until the policy controller answers, so it must not be more open than the mesh's own policy.
        "INBOUND_DEFAULT_POLICY": settings.group.inbound_policy or settings.linkerd.inbound_policy,
    }
