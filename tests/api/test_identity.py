"""The names, exactly as linkerd-identity and the proxy write them."""

import pytest

from exclave.api.identity import MeshIdentity, destination_identity, server_name

IDENTITY = MeshIdentity("web", "shop", "linkerd", "cluster.local")
ELSEWHERE = MeshIdentity("api", "pay", "l5d", "mesh.example.org")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        pytest.param(
            IDENTITY.dns_name,
            "web.shop.serviceaccount.identity.linkerd.cluster.local",
            id="the first SAN is what linkerd-identity calls the account",
        ),
        pytest.param(IDENTITY.spiffe_id, "spiffe://cluster.local/ns/shop/sa/web", id="the second SAN is a SPIFFE URI"),
        pytest.param(
            ELSEWHERE.dns_name,
            "api.pay.serviceaccount.identity.l5d.mesh.example.org",
            id="Linkerd may live in another namespace, under another trust domain",
        ),
        pytest.param(
            ELSEWHERE.spiffe_id, "spiffe://mesh.example.org/ns/pay/sa/api", id="Linkerd's namespace is not in the URI"
        ),
        pytest.param(
            server_name("web", "shop", "cluster.local"),
            "web.shop.svc.cluster.local",
            id="the SNI is the group's, under the cluster's domain",
        ),
        pytest.param(
            destination_identity("linkerd", "cluster.local"),
            "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local",
            id="the destination controller's account lies in Linkerd's namespace",
        ),
    ],
)
def test_name(found: str, wanted: str) -> None:
    assert found == wanted
