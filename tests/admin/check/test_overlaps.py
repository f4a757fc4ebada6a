"""Members where something else stands: at its address, or in its Service."""

from typing import Any

import pytest

from exclave.admin.check.overlaps import address_rows, cluster_addresses, overlap_rows
from exclave.api.requests import Object
from support.store import group


def node(name: str, *addresses: str) -> Object:
    listed = [{"type": "InternalIP", "address": one} for one in addresses]
    return {"metadata": {"name": name}, "status": {"addresses": [*listed, {"type": "Hostname", "address": name}]}}


def service(name: str, namespace: str = "shop", **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def slice_of(title: str, address: str, **target: str) -> Object:
    endpoint: Object = {"addresses": [address]} | ({"targetRef": target} if target else {})
    return {"metadata": {"name": title, "namespace": "shop"}, "endpoints": [endpoint]}


BALANCED = service("front", clusterIPs=["10.96.0.7", "fd00::7"], externalIPs=["192.0.2.1"])
BALANCED["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x.example"}]}}
CLUSTER = cluster_addresses(
    [node("worker-1", "192.168.1.10", "fd00:0::1")],
    [service("kubernetes", "default", clusterIPs=["10.96.0.1"]), BALANCED, service("quiet", clusterIPs=["None"])],
    [
        slice_of("front-1", "10.42.0.9", kind="Pod", namespace="shop", name="front-9"),
        slice_of("kubernetes", "192.168.1.10"),
        slice_of("api", "203.0.113.6"),
        slice_of("web", "10.1.0.5", kind="ExternalWorkload", namespace="shop", name="web-k7q2x-1"),
    ],
)


def test_each_address_of_the_cluster_has_an_owner() -> None:
    assert CLUSTER == {
        "192.168.1.10": "node worker-1",
        "fd00::1": "node worker-1",
        "10.96.0.1": "Service default/kubernetes",
        "10.96.0.7": "Service shop/front",
        "fd00::7": "Service shop/front",
        "192.0.2.1": "Service shop/front",
        "192.0.2.2": "Service shop/front",
        "10.42.0.9": "pod shop/front-9",
        "203.0.113.6": "an endpoint of shop/api",
    }


def workload(address: str, **labels: str) -> Object:
    metadata = {"name": "web-k7q2x-1", "namespace": "shop", "labels": labels}
    return {"metadata": metadata, "spec": {"workloadIPs": [{"ip": address}]}}


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        pytest.param(workload("10.1.0.5", **{"exclave.dev/group": "web"}), "", id="an address of its own"),
        pytest.param(workload("10.96.0.1"), "", id="a workload that is not exclave's"),
        pytest.param(workload("nonsense", **{"exclave.dev/group": "web"}), "", id="no address"),
        pytest.param(
            workload("::ffff:10.96.0.1", **{"exclave.dev/group": "web"}),
            "shop/web-k7q2x-1 has 10.96.0.1, the address of Service default/kubernetes",
            id="that of the API server's Service, written otherwise",
        ),
        pytest.param(
            workload("FD00:0::1", **{"exclave.dev/group": "web"}),
            "shop/web-k7q2x-1 has fd00::1, the address of node worker-1",
            id="that of a node",
        ),
        pytest.param(
            workload("10.42.0.9", **{"exclave.dev/group": "web"}),
            "shop/web-k7q2x-1 has 10.42.0.9, the address of pod shop/front-9",
            id="that of a pod",
        ),
    ],
)
def test_a_member_with_an_address_of_the_cluster_is_named(found: Object, problem: str) -> None:
    (row,) = address_rows([found], CLUSTER)
    assert (row.result, row.problem) == ("error" if problem else "success", problem)


def placed(found: Object, namespace: str = "shop") -> Object:
    return {**found, "metadata": {**found["metadata"], "namespace": namespace}}


POD: Object = {"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "web"}}, "spec": {}}
FRONT = service("front", selector={"app": "web"}, clusterIP="10.96.0.7", ports=[{"port": 8080}])
WEB = placed(group("web", labels={"app": "web"}, ports=[{"name": "http", "port": 8080}]))


@pytest.mark.parametrize(
    ("groups", "services", "pods", "problem"),
    [
        pytest.param([WEB], [FRONT], [], "", id="a Service of the group alone"),
        pytest.param([WEB], [FRONT], [placed(POD, "pay")], "", id="pods of another namespace"),
        pytest.param([WEB], [service("x", selector={"app": "web"}, clusterIP="None")], [POD], "", id="a headless one"),
        pytest.param(
            [WEB], [FRONT], [POD],
            "in shop: Service front selects group web and 1 pod: they share its traffic; if not meant, use other "
            "labels",
            id="a Service of pods",
        ),
        pytest.param(
            [placed(group("web", labels={"linkerd.io/control-plane-component": "destination"}))], [], [],
            "in shop: group web has labels of Linkerd's own, linkerd.io/control-plane-component: its policies and "
            "commands may take the members for a part of Linkerd; use other labels",
            id="a label of Linkerd's",
        ),
        pytest.param([placed(group("web", networks=[5]))], [FRONT], [POD], "", id="a group that cannot be read"),
    ],
)  # fmt: skip
def test_what_groups_share_is_a_warning(
    groups: list[Object], services: list[Object], pods: list[Object], problem: str
) -> None:
    (row,) = overlap_rows(groups, services, pods)
    assert (row.result, row.problem) == ("warning" if problem else "success", problem)
