"""What the destination controller would answer, case by case, from objects in their real shapes."""

from dataclasses import replace
from typing import Any

import pytest

from exclave.api.requests import EXTERNAL_WORKLOADS, PODS, SERVICES, Object
from exclave.api.workload.withdrawal import withdrawal
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from exclave_sandbox.linkerd.destination_table import DestinationTable, MeshEndpoint, NoEndpoints

VM, POD, WEB, ORDERS = "10.77.0.20", "10.42.0.10", "10.96.0.80", "10.96.0.90"
SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"
SERVER_NAME = "web.shop.svc.cluster.local"
POD_NAME = "orders.shop.serviceaccount.identity.linkerd.cluster.local"

MACHINE = MeshEndpoint(VM, 8080, SPIFFE, SERVER_NAME, opaque=False)
MESHED_POD = MeshEndpoint(POD, 8080, POD_NAME, POD_NAME, opaque=False)


def service(name: str, address: str, **spec: Any) -> Object:
    listed = [{"port": 80, "targetPort": "http"}, {"port": 8080}]
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "selector": {"app": name}, "ports": listed, **spec},
    }


def workload(name: str = "web-1", ready: str = "True", address: str = VM, **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}, "annotations": {}},
        "spec": {
            "meshTLS": {"identity": SPIFFE, "serverName": SERVER_NAME},
            "workloadIPs": [{"ip": address}],
            "ports": [{"name": "http", "port": 8080}],
            **spec,
        },
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def pod(ready: str | None = "True", phase: str = "Running", *, meshed: bool = True) -> Object:
    labels = {"app": "orders"} | ({"linkerd.io/control-plane-ns": "linkerd"} if meshed else {})
    conditions = [] if ready is None else [{"type": "Ready", "status": ready}]
    return {
        "metadata": {"name": "orders-1", "namespace": "shop", "labels": labels},
        "spec": {
            "serviceAccountName": "orders",
            "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": phase, "podIP": POD, "conditions": conditions},
    }


def table(*workloads: Object, pods: tuple[Object, ...] = ()) -> DestinationTable:
    made = DestinationTable("cluster.local")
    made.replace(SERVICES, (service("web", WEB), service("orders", ORDERS)))
    made.replace(EXTERNAL_WORKLOADS, workloads)
    made.replace(PODS, pods)
    return made


@pytest.mark.parametrize("port", [80, 8080], ids=["by the port's name", "by its number"])
def test_a_service_leads_to_the_machines_that_are_ready(port: int) -> None:
    assert table(workload()).find(WEB, port) == (MACHINE,)


NOT_BEHIND_IT = {
    "it is not ready": workload(ready="False"),
    "nobody knows whether it is ready": {**workload(), "status": {}},
    "it lists no ports": workload(ports=[]),
    "it lists another port": workload(ports=[{"name": "metrics", "port": 9100}]),
    "it has other labels": {**workload(), "metadata": {"name": "web-1", "namespace": "shop"}},
    "it is in another namespace": {**workload(), "metadata": {**workload()["metadata"], "namespace": "other"}},
}


@pytest.mark.parametrize("found", NOT_BEHIND_IT.values(), ids=NOT_BEHIND_IT)
def test_a_service_does_not_lead_to_a_machine_if(found: Object) -> None:
    with pytest.raises(NoEndpoints, match="shop/web"):
        table(found).find(WEB, 80)


OTHER = "10.77.0.21"


def test_by_a_service_another_address_of_an_endpoint_is_never_reported() -> None:
    made = table(workload())
    made.replace(EXTERNAL_WORKLOADS, (workload(address=OTHER),))
    assert made.find(WEB, 80) == (MACHINE,)
    made.replace(EXTERNAL_WORKLOADS, (workload(address=OTHER, ready="False"),))
    made.replace(EXTERNAL_WORKLOADS, (workload(address=OTHER),))
    assert made.find(WEB, 80) == (MACHINE, replace(MACHINE, address=OTHER)), "the removal was another address's"


def test_by_a_service_the_address_may_change_while_it_is_no_endpoint() -> None:
    made = table(workload())
    for address in (VM, OTHER):
        made.replace(EXTERNAL_WORKLOADS, (workload(address=address, ready="False"),))
    made.replace(EXTERNAL_WORKLOADS, (workload(address=OTHER),))
    assert made.find(WEB, 80) == (replace(MACHINE, address=OTHER),)


def test_by_a_service_a_machine_with_other_ports_is_another_endpoint() -> None:
    made = table(workload())
    ports = [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9100}]
    made.replace(EXTERNAL_WORKLOADS, (workload(address=OTHER, ports=ports),))
    assert made.find(WEB, 80) == (replace(MACHINE, address=OTHER),)


def test_a_machines_own_address_is_meshed_ready_or_not_on_every_port_it_lists() -> None:
    found = table(workload(ready="False"))
    assert found.find(VM, 8080) == (MACHINE,)
    assert found.find(VM, 22) == ()


def test_an_address_and_port_of_two_workloads_is_not_meshed() -> None:
    assert table(workload("web-1"), workload("web-2")).find(VM, 8080) == ()
    assert table(workload("web-1"), workload("web-2", address="10.77.0.21")).find(VM, 8080) == (MACHINE,)


def changed(found: DestinationTable, *workloads: Object) -> tuple[MeshEndpoint, ...]:
    found.replace(EXTERNAL_WORKLOADS, workloads)
    return found.find(VM, 8080)


