"""One mesh as tests use it: group `web` in namespace `shop`, its member `web-k7q2x-1`, and what both hold."""

import platform
from dataclasses import replace
from typing import Any

from exclave.api.group import FailurePolicy, GroupSpec, Port, Probe
from exclave.api.member import member_object
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, LEASES, MEMBERS
from exclave.api.settings import ControlPlane, LinkerdSettings, Settings, digest, render_settings
from exclave.cluster.endpoint import ServerAddress
from exclave.kit.tasks.latest import Latest
from exclave.member.facts import OS_RELEASE, choose_facts, parse_os_release
from exclave.member.record import MembershipRecord
from support.cluster import SERVER, SERVER_ADDRESS, StoreCluster

NAMESPACE, GROUP, MEMBER = "shop", "web", "web-k7q2x-1"
ADDRESS = "10.77.0.20"
VIP = "10.77.0.100"
"""A local address that stands for it."""
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SERVERS: Latest[tuple[ServerAddress, ...]] = Latest((SERVER_ADDRESS,))
RECORD = MembershipRecord((SERVER,), CA, NAMESPACE, GROUP, MEMBER, ADDRESS)


def make_settings(anchors: str = CA, **group: Any) -> Settings:
    """Settings of group `web`; `group` replaces fields of its spec."""
    spec = GroupSpec(
        service_account="web",
        networks=("10.77.0.0/24",),
        ports=(Port("http", 8080),),
        probes=(Probe(8080, every=1.0, timeout=1.0, failures=3),),
        failure=FailurePolicy(after=30.0),
    )
    linkerd = LinkerdSettings(
        "linkerd", "cluster.local", "cluster.local", ("10.42.0.0/16",), "v1", "all-unauthenticated", "25"
    )
    plane = ControlPlane(("10.42.0.2",), ("10.42.0.2",), ())
    return Settings(NAMESPACE, GROUP, linkerd, anchors, "ab" * 32, plane, 10.0, replace(spec, **group))


def put_member(cluster: StoreCluster, settings: Settings, **spec: Any) -> None:
    """What the controller keeps for an admitted member: Member, ExternalWorkload without ports, Lease, ConfigMap."""
    made = member_object(
        NAMESPACE,
        MEMBER,
        nonce="n",
        machine_hash="0123456789abcdef",
        delivery_key="k",
        csr="c",
        addresses=[ADDRESS],
        facts=choose_facts(parse_os_release(OS_RELEASE.read_text()), platform.uname(), None),
    )
    made["spec"] |= spec
    made["metadata"]["finalizers"] = ["exclave.dev/member"]
    cluster.put(MEMBERS, NAMESPACE, made)
    workload = cluster.put(
        EXTERNAL_WORKLOADS,
        NAMESPACE,
        {"metadata": {"name": MEMBER}, "spec": {"meshTLS": {"identity": "spiffe://x", "serverName": "web"}}},
    )
    cluster.put(LEASES, NAMESPACE, {"metadata": {"name": MEMBER}, "spec": {}})
    publish(cluster, settings)
    status = {"externalWorkload": {"uid": workload["metadata"]["uid"], "ports": []}}
    cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")


def publish(cluster: StoreCluster, settings: Settings) -> None:
    """Publish settings, and say in the Member that they are the newest."""
    text = render_settings(settings)
    name = f"exclave-mesh.{GROUP}"
    if cluster.find(CONFIG_MAPS, NAMESPACE, name) is None:
        cluster.put(CONFIG_MAPS, NAMESPACE, {"metadata": {"name": name}})
    cluster.change(CONFIG_MAPS, NAMESPACE, name, {"data": {"settings.json": text}})
    cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": {"settings": digest(text)}}, "status")
