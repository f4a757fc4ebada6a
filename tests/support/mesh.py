"""One mesh as tests use it: its keys, group `web` in namespace `shop`, and its member `web-k7q2x-1`."""

import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from exclave.api.group import FailurePolicy, GroupSpec, Port, Probe
from exclave.api.identity import MeshIdentity
from exclave.api.join_token import JoinToken
from exclave.api.member import member_object
from exclave.api.requests import CONFIG_MAPS, EXTERNAL_WORKLOADS, LEASES, MEMBERS
from exclave.api.settings import ControlPlane, LinkerdSettings, Settings, digest, render_settings
from exclave.cluster.endpoint import ServerAddress
from exclave.identity.svid import Svid, check_svid
from exclave.kit.tasks.latest import Latest
from exclave.member.facts import OS_RELEASE, choose_facts, parse_os_release
from exclave.member.record import MembershipRecord
from exclave_sandbox.pki import Authority, make_anchor, make_issuer, make_leaf
from support.store import SERVER, SERVER_ADDRESS, StoreCluster

IDENTITY = MeshIdentity("web", "shop", "linkerd", "cluster.local")


@dataclass(frozen=True)
class Mesh:
    """An anchor and an issuer below it."""

    anchor: Authority
    issuer: Authority

    def leaf(self, **options: object) -> Authority:
        """A leaf with a member's names, in the proven order."""
        names = [x509.DNSName(IDENTITY.dns_name), x509.UniformResourceIdentifier(IDENTITY.spiffe_id)]
        return make_leaf(self.issuer, names, **options)  # type: ignore[arg-type]

    def chain(self, leaf: Authority) -> str:
        """Leaf and issuer, as a controller delivers them."""
        return leaf.pem + self.issuer.pem

    def svid(self, now: float, **options: object) -> Svid:
        """A certificate that passes every check."""
        leaf = self.leaf(**options)
        assert isinstance(leaf.key, ec.EllipticCurvePrivateKey)
        return check_svid(self.chain(leaf), leaf.key, self.anchor.pem, IDENTITY, now)


@cache
def mesh() -> Mesh:
    """The mesh of this test run."""
    anchor = make_anchor()
    return Mesh(anchor, make_issuer(anchor))


def unreachable_token() -> JoinToken:
    """A token of the group that is valid until 2100, for an API server that nobody reaches."""
    claims = "eyJzdWIiOiAic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3Atdm1zOndlYi5qb2luLms3cTJ4LTEifQ"
    return JoinToken(("https://127.0.0.1:1",), mesh().anchor.pem, "shop", "web", f"e.{claims}.s", 4102444800.0)


def stored_mesh(folder: Path) -> Mesh:
    """A mesh whose anchor is in a file of the folder, which is made at first."""
    path = folder / "anchor.pem"
    if not path.exists():
        made = make_anchor()
        path.write_text(made.key_pem + made.pem)
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    anchor = Authority(x509.load_pem_x509_certificate(path.read_bytes()), key)
    return Mesh(anchor, make_issuer(anchor))


def fake_part(**fields: Any) -> Any:
    """A fake of a part of an agent: each field is published as its latest value."""
    return SimpleNamespace(**{name: Latest(value) for name, value in fields.items()})


NAMESPACE, GROUP, MEMBER = "shop", "web", "web-k7q2x-1"
ADDRESS = "10.77.0.20"
VIP = "10.77.0.100"
"""Another local address that it has."""
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
    """Create the objects of an admitted member: Member, ExternalWorkload without ports, Lease, ConfigMap."""
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
    """Publish settings, and name them in the Member as the newest."""
    text = render_settings(settings)
    name = f"exclave-mesh.{GROUP}"
    if cluster.find(CONFIG_MAPS, NAMESPACE, name) is None:
        cluster.put(CONFIG_MAPS, NAMESPACE, {"metadata": {"name": name}})
    cluster.change(CONFIG_MAPS, NAMESPACE, name, {"data": {"settings.json": text}})
    cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": {"settings": digest(text)}}, "status")