def test_who_has_asked_for_an_address_learns_of_no_port_that_is_not_listed_any_more() -> None:
    found = table(workload())
    assert found.find(VM, 8080) == (MACHINE,)
    assert changed(found, workload(ports=[])) == (MACHINE,), "as Linkerd: it uses TLS for ever"
    assert changed(found) == (MACHINE,)
    assert changed(found, workload(address="10.77.0.21")) == (MACHINE,)
    other = workload(meshTLS={"identity": f"{SPIFFE}2", "serverName": SERVER_NAME})
    assert changed(found, other) == (MeshEndpoint(VM, 8080, f"{SPIFFE}2", SERVER_NAME, opaque=False),)
    assert table(workload(ports=[])).find(VM, 8080) == (), "who asks later learns that it is not in the mesh"


def test_the_mark_of_a_withdrawal_leads_to_plain_tcp_and_a_new_listing_back_to_tls() -> None:
    plain = MeshEndpoint(VM, 8080, None, None, opaque=True)
    found = table(workload())
    assert found.find(VM, 8080) == (MACHINE,)
    assert changed(found, merge_patch(workload(), withdrawal(workload()))) == (plain,)
    assert changed(found, workload(ports=[])) == changed(found) == (plain,)
    assert changed(found, workload()) == (MACHINE,)


def test_an_identity_that_is_no_uri_is_of_no_use_on_a_port_that_is_not_opaque() -> None:
    (found,) = table(workload(meshTLS={"identity": "withdrawn", "serverName": SERVER_NAME})).find(VM, 8080)
    assert found.identity == "withdrawn", "nobody can prove that"


def test_a_meshed_pod_is_found_by_its_service_and_by_its_address() -> None:
    found = table(pods=(pod(),))
    assert found.find(ORDERS, 80) == (MESHED_POD,)
    assert found.find(POD, 8080) == (MESHED_POD,)


@pytest.mark.parametrize(
    ("found", "serves"),
    [
        (pod("True"), True),
        (pod("False"), False),
        (pod(None, "Running"), True),
        (pod(None, "Pending"), False),
    ],
    ids=["ready", "not ready", "running and silent", "pending and silent"],
)
def test_a_pod_serves_if(found: Object, serves: bool) -> None:
    if serves:
        assert table(pods=(found,)).find(ORDERS, 80) == (MESHED_POD,)
    else:
        with pytest.raises(NoEndpoints):
            table(pods=(found,)).find(ORDERS, 80)


def test_a_pod_outside_of_the_mesh_has_no_identity() -> None:
    found = table(pods=(pod(meshed=False),))
    assert found.find(ORDERS, 80) == (MeshEndpoint(POD, 8080, None, None, opaque=False),)
    assert found.find(POD, 8080) == ()


def test_an_unknown_address_is_not_in_the_mesh() -> None:
    assert table().find("192.0.2.1", 80) == ()
    assert table().find(WEB, 9999) == ()


@pytest.mark.parametrize(
    ("annotation", "port", "opaque"),
    [
        (None, 5432, True),
        (None, 8080, False),
        ("", 5432, False),
        ("8080", 8080, True),
        ("25, 8000-8100", 8080, True),
        ("25, 8000-8079", 8080, False),
    ],
)
def test_opaque_ports_are_those_of_the_annotation_or_linkerds(annotation: str | None, port: int, opaque: bool) -> None:
    found = workload(ports=[{"name": "p", "port": port}])
    if annotation is not None:
        found["metadata"]["annotations"] = {"config.linkerd.io/opaque-ports": annotation}
    (endpoint,) = table(found).find(VM, port)
    assert endpoint.opaque is opaque


@pytest.mark.parametrize("annotation", [None, "", "80"])
def test_by_a_service_its_own_annotation_or_linkerds_list_decides(annotation: str | None) -> None:
    for workloads in (None, "8080"):
        behind = workload()
        if workloads is not None:
            behind["metadata"]["annotations"] = {"config.linkerd.io/opaque-ports": workloads}
        front = service("web", WEB)
        if annotation is not None:
            front["metadata"]["annotations"] = {"config.linkerd.io/opaque-ports": annotation}
        found = table(behind)
        found.replace(SERVICES, (front,))
        assert [one.opaque for one in found.find(WEB, 80)] == [annotation == "80"]


def test_it_is_complete_once_every_kind_was_listed_and_followed_while_every_list_is_fresh() -> None:
    found = DestinationTable("cluster.local")
    assert not found.is_complete and not found.is_followed
    found.replace(SERVICES, ())
    found.replace(PODS, ())
    assert not found.is_complete and not found.is_followed
    found.replace(EXTERNAL_WORKLOADS, ())
    assert found.is_complete and found.is_followed
    found.mark_stale(EXTERNAL_WORKLOADS)
    found.mark_stale(EXTERNAL_WORKLOADS)  # twice is no harm
    assert found.is_complete and not found.is_followed
    found.replace(EXTERNAL_WORKLOADS, ())
    assert found.is_followed


def test_a_new_list_replaces_the_old_one() -> None:
    found = table(workload(ready="False"))
    found.replace(EXTERNAL_WORKLOADS, (workload(),))
    assert found.find(WEB, 80) == (MACHINE,)
    found.replace(EXTERNAL_WORKLOADS, ())
    assert found.find(VM, 8080) == ()


def test_a_stale_list_is_still_answered_from() -> None:
    found = table(workload())
    found.mark_stale(EXTERNAL_WORKLOADS)
    assert found.find(WEB, 80) == (MACHINE,)


def test_an_answer_in_json() -> None:
    assert MACHINE.as_json() == {
        "address": VM,
        "port": 8080,
        "identity": SPIFFE,
        "serverName": SERVER_NAME,
        "opaque": False,
    }
