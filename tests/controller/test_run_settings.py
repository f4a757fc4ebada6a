"""Somebody changes or deletes the ConfigMap with a group's settings, beside the whole controller."""

import time
from pathlib import Path

import pytest

from exclave.api.names import SETTINGS_KEY
from exclave.api.requests import CONFIG_MAPS, EVENTS, ROLES, WORKLOAD_GROUPS, Object, Request, delete, list_all, patch
from exclave.api.settings import parse_settings
from exclave.cluster.client import open_cluster
from exclave.controller.policy.accept import GroupPatches
from exclave.controller.run import Controller, Locations, open_controller
from exclave.errors import ApiRefusal
from exclave_sandbox.pki import make_anchor
from exclave_sandbox.stage.mesh import NAMESPACE
from support.mesh_cluster import MeshCluster, open_mesh_cluster

from .test_run import CONTROLLER, wait

pytestmark = pytest.mark.slow

NAME = "exclave-mesh.web"


async def written(cluster: MeshCluster) -> Object:
    """The settings' ConfigMap once the controller has written it."""
    return await wait(cluster, CONFIG_MAPS, NAME, lambda found: found is not None)


EDITS: dict[str, Object] = {
    "another text": {"data": {SETTINGS_KEY: '{"version":1}'}},
    "no entry": {"data": {SETTINGS_KEY: None}},
    "one more entry": {"data": {"more": "x"}},
    "another text that nobody may change": {"data": {SETTINGS_KEY: "{}"}, "immutable": True},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_an_edit_of_the_settings_is_undone(tmp_path: Path, edit: Object) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        before = await written(cluster)
        changed = await cluster.admin.send(patch(CONFIG_MAPS, NAMESPACE, NAME, edit))
        assert changed["data"] != before["data"]
        await wait(cluster, CONFIG_MAPS, NAME, lambda found: found and found["data"] == before["data"])


async def test_settings_that_somebody_deletes_are_written_again(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        before = await written(cluster)
        for _ in range(2):
            await cluster.admin.send(delete(CONFIG_MAPS, NAMESPACE, NAME))
            after = await written(cluster)
            assert after["data"] == before["data"]
        assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]


async def test_an_event_of_the_group_reports_the_repair(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path) as cluster:
        before = await written(cluster)
        await cluster.admin.send(patch(CONFIG_MAPS, NAMESPACE, NAME, {"data": {SETTINGS_KEY: ""}}))
        await wait(cluster, CONFIG_MAPS, NAME, lambda found: found["data"] == before["data"])
        await wait_for_event(cluster, "SettingsRepaired")


async def wait_for_event(cluster: MeshCluster, reason: str) -> None:
    """Return when there is an Event of this reason about group `web`."""
    async with cluster.admin.watch(EVENTS, NAMESPACE) as events:
        async for _ in events:
            listed = await cluster.admin.send(list_all(EVENTS, NAMESPACE))
            found = [one for one in listed["items"] if one["reason"] == reason]
            if found:
                assert [one["regarding"]["name"] for one in found] == ["web"]
                assert found[0]["type"] == "Warning"
                return


class StrictCluster:
    """A cluster that refuses each status."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def send(self, request: Request) -> Object:
        self.paths.append(request.path)
        if request.path.endswith("/status"):
            raise ApiRefusal(422, "Invalid", "spec.forgetAfter: 60s to 876000h was expected", "")
        return {}


async def test_a_group_whose_conditions_cannot_be_written_is_held_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    cluster = StrictCluster()
    controller = Controller(cluster, Locations(), lambda: 0.0, lambda: 0.0)  # type: ignore[arg-type]
    patches = GroupPatches({"metadata": {"finalizers": []}}, {"status": {"conditions": []}})
    await controller._patch_group((NAMESPACE, "web"), patches)
    assert [path.rpartition("/")[2] for path in cluster.paths] == ["web", "status"]
    assert "its conditions cannot be written: spec.forgetAfter: 60s to 876000h was expected" in caplog.text


async def test_a_new_ca_of_the_api_server_is_published_in_time(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    old, new = make_anchor("old CA").pem, make_anchor("new CA").pem
    file.write_text(f"# comment\n{old}")
    (tmp_path / "mesh").mkdir()
    async with open_mesh_cluster(tmp_path / "mesh", controlled=False) as cluster:
        token = await cluster.token_of("exclave", CONTROLLER)
        locations = Locations(ca_file=file)
        async with open_cluster(cluster.api.access, lambda: token) as own, open_controller(own, locations, time.time):
            text = (await wait(cluster, CONFIG_MAPS, NAME, lambda found: found is not None))["data"][SETTINGS_KEY]
            assert parse_settings(text).server_ca == old
            file.write_text(old + new)
            await wait(cluster, CONFIG_MAPS, NAME, lambda found: new_ca_of(found) == old + new)


def new_ca_of(found: Object) -> str:
    return parse_settings(found["data"][SETTINGS_KEY]).server_ca


async def test_a_ca_file_that_cannot_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, good = tmp_path / "ca.crt", make_anchor().pem
    file.write_text(good)
    locations = Locations(ca_file=file)
    controller = Controller(StrictCluster(), locations, lambda: 0.0, lambda: 0.0)  # type: ignore[arg-type]
    await controller._refresh_server_ca()
    file.write_text("damaged")
    await controller._refresh_server_ca()
    assert controller.state.server_ca == good
    assert f"the API server's CA is not read again: {file}: a certificate in PEM was expected" in caplog.text


async def test_a_controller_without_the_right_to_watch_settings_publishes_them(tmp_path: Path) -> None:
    async with open_mesh_cluster(tmp_path, controlled=False) as cluster:
        rules = [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"], "resourceNames": [NAME]},
        ]  # as an earlier version made it
        await cluster.admin.send(patch(ROLES, NAMESPACE, "exclave-publisher.web", {"rules": rules}))
        async with cluster.controlled():
            before = await written(cluster)
            await cluster.admin.send(patch(WORKLOAD_GROUPS, NAMESPACE, "web", {"spec": {"labels": {"a": "b"}}}))
            await wait(cluster, CONFIG_MAPS, NAME, lambda found: found["data"] != before["data"])
