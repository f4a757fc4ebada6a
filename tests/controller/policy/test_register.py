"""The wanted ExternalWorkload, and the patch that leads to it."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from exclave.api.group import Port
from exclave.api.requests import Object, Request
from exclave.api.workload.withdrawal import NOTICE, SETTLE
from exclave.controller.policy.register import (
    MarkNotReady,
    awaits_ready_since,
    is_ready,
    may_list,
    register,
    wanted_workload,
)
from exclave.controller.policy.snapshot import MemberSnapshot, Neighbour
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

from ..snapshots import GROUP, MESH, NAME, NOW, make_member, make_snapshot, settled_snapshot


def wanted(snapshot: MemberSnapshot, group: Any = GROUP) -> Object:
    return wanted_workload(snapshot, group, MESH)


def test_the_whole_of_it() -> None:
    assert wanted(make_snapshot(make_member(serving=True), live=True)) == {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {
            "name": "web-k7q2x-1",
            "namespace": "shop",
            "labels": {"app": "web", "exclave.dev/group": "web"},
            "annotations": {
                "config.linkerd.io/opaque-ports": "25,3306",
                "config.linkerd.io/default-inbound-policy": "all-unauthenticated",
                "exclave.dev/labels": "app,exclave.dev/group",
            },
            "finalizers": ["exclave.dev/ports"],
            "ownerReferences": [
                {
                    "apiVersion": "exclave.dev/v1alpha1",
                    "kind": "WorkloadGroup",
                    "name": "web",
                    "uid": "group-uid",
                    "controller": False,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "meshTLS": {
                "identity": "spiffe://cluster.local/ns/shop/sa/web",
                "serverName": "web.shop.svc.cluster.local",
            },
            "workloadIPs": [{"ip": "10.77.0.20"}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        },
    }


def test_a_cordoned_member_has_its_ports_until_it_reports_that_it_is_not_ready() -> None:
    snapshot = settled_snapshot(serving=True)
    ready = {**snapshot.workload, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}  # type: ignore[dict-item]
    cordoned = {**snapshot.member, "status": {**snapshot.member["status"], "cordoned": True}}
    assert may_list(snapshot.replaced(member=cordoned, workload=ready), GROUP)
    assert not may_list(snapshot.replaced(member=cordoned), GROUP)


@pytest.mark.parametrize("address", ["192.0.2.7", "no address"])
def test_a_refused_address_costs_the_ports_and_is_not_written(address: str) -> None:
    snapshot = settled_snapshot(serving=True)
    moved = snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"addresses": [address]}}))
    wanted = wanted_workload(moved, GROUP, MESH)
    assert wanted["spec"]["ports"] == []
    assert wanted["spec"]["workloadIPs"] == [{"ip": "10.77.0.20"}]


def test_no_external_workload_is_created_for_a_refused_address() -> None:
    assert register(make_snapshot(make_member(addresses=["192.0.2.7"])), GROUP, MESH) is None


def test_an_address_is_written_in_the_one_way() -> None:
    group = replace(GROUP, spec=replace(GROUP.spec, networks=("fd00::/64",)))
    assert wanted(make_snapshot(make_member(addresses=["FD00:0::7"])), group)["spec"]["workloadIPs"] == [
        {"ip": "fd00::7"}
    ]


def test_ports_are_not_listed_while_anothers_are_at_the_address() -> None:
    leaving = Neighbour("shop", "web-a", "m", "10.77.0.20", frozenset({"10.77.0.20"}), has_ports=True, leaving=True)
    snapshot = make_snapshot(make_member(serving=True), live=True, neighbours=(leaving,))
    assert not may_list(snapshot, GROUP)
    assert may_list(snapshot.replaced(neighbours=(replace(leaving, has_ports=False),)), GROUP)


@pytest.mark.parametrize(
    ("serving", "live", "deleting", "listed"),
    [
        pytest.param(True, True, False, True, id="a live member that serves is listed"),
        pytest.param(False, True, False, False, id="one that does not serve is not"),
        pytest.param(True, False, False, False, id="not one whose heartbeats stopped"),
        pytest.param(True, True, True, False, id="nor one that is being deleted"),
    ],
)
def test_ports_are_listed_only_while_there_is_a_proxy_behind(
    serving: bool, live: bool, deleting: bool, listed: bool
) -> None:
    snapshot = make_snapshot(make_member(deleting=deleting, serving=serving), live=live)
    assert may_list(snapshot, GROUP) is listed
    assert bool(wanted(snapshot)["spec"]["ports"]) is listed


NEW, OLD = "d" * 64, "0" * 64


@pytest.mark.parametrize(
    ("listed", "loaded", "published", "ports"),
    [
        pytest.param([8080], OLD, NEW, [8080], id="a new port waits until its settings were loaded"),
        pytest.param([8080], NEW, NEW, [8080, 9090], id="and comes then"),
        pytest.param([8080], OLD, OLD, [8080], id="also while its settings are not published"),
        pytest.param([], OLD, NEW, [8080, 9090], id="where none is listed nothing waits"),
        pytest.param([7070], OLD, NEW, [], id="a port that left the group is withdrawn at once"),
        pytest.param([], "", NEW, [8080, 9090], id="a member that does not report its settings gets all ports"),
        pytest.param([8080], OLD, None, [8080, 9090], id="so does one while the published settings are unknown"),
    ],
)
def test_a_port_is_listed_once_the_member_has_loaded_it(
    listed: list[int], loaded: str, published: str | None, ports: list[int]
) -> None:
    group = replace(GROUP, spec=replace(GROUP.spec, ports=(Port("http", 8080), Port("more", 9090))))
    member = make_member(serving=True)
    member["spec"]["loaded"] = {"settings": loaded} if loaded else {}
    snapshot = make_snapshot(member, live=True).replaced(
        workload={"metadata": {}, "spec": {"ports": [{"port": port} for port in listed]}},
        settings_digest=published,
        settings_ports=frozenset({8080} if published == OLD else {8080, 9090}),
    )
    found = wanted_workload(snapshot, group, MESH)["spec"]["ports"]
    assert [port["port"] for port in found] == ports


def test_opaque_ports_policy_and_zone_are_written_where_linkerd_reads_them() -> None:
    spec = replace(GROUP.spec, ports=(Port("db", 5432, True), Port("http", 8080), Port("q", 25, True)))
    group = replace(GROUP, spec=replace(spec, inbound_policy="deny"))
    mesh = replace(MESH, linkerd=replace(MESH.linkerd, opaque_ports="25,3306"))
    metadata = wanted_workload(make_snapshot(make_member()), group, mesh)["metadata"]
    assert metadata["annotations"]["config.linkerd.io/opaque-ports"] == "25,3306,5432", (
        "an annotation replaces the list"
    )
    metadata = wanted(make_snapshot(make_member(facts={"zone": "eu-1a"})), group)["metadata"]
    assert metadata["annotations"] == {
        "config.linkerd.io/opaque-ports": "25,3306,5432",  # with Linkerd's list, which the annotation replaces
        "config.linkerd.io/default-inbound-policy": "deny",
        "exclave.dev/labels": "app,exclave.dev/group,topology.kubernetes.io/zone",
    }
    assert metadata["labels"]["topology.kubernetes.io/zone"] == "eu-1a"


@pytest.mark.parametrize("zone", ["eu west", "x" * 64, "-", "é"])
def test_a_zone_that_no_label_can_hold_is_left_out(zone: str) -> None:
    labels = wanted(make_snapshot(make_member(facts={"zone": zone})))["metadata"]["labels"]
    assert labels == {"app": "web", "exclave.dev/group": "web"}


def test_removed_labels_of_group_and_machine_are_deleted_and_other_labels_stay() -> None:
    spec = replace(GROUP.spec, labels={"app": "web", "tier": "front"})
    wider = make_snapshot(make_member(facts={"zone": "eu-1a"}), group=replace(GROUP, spec=spec))
    found = wanted(wider, replace(GROUP, spec=spec))
    found["metadata"]["labels"]["team"] = "theirs"
    request = register(make_snapshot(workload=found), GROUP, MESH)
    assert request is not None and request.body is not None
    assert request.body["metadata"]["labels"] == {"tier": None, "topology.kubernetes.io/zone": None}
    after = merge_patch(found, request.body)
    assert after["metadata"]["labels"] == {"app": "web", "exclave.dev/group": "web", "team": "theirs"}
    assert register(make_snapshot(workload=after), GROUP, MESH) is None


def test_one_of_an_older_version_has_its_labels_still_and_lists_them_from_now_on() -> None:
    found = wanted(make_snapshot())
    del found["metadata"]["annotations"]["exclave.dev/labels"]
    found["metadata"]["labels"]["tier"] = "front"
    request = register(make_snapshot(workload=found), GROUP, MESH)
    assert isinstance(request, Request)
    assert request.body == {"metadata": {"annotations": {"exclave.dev/labels": "app,exclave.dev/group"}}}


def test_a_missing_external_workload_is_created() -> None:
    request = register(make_snapshot(), GROUP, MESH)
    assert request is not None
    assert (request.verb, request.body) == ("create", wanted(make_snapshot()))


def test_nothing_is_sent_if_it_is_as_it_shall_be() -> None:
    found = wanted(make_snapshot())
    assert register(make_snapshot(workload=found), GROUP, MESH) is None
    del found["spec"]["ports"]  # as an API server keeps an empty list
    found["metadata"]["labels"]["theirs"] = "last_good"
    found["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied"] = "last_good"
    found["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert register(make_snapshot(workload=found), GROUP, MESH) is None


DAMAGE: dict[str, tuple[Object, Object]] = {
    "another address": (
        {"spec": {"workloadIPs": [{"ip": "10.0.0.9"}]}},
        {"spec": {"workloadIPs": [{"ip": "10.77.0.20"}]}},
    ),
    "another identity": (
        {"spec": {"meshTLS": {"identity": "spiffe://x"}}},
        {
            "spec": {
                "meshTLS": {
                    "identity": "spiffe://cluster.local/ns/shop/sa/web",
                    "serverName": "web.shop.svc.cluster.local",
                }
            }
        },
    ),
    "a label changed": (
        {"metadata": {"labels": {"app": "x", "theirs": "last_good"}}},
        {"metadata": {"labels": {"app": "web"}}},
    ),
    "an annotation removed": (
        {"metadata": {"annotations": {"config.linkerd.io/opaque-ports": None}}},
        {"metadata": {"annotations": {"config.linkerd.io/opaque-ports": "25,3306"}}},
    ),
    "our finalizer removed": (
        {"metadata": {"finalizers": None}},
        {"metadata": {"finalizers": ["exclave.dev/ports"]}},
    ),
}


@pytest.mark.parametrize(("damage", "patch"), DAMAGE.values(), ids=DAMAGE)
def test_the_patch_corrects_only_what_others_changed(damage: Object, patch: Object) -> None:
    found = merge_patch(copy.deepcopy(wanted(make_snapshot())), damage)
    request = register(make_snapshot(workload=found), GROUP, MESH)
    assert isinstance(request, Request)
    assert (request.verb, request.what, request.body) == ("patch", f"externalworkloads {NAME}", patch)
    mended = merge_patch(found, request.body)
    assert register(make_snapshot(workload=mended), GROUP, MESH) is None
    if "labels" in (damage.get("metadata") or {}):
        assert mended["metadata"]["labels"]["theirs"] == "last_good"


def test_ports_that_go_are_marked_first_and_go_when_pods_have_had_notice() -> None:
    listed = settled_snapshot(serving=True)
    assert listed.workload is not None
    silent = listed.replaced(live=False)
    assert register(silent.replaced(unready_at=NOW), GROUP, MESH) == SETTLE, "after Ready=False was handled"
    request = register(silent, GROUP, MESH)
    assert isinstance(request, Request)
    marked = merge_patch(listed.workload, request.body or {})
    spec = marked["spec"]
    assert spec["meshTLS"] == {"identity": "withdrawn", "serverName": "web.shop.svc.cluster.local"}, "no TLS"
    assert {"name": "http", "port": 8080, "protocol": "TCP"} in spec["ports"], "pods are told of listed ports only"
    assert spec["workloadIPs"] == [{"ip": "10.77.0.20"}]
    waiting = silent.replaced(workload=marked, withdrawn_at=NOW)
    assert register(waiting, GROUP, MESH) == NOTICE
    assert register(waiting.replaced(now=NOW + NOTICE - 0.5), GROUP, MESH) == 0.5
    emptied = register(waiting.replaced(now=NOW + NOTICE), GROUP, MESH)
    assert isinstance(emptied, Request)
    assert merge_patch(marked, emptied.body or {}) == {**wanted(silent), "metadata": listed.workload["metadata"]}
    returned = register(waiting.replaced(live=True), GROUP, MESH)
    assert isinstance(returned, Request)
    assert merge_patch(marked, returned.body or {}) == listed.workload, "one that comes back is listed at once"


def test_another_address_is_listed_when_pods_have_had_notice_of_the_former_one() -> None:
    listed = settled_snapshot(serving=True)
    moved = listed.replaced(member=merge_patch(listed.member, {"spec": {"addresses": ["10.77.0.21"]}}))
    request = register(moved, GROUP, MESH)
    assert isinstance(request, Request) and listed.workload is not None
    marked = merge_patch(listed.workload, request.body or {})
    assert marked["spec"]["workloadIPs"] == [{"ip": "10.77.0.20"}]
    noticed = moved.replaced(workload=marked, withdrawn_at=NOW, now=NOW + NOTICE)
    after = register(noticed, GROUP, MESH)
    assert isinstance(after, Request)
    assert merge_patch(marked, after.body or {})["spec"] == wanted(moved)["spec"]
    ready = merge_patch(marked, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    assert register(noticed.replaced(workload=ready), GROUP, MESH) == MarkNotReady(
        "AddressChanges", "pods get its new address in a second"
    ), "the address of an endpoint never changes"
    assert register(noticed.replaced(unready_at=noticed.now), GROUP, MESH) == SETTLE


def withdrawn_for_a_move(time: str) -> Object:
    return {
        "type": "Ready", "status": "False", "reason": "AddressChanges", "message": "", "lastTransitionTime": time,
    }  # fmt: skip


def test_ready_is_awaited_when_the_address_is_right_again_also_without_a_change() -> None:
    listed = settled_snapshot(serving=True)
    since = "2026-12-01T10:00:00Z"
    found = merge_patch(listed.workload or {}, {"status": {"conditions": [withdrawn_for_a_move(since)]}})
    moved = listed.replaced(member=merge_patch(listed.member, {"spec": {"addresses": ["10.77.0.21"]}}), workload=found)
    assert awaits_ready_since(moved, GROUP) is None, "it changes now"
    assert awaits_ready_since(moved.replaced(member=listed.member), GROUP) == since
    assert awaits_ready_since(listed, GROUP) is None, "the machine has reported"


def test_ready_is_read_from_the_condition() -> None:
    assert is_ready({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    assert not is_ready({"metadata": {}, "spec": {"ports": [{"port": 8080}]}})
    assert not is_ready({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
