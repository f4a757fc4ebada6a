"""A VM that is in the mesh without exclave: the same proxy, started by hand as Linkerd's guide for external workloads
does, with its iptables rules. SPIRE's part, the proxy's certificate, is played by exclave's Workload API.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.api.identity import MeshIdentity, destination_identity
from exclave.api.requests import EXTERNAL_WORKLOADS, SERVICES, create, patch
from exclave.identity.svid import Svid, check_svid
from exclave.kit.formats.x509 import der_of, read_certificates
from exclave.kit.tasks.latest import Latest
from exclave.workload_api.server import open_workload_api
from exclave_sandbox.expect import eventually
from exclave_sandbox.linkerd.release import LinkerdBinaries
from exclave_sandbox.pki import Authority, make_leaf
from exclave_sandbox.stage import mesh
from exclave_sandbox.stage.namespaces import Machine
from exclave_sandbox.stage.programs import open_program
from exclave_sandbox.stage.real_linkerd import CONTROLLER_PORTS, PROXY_READY, PROXY_USER
from exclave_sandbox.stage.stage import DemoStage

NAME, ADDRESS, SERVICE = "by-hand", "10.77.0.21", "10.96.0.81"
IDENTITY = MeshIdentity(NAME, mesh.NAMESPACE, mesh.LINKERD, mesh.TRUST_DOMAIN)

RULES = f"""*nat
:PROXY_INIT_REDIRECT - [0:0]
:PROXY_INIT_OUTPUT - [0:0]
-A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,4567,4568 -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143
-A PREROUTING -j PROXY_INIT_REDIRECT
-A PROXY_INIT_OUTPUT -m owner --uid-owner {PROXY_USER} -j RETURN
-A PROXY_INIT_OUTPUT -o lo -j RETURN
-A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567,4568 -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140
-A OUTPUT -j PROXY_INIT_OUTPUT
COMMIT
"""
"""Those of the guide, as one transaction."""


@asynccontextmanager
async def open_by_hand(stage: DemoStage, release: LinkerdBinaries, ports: dict[str, int]) -> AsyncIterator[Machine]:
    """Such a VM while open, with its ExternalWorkload and a Service for these ports, by name."""
    machine = await stage.network.add(NAME, f"{ADDRESS}/24")
    for network in mesh.CLUSTER_NETWORKS:
        await machine.add_route(network)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        anchor = (stage.scratch / "linkerd-anchor.pem").read_text()
        svid, socket = Latest[Svid | None](_make_svid(stage.scratch, anchor)), stage.scratch / f"{NAME}.sock"
        bundle = tuple(map(der_of, read_certificates(anchor)))
        await enter(open_workload_api(socket, svid, lambda: bundle, frozenset({PROXY_USER})))
        await _register(stage, ports)
        proxy = ("setpriv", f"--reuid={PROXY_USER}", f"--regid={PROXY_USER}", "--clear-groups", str(release.proxy))
        log = stage.scratch / f"{NAME}.log"
        await enter(open_program(machine.command(*proxy), log, environment=_environment(socket, anchor, ports)))
        await eventually("the proxy by hand", lambda: _is_ready(machine), bool)
        loaded = await machine.run("iptables-restore", stdin=RULES.encode())
        assert loaded.status == 0, loaded.errors
        yield machine


def _make_svid(scratch: Path, anchor: str) -> Svid:
    chain, key = ((scratch / f"linkerd-issuer.{kind}").read_text() for kind in ("pem", "key"))
    issuer_key = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    issuer = Authority(read_certificates(chain)[0], issuer_key)
    names = [x509.DNSName(IDENTITY.dns_name), x509.UniformResourceIdentifier(IDENTITY.spiffe_id)]
    leaf = make_leaf(issuer, names)
    return check_svid(leaf.pem + issuer.pem, leaf.key, anchor, IDENTITY, time.time())


async def _register(stage: DemoStage, ports: dict[str, int]) -> None:
    """Create its ExternalWorkload, mark it Ready, and create its Service."""
    listed = [{"name": name, "port": port} for name, port in ports.items()]
    opaque = {"config.linkerd.io/opaque-ports": str(ports["tcp"])}
    metadata = {"name": NAME, "namespace": mesh.NAMESPACE, "annotations": opaque}
    workload = {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {**metadata, "labels": {"app": NAME}},
        "spec": {
            "meshTLS": {"identity": IDENTITY.spiffe_id, "serverName": IDENTITY.dns_name},
            "workloadIPs": [{"ip": ADDRESS}],
            "ports": listed,
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": SERVICE, "selector": {"app": NAME}, "ports": listed},
    }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}}
    for request in (
        create(EXTERNAL_WORKLOADS, mesh.NAMESPACE, workload),
        patch(EXTERNAL_WORKLOADS, mesh.NAMESPACE, NAME, ready, subresource="status"),
        create(SERVICES, mesh.NAMESPACE, service),
    ):
        await stage.admin.send(request)


def _environment(socket: Path, anchor: str, ports: dict[str, int]) -> dict[str, str]:
    """The variables of the guide."""
    destination, policy = (f"{mesh.CONTROL_PLANE}:{port}" for port in CONTROLLER_PORTS)
    controllers = destination_identity(mesh.LINKERD, mesh.TRUST_DOMAIN)
    workload = json.dumps({"ns": mesh.NAMESPACE, "external_workload": NAME})
    networks = ",".join((*mesh.CLUSTER_NETWORKS, mesh.VM_NETWORK))
    values = {
        "LOG": "warn",
        "IDENTITY_SPIRE_WORKLOAD_API_ADDRESS": f"unix://{socket}",
        "IDENTITY_SPIRE_SOCKET": f"unix://{socket}",
        "IDENTITY_SERVER_ID": IDENTITY.spiffe_id,
        "IDENTITY_SERVER_NAME": IDENTITY.dns_name,
        "IDENTITY_TRUST_ANCHORS": anchor,
        "DESTINATION_SVC_ADDR": destination,
        "DESTINATION_SVC_NAME": controllers,
        "DESTINATION_CONTEXT": workload,
        "DESTINATION_PROFILE_SUFFIXES": f"svc.{mesh.CLUSTER_DOMAIN}.",
        "DESTINATION_PROFILE_NETWORKS": networks,
        "POLICY_SVC_ADDR": policy,
        "POLICY_SVC_NAME": controllers,
        "POLICY_WORKLOAD": workload,
        "POLICY_CLUSTER_NETWORKS": networks,
        "INBOUND_DEFAULT_POLICY": "all-unauthenticated",
        "INBOUND_PORTS": ",".join(map(str, ports.values())),
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": str(ports["tcp"]),
        "INBOUND_IPS": ADDRESS,
        "INBOUND_LISTEN_ADDR": "0.0.0.0:4143",
        "OUTBOUND_LISTEN_ADDRS": "127.0.0.1:4140",
        "ADMIN_LISTEN_ADDR": "127.0.0.1:4191",
    }
    return {f"LINKERD2_PROXY_{name}": value for name, value in values.items()}


async def _is_ready(machine: Machine) -> bool:
    return (await machine.run(*PROXY_READY)).status == 0
