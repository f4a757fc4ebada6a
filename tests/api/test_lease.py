"""The heartbeat's request."""

from exclave.api.lease import heartbeat_request


def test_a_heartbeat_is_a_patch_of_two_fields() -> None:
    request = heartbeat_request("shop", "web-k7q2x-1", "boot.nonce", 1_700_000_000.5)
    assert request.method == "PATCH"
    assert request.path == "/apis/coordination.k8s.io/v1/namespaces/shop/leases/web-k7q2x-1"
    assert request.body == {"spec": {"holderIdentity": "boot.nonce", "renewTime": "2023-11-14T22:13:20.500000Z"}}
