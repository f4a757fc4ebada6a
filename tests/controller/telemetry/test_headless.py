"""Headless Services that select a group: which ones, and that each is warned of once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from exclave.api.member import condition_of
from exclave.api.requests import EVENTS, SERVICES, WORKLOAD_GROUPS, create, delete, get, list_all
from exclave.controller.policy.snapshot import Group
from exclave.controller.telemetry.event_writer import EventWriter
from exclave.controller.telemetry.events import Subject
from exclave.controller.telemetry.headless import HeadlessWarner, headless_names, services_selecting
from exclave.controller.telemetry.malformed_log import MalformedLog
from exclave.errors import ClusterError, Fault
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from ..snapshots import GROUP, NOW

LABELS = {"app": "web", "exclave.dev/group": "web"}


def service(name: str = "front", cluster_ip: str = "None", **selector: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"clusterIP": cluster_ip, "ports": [{"port": 80}]}
    return {"metadata": {"name": name}, "spec": spec | ({"selector": selector} if selector else {})}


@pytest.mark.parametrize(
    ("services", "found"),
    [
        pytest.param([service(app="web")], ["front"], id="one that selects by a label of the group"),
        pytest.param([service(**{"exclave.dev/group": "web"})], ["front"], id="by the label that every group has"),
        pytest.param([service("b", app="web"), service("a", **LABELS)], ["a", "b"], id="several"),
        pytest.param([service(cluster_ip="10.43.0.9", app="web")], [], id="none that has an address of its own"),
        pytest.param([service(app="web", tier="db")], [], id="none that wants more"),
        pytest.param([service(app="api")], [], id="none of others"),
        pytest.param([service()], [], id="none without a selector"),
        pytest.param([{"metadata": {"name": "odd"}}], [], id="none without a spec"),
    ],
)
def test_which_services_select_a_group(services: list[dict[str, Any]], found: list[str]) -> None:
    assert headless_names(services_selecting(services, LABELS, unexpected)) == found


def unexpected(found: object, problem: Exception) -> None:
    raise AssertionError(f"{found}: {problem!r}")


@pytest.mark.parametrize(
    "bad",
    [{"spec": 7}, {"spec": {"clusterIP": "None", "selector": "app=web"}}, {"spec": ["x"]}],
    ids=["a spec that is a number", "a selector that is a text", "a spec that is a list"],
)
def test_a_malformed_service_is_reported_and_the_others_are_found(bad: dict[str, Any]) -> None:
    reported: list[object] = []
    bad = {"metadata": {"name": "bad"}, **bad}
    found = services_selecting([bad, service(app="web")], LABELS, lambda one, _: reported.append(one))
    assert (headless_names(found), reported) == (["front"], [bad])


class Warned:
    """A warner over a cluster, and its Events."""

    def __init__(self, cluster: MeshCluster, groups: list[Group]) -> None:
        self.reported: list[tuple[str, str]] = []
        self.observed: list[tuple[str, list[str]]] = []
        malformed = MalformedLog(lambda: NOW)
        self.warner = HeadlessWarner(cluster.admin, lambda: groups, self, malformed, self.observe)  # type: ignore[arg-type]

    def observe(self, group: Group, services: list[Any]) -> None:
        self.observed.append((group.name, [one["metadata"]["name"] for one in services]))

    def put_nowait(self, subject: Subject, member_events: Any) -> None:
        self.reported += [(f"{subject.namespace}/{subject.name}", one.note) for one in member_events]


async def test_each_is_warned_of_once_until_it_is_mended(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        one = Warned(cluster, [GROUP])
        await one.warner.check()
        assert one.reported == []
        for _ in range(2):
            await cluster.admin.send(create(SERVICES, "shop", service(app="web")))
            await one.warner.check()
            await one.warner.check()
            await cluster.admin.send(delete(SERVICES, "shop", "front"))
            await one.warner.check()
        text = (
            "Service front is headless and selects group web: one request through the mesh to a member's own name in "
            "it ends Linkerd's destination controller; give the Service a cluster IP, or a selector of pods only"
        )
        assert one.reported == [("shop/web", text), ("shop/web", text)]


async def test_each_round_observes_the_services_that_select_a_group(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        one = Warned(cluster, [GROUP])
        await one.warner.check()
        for name, found in (("front", LABELS), ("other", {"app": "api"})):
            await cluster.admin.send(create(SERVICES, "shop", service(name, "10.43.0.9", **found)))
        await one.warner.check()
        assert one.observed == [("web", []), ("web", ["front"])]


async def test_a_new_group_of_the_same_name_is_warned_of_again(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.admin.send(create(SERVICES, "shop", service(app="web")))
        groups = [GROUP]
        one = Warned(cluster, groups)
        await one.warner.check()
        groups[:] = [replace(GROUP, uid="another")]
        await one.warner.check()
        assert [where for where, _ in one.reported] == ["shop/web", "shop/web"]


async def test_a_missing_right_to_list_services_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing:
        async def send(self, request: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise ClusterError(Fault.NOT_PERMITTED, "may not list services", "")

    caplog.set_level("INFO")
    events = EventWriter(Refusing(), "exclave", lambda: NOW)
    groups = [GROUP]
    observed: list[Any] = []
    warner = HeadlessWarner(
        Refusing(), lambda: groups, events, MalformedLog(lambda: NOW), lambda *found: observed.append(found)
    )
    for _ in range(3):
        await warner.check()
    line = "headless Services in shop cannot be listed: may not list services"
    assert caplog.messages == [line]
    groups.clear()
    await warner.check()
    groups.append(GROUP)
    await warner.check()
    assert caplog.messages == [line, line], "the namespace had no group for a while"
    assert observed == [], "of Services that could not be listed nothing is concluded"


async def test_the_controller_warns_with_its_own_rights_on_the_group(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        await cluster.admin.send(create(SERVICES, "shop", service(app="web")))
        async with cluster.controlled():
            with trio.fail_after(20):
                while True:
                    events = (await cluster.admin.send(list_all(EVENTS, "shop")))["items"]
                    reported = [one["regarding"] for one in events if one["reason"] == "HeadlessService"]
                    if reported:
                        break
                    await trio.sleep(0.05)
        group = await cluster.admin.send(get(WORKLOAD_GROUPS, "shop", "web"))
        assert reported == [
            {
                "apiVersion": "exclave.dev/v1alpha1",
                "kind": "WorkloadGroup",
                "name": "web",
                "namespace": "shop",
                "uid": group["metadata"]["uid"],
            }
        ]


async def test_the_controller_states_on_the_group_where_opaque_ports_differ(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        front = service("front", "10.43.0.9", app="web")
        front["metadata"]["annotations"] = {"config.linkerd.io/opaque-ports": "80"}
        front["spec"]["ports"] = [{"port": 80, "targetPort": 8080}]
        await cluster.admin.send(create(SERVICES, "shop", front))
        async with cluster.controlled():
            with trio.fail_after(20):
                while True:
                    found = await cluster.admin.send(get(WORKLOAD_GROUPS, "shop", "web"))
                    stated = condition_of(found, "OpaquePortsAgree")
                    if stated is not None:
                        break
                    await trio.sleep(0.1)
        assert (stated.status, stated.reason) == (False, "OpaquePortsDiffer")
        assert stated.message.startswith("port 80 of Service front is opaque, and port 8080 of group web is not")
        assert condition_of(found, "Accepted") is not None
