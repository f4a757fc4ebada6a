"""The demo's cluster: the API server takes it, and the controller reads it as it would read Linkerd's own."""

from pathlib import Path

import pytest

from exclave.api.group import parse_group
from exclave.api.issuer import read_anchors
from exclave.api.linkerd.config import read_linkerd
from exclave.api.requests import CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, PODS, create, get
from exclave.api.settings import ControlPlane
from exclave.cluster.client import open_cluster
from exclave.controller.mesh.publish import read_control_plane
from exclave.errors import ApiRefusal
from exclave_sandbox.stage import mesh
from support.mesh import mesh as keys
from support.mesh_cluster import running_apiserver


async def test_the_api_server_accepts_all_objects_and_they_parse_as_linkerds(tmp_path: Path) -> None:
    async with running_apiserver(tmp_path) as api, open_cluster(api.access, lambda: api.admin_token) as cluster:
        namespace = create(NAMESPACES, None, {"metadata": {"name": mesh.NAMESPACE}})
        for request in [
            *mesh.mesh_requests(keys().anchor.pem, keys().issuer.pem, keys().issuer.key_pem),
            namespace,
            *mesh.application_requests(),
        ]:
            try:
                await cluster.send(request)
            except ApiRefusal as refusal:
                assert (refusal.status, request.body and request.body["metadata"]["name"]) == (409, "kube-system")
        config = await cluster.send(get(CONFIG_MAPS, mesh.LINKERD, "linkerd-config"))
        linkerd, faults = read_linkerd(config, mesh.LINKERD)
        assert linkerd is not None and not faults
        assert linkerd.cluster_networks == mesh.CLUSTER_NETWORKS
        assert (linkerd.trust_domain, linkerd.cluster_domain) == (mesh.TRUST_DOMAIN, mesh.CLUSTER_DOMAIN)
        roots = await cluster.send(get(CONFIG_MAPS, mesh.LINKERD, "linkerd-identity-trust-roots"))
        assert read_anchors(roots) == keys().anchor.pem
        slices = [
            await cluster.send(get(ENDPOINT_SLICES, mesh.LINKERD, f"{name}-1"))
            for name in ("linkerd-dst-headless", "linkerd-policy")
        ]
        dns = await cluster.send(get(ENDPOINT_SLICES, "kube-system", "kube-dns-1"))
        place = (mesh.CONTROL_PLANE,)
        assert read_control_plane(slices, [dns], lambda *problem: pytest.fail(f"{problem}")) == ControlPlane(
            place, place, place
        )
        pod = await cluster.send(get(PODS, mesh.NAMESPACE, mesh.POD_NAME))
        assert pod["status"]["podIP"] == mesh.POD


def test_the_controller_parses_the_demos_group() -> None:
    group = parse_group(mesh.GROUP, mesh.group_spec("10s"))
    assert group.networks == (mesh.VM_NETWORK,)
    assert [port.port for port in group.ports] == [probe.port for probe in group.probes] == [mesh.GROUP_PORT]
    assert group.certificate_lifetime == 10
