"""The mark of an ExternalWorkload whose ports or address go."""

from exclave.api.requests import Object
from exclave.api.workload.withdrawal import is_withdrawn, withdrawal
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

LISTED: Object = {
    "metadata": {"annotations": {"config.linkerd.io/opaque-ports": "25,5432"}},
    "spec": {
        "meshTLS": {"identity": "spiffe://cluster.local/ns/shop/sa/web", "serverName": "web.shop.svc.cluster.local"},
        "ports": [{"name": "http", "port": 8080}, {"name": "top", "port": 65535}],
    },
}


def test_each_port_stays_and_is_opaque_by_a_second_name_that_is_no_port_in_use() -> None:
    marked = merge_patch(LISTED, withdrawal(LISTED))
    assert marked["spec"]["ports"] == [
        *LISTED["spec"]["ports"],
        {"name": "65534", "port": 8080},
        {"name": "65533", "port": 65535},
    ]
    assert marked["metadata"]["annotations"]["config.linkerd.io/opaque-ports"] == "25,5432,65534,65533"
    assert is_withdrawn(marked) and not is_withdrawn(LISTED) and not is_withdrawn(None)
