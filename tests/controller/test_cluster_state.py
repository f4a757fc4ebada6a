"""What the controller has seen: real objects of the sandbox's API server, then the same ones damaged."""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exclave.api.definitions.admission import guard_objects
from exclave.api.requests import (
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    EXTERNAL_WORKLOADS,
    SECRETS,
    WORKLOAD_GROUPS,
    Object,
    Resource,
    create,
    get,
    list_all,
)
from exclave.api.settings import ControlPlane
from exclave.cluster.watch_events import Listed, Removed, Upserted
from exclave.controller.cluster_state import REMEMBERED, Cache, Caches, key_of
from exclave.controller.mesh.publish import Published
from support.mesh import mesh
from support.mesh_cluster import open_mesh_cluster

from .worlds import LIVE, NAME, NAMESPACE, make_member, with_status

KEY = (NAMESPACE, NAME)
WEB = (NAMESPACE, "web")
NOW = time.time() + 3600  # the keys of the mesh are made later than this line runs, and are good for a year


@asynccontextmanager
async def seen(folder: Path) -> AsyncIterator[Caches]:
    """Everything that a cluster with Linkerd and group `web` shows, before any member."""
    async with open_mesh_cluster(folder, controlled=False) as cluster:
        caches, admin = Caches("exclave", "linkerd"), cluster.admin

        async def one(cache: Cache, resource: Resource, namespace: str, name: str) -> None:
            cache.take(Upserted(await admin.send(get(resource, namespace, name))))

        async def every(cache: Cache, resource: Resource, namespace: str) -> None:
            cache.take(Listed(tuple((await admin.send(list_all(resource, namespace)))["items"])))

        await one(caches.config, CONFIG_MAPS, "linkerd", "linkerd-config")
        await one(caches.anchors, CONFIG_MAPS, "linkerd", "linkerd-identity-trust-roots")
        await one(caches.secret, SECRETS, "exclave", "exclave-issuer")
        await every(caches.linkerd_slices, ENDPOINT_SLICES, "linkerd")
        await every(caches.dns_slices, ENDPOINT_SLICES, "kube-system")
        await every(caches.groups, WORKLOAD_GROUPS, NAMESPACE)
    yield caches


def lease(renewed: str | None = "2027-01-15T08:00:00.000000Z", **spec: str) -> Object:
    times = {"renewTime": renewed} if renewed else {}
    return {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {**times, **spec}}


def placed(found: Object, **changes: Any) -> Object:
    return {**found, "metadata": {**found["metadata"], **changes}}


def test_a_watch_tells_which_keys_it_concerns() -> None:
    cache = Cache()
    one, two = ({"metadata": {"name": name, "namespace": "shop"}} for name in ("one", "two"))
    assert not cache.synced
    assert cache.take(Listed((one,))) == [("shop", "one")] and cache.synced
    assert cache.take(Upserted(two)) == [("shop", "two")]
    assert cache.take(Listed((two,))) == [("shop", "two"), ("shop", "one")], "what is gone concerns somebody as well"
    assert cache.take(Removed(two)) == [("shop", "two")]
    assert cache.take(Removed(two)) == [("shop", "two")]
    assert cache.objects == {} and cache.only() is None
    assert key_of({"metadata": {"name": "cluster-wide"}}) == ("", "cluster-wide")


async def test_the_mesh_is_read_from_what_linkerd_publishes_and_told_only_when_it_changes(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        assert caches.refresh_mesh(NOW)
        found = caches.mesh
        assert found is not None and caches.issuer is not None
        assert found.anchors == mesh().anchor.pem and found.issuer == caches.issuer.sha256
        assert found.control_plane == ControlPlane(("10.42.0.2",), ("10.42.0.2",), ("10.42.0.2",))
        assert not caches.refresh_mesh(NOW)
        moved = [{**one, "endpoints": [{"addresses": ["10.42.0.9"]}]} for one in caches.dns_slices.objects.values()]
        caches.dns_slices.take(Listed(tuple(moved)))
        assert caches.refresh_mesh(NOW)
        assert caches.mesh is not None and caches.mesh.control_plane.dns == ("10.42.0.9",)
        caches.dns_slices.take(Listed(()))
        assert not caches.refresh_mesh(NOW), "the last good addresses are kept"


async def test_an_issuer_that_becomes_valid_is_taken_without_any_change(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        assert caches.refresh_mesh(NOW - 7 * 86400)
        assert caches.issuer is None
        assert caches.mesh_fault == (
            "the controller can certify nobody yet: the issuer's certificate, or one above it, is not valid now"
        )
        assert caches.refresh_mesh(NOW)
        assert caches.issuer is not None


ABSENT = {
    "config": "Linkerd's ConfigMap linkerd-config is missing",
    "anchors": "Linkerd's ConfigMap linkerd-identity-trust-roots is missing",
    "secret": "the issuer's Secret is missing",
}


@pytest.mark.parametrize(("absent", "told"), ABSENT.items())
async def test_there_is_no_mesh_before_all_of_it_was_seen_and_why_is_told(
    tmp_path: Path, absent: str, told: str
) -> None:
    async with seen(tmp_path) as caches:
        caches.members.take(Upserted(make_member()))
        found = getattr(caches, absent).only()
        getattr(caches, absent).take(Listed(()))
        caches.refresh_mesh(NOW)
        world = caches.world(KEY, NOW)
        assert world is not None and world.mesh is None
        assert world.mesh_fault == f"the controller can certify nobody yet: {told}"
        getattr(caches, absent).take(Upserted({**found, "data": {}}))
        assert caches.refresh_mesh(NOW), "whoever waits must be told"
        assert told not in (caches.mesh_fault or "")
        getattr(caches, absent).take(Upserted(found))
        assert caches.refresh_mesh(NOW) and caches.mesh_fault is None


DAMAGE = {
    "config": (
        {"data": {"values": "proxy: 7\nclusterDomain: x\nclusterNetworks: x"}},
        "config, the last good reading is kept: it has another shape than expected: "
        "AttributeError: 'int' object has no attribute 'get' (exclave/controller/mesh/publish.py:LINE)",
    ),
    "anchors": (
        {"data": {"ca-bundle.crt": "none"}},
        "anchors, the last good reading is kept: ConfigMap linkerd-identity-trust-roots: "
        "a certificate in PEM was expected, found none",
    ),
    "secret": (
        {"data": {}},
        "issuer, the last good reading is kept: "
        "the issuer Secret holds neither crt.pem and key.pem nor tls.crt and tls.key",
    ),
}


@pytest.mark.parametrize("source", DAMAGE)
async def test_a_source_that_cannot_be_read_is_told_once_and_the_last_good_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    damage, text = DAMAGE[source]
    async with seen(tmp_path) as caches:
        caches.refresh_mesh(NOW)
        assert caches.issuer is not None
        good, sha256, cache = caches.mesh, caches.issuer.sha256, getattr(caches, source)
        found = cache.only()
        for _ in range(3):
            cache.take(Upserted({**found, **damage}))
            assert not caches.refresh_mesh(NOW)
        assert caches.mesh == good and caches.issuer.sha256 == sha256
        (logged,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert re.sub(r"py:[0-9]+", "py:LINE", logged) == text
        cache.take(Removed(found))
        assert not caches.refresh_mesh(NOW)
        assert caches.mesh == good and caches.issuer.sha256 == sha256


async def test_a_group_that_cannot_be_read_keeps_its_last_good_reading(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with seen(tmp_path) as caches:
        good = caches.group(WEB)
        assert good is not None and good.spec.networks == ("10.77.0.0/24",)
        found = caches.groups.objects[WEB]
        caches.groups.take(Upserted({**found, "spec": {**found["spec"], "certificateLifetime": "1s"}}))
        assert caches.group(WEB) == good
        assert caplog.messages[-1] == (
            "WorkloadGroup shop/web, the last good reading is kept: certificateLifetime: at least 10s, found 1s"
        )
        caches.groups.take(Removed(found))
        assert caches.group(WEB) is None
        caches.groups.take(Upserted({**found, "spec": {}}))
        assert caches.group(WEB) is None, "a group of the same name has no older reading"


async def test_a_world_is_all_that_was_seen_of_a_member(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        caches.refresh_mesh(NOW)
        assert caches.world(KEY, NOW) is None
        caches.members.take(Upserted(make_member()))
        world = caches.world(KEY, NOW)
        assert world is not None
        assert world.group == caches.group(WEB) and world.mesh == caches.mesh
        assert not (world.has_lease or world.beaten or world.live or world.has_account)
        caches.leases.take(Upserted(lease(None)))
        caches.see_lease(KEY, NOW)
        caches.published[WEB] = Published("d" * 64, frozenset({8080}))
        world = caches.world(KEY, NOW)
        assert world is not None and world.has_lease and not world.beaten
        assert (world.settings_digest, world.settings_ports) == ("d" * 64, {8080})


async def test_a_member_whose_name_is_none_of_ours_has_no_group(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        caches.members.take(Upserted(placed(make_member(), name="web")))
        world = caches.world((NAMESPACE, "web"), NOW)
        assert world is not None and world.group is None


async def test_heartbeats_make_live_and_silence_ends_it() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    caches.leases.take(Upserted(lease(None)))
    caches.see_lease(KEY, NOW - 1)
    caches.leases.take(Upserted(lease()))
    assert caches.see_lease(KEY, NOW), "it was not live before"
    assert caches.refresh_live(NOW) == {KEY}
    world = caches.world(KEY, NOW)
    assert world is not None and world.live and world.beaten
    assert not caches.see_lease(KEY, NOW + 20), "one that is live need not be looked at again"
    assert caches.refresh_live(NOW + 30) == caches.overdue(NOW + 30) == set()
    assert caches.overdue(NOW + 31) == {KEY}
    assert caches.refresh_live(NOW + 31, {KEY}) == set(), "its Lease could not be read"
    assert caches.refresh_live(NOW + 31, {("shop", "another")}) == {KEY}
    assert caches.overdue(NOW + 31) == set(), "it is asked after once"
    caches.leases.take(Upserted(lease("2027-01-15T08:00:31.000000Z")))
    assert caches.see_lease(KEY, NOW + 31) and caches.refresh_live(NOW + 31) == {KEY}
    caches.leases.take(Removed(lease()))
    assert caches.see_lease(KEY, NOW + 32) and caches.refresh_live(NOW + 32) == {KEY}


async def test_a_heartbeat_makes_its_member_live_at_once_and_one_from_long_ago_does_not() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    caches.wake([KEY])
    world = caches.world(KEY, NOW)
    assert world is not None and not world.live and world.beaten
    caches.leases.take(Upserted(lease("2027-01-15T08:00:31.000000Z")))
    caches.see_lease(KEY, NOW + 1)
    caches.wake([KEY])
    world = caches.world(KEY, NOW + 1)
    assert world is not None and world.live


async def test_leases_of_others_are_none_of_the_fleets() -> None:
    caches = Caches("exclave", "linkerd")
    node = ("kube-node-lease", "node-1")
    metadata = {"namespace": node[0], "name": node[1]}
    for renewed in ("2027-01-15T08:00:00.000000Z", "2027-01-15T08:00:10.000000Z"):
        caches.leases.take(Upserted({"metadata": metadata, "spec": {"renewTime": renewed}}))
        caches.see_lease(node, NOW)
    caches.wake([node])
    assert caches.refresh_live(NOW) == set()
    assert caches.overdue(NOW + 100) == set()
    for number in range(1000):
        caches.members.take(Upserted(placed(make_member(), name=f"web-k7q2x-{number}")))
    assert caches.refresh_heartbeat()
    caches.members.take(Listed(()))
    assert caches.refresh_heartbeat() and caches.heartbeat == 10.0


async def test_it_does_not_matter_whether_leases_or_members_are_told_first() -> None:
    caches = Caches("exclave", "linkerd")
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    caches.members.take(Upserted(with_status(make_member(), LIVE)))
    assert caches.refresh_live(NOW) == {KEY}


@pytest.mark.parametrize("was_live", [True, False])
async def test_a_controller_that_starts_takes_a_member_for_what_it_was_until_it_hears_of_it(was_live: bool) -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(with_status(make_member(), replace(LIVE, status=was_live))))
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    assert caches.refresh_live(NOW) == ({KEY} if was_live else set())
    caches.leases.take(Upserted(lease("2027-01-15T08:00:31.000000Z")))
    caches.see_lease(KEY, NOW + 10)
    caches.refresh_live(NOW + 10)
    world = caches.world(KEY, NOW + 10)
    assert world is not None and world.live and world.beaten


async def test_two_machines_that_take_turns_with_one_lease_are_noticed() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    for second, boot in enumerate(("a", "b", "a")):
        caches.leases.take(Upserted(lease(f"2027-01-15T08:00:0{second}.000000Z", holderIdentity=f"host.{boot}")))
        asked = caches.see_lease(KEY, NOW + second)
        caches.refresh_live(NOW + second)
    assert asked, "its member must be looked at, though it is live"
    world = caches.world(KEY, NOW + 3)
    assert world is not None and world.clones == ("host.a", "host.b")


async def test_the_interval_grows_with_the_fleet_and_nobody_is_given_up_before_it_knows() -> None:
    caches = Caches("exclave", "linkerd")
    caches.published[WEB] = Published("new")
    for number in range(1000):
        caches.members.take(Upserted(placed(make_member(), name=f"web-k7q2x-{number}")))
    assert caches.refresh_heartbeat() and caches.heartbeat == 20.0
    caches.members.take(Listed((make_member(),)))
    caches.leases.take(Upserted(lease(None)))
    caches.see_lease(KEY, NOW)
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    caches.refresh_live(NOW)
    assert caches.refresh_heartbeat() and caches.heartbeat == 10.0
    assert caches.refresh_live(NOW + 55) == set(), "it may still beat every 20 s"
    caches.members.take(Upserted(make_member(loaded={"settings": "new"})))
    caches.refresh_heartbeat()
    assert caches.refresh_live(NOW + 55) == {KEY}


async def test_what_is_wrong_with_the_admission_policies_is_noticed_when_it_changes() -> None:
    caches, wanted = Caches("exclave", "linkerd"), guard_objects("exclave")
    assert caches.refresh_guard(wanted) and caches.guard_fault is not None
    for one in wanted:
        cache = caches.guard[f"{one['kind']} {one['metadata']['name']}"] = Cache()
        cache.take(Upserted(one))
    assert caches.refresh_guard(wanted) and caches.guard_fault is None
    assert not caches.refresh_guard(wanted)


async def test_neighbours_are_told_of_each_other_whenever_what_they_claim_changes(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        other = (NAMESPACE, "web-zzzzz-1")
        for key in (KEY, other):
            member = placed(make_member(), name=key[1])
            assert caches.see_members(caches.members.take(Upserted(member))) == ({KEY} if key == other else set())
        world = caches.world(KEY, NOW)
        assert world is not None
        (found,) = world.neighbours
        assert (found.name, found.address, found.live, found.stands) == (other[1], "10.77.0.20", False, frozenset())
        caches.leases.take(Upserted({**lease(None), "metadata": {"name": other[1], "namespace": NAMESPACE}}))
        caches.see_lease(other, NOW)
        caches.leases.take(Upserted({**lease(), "metadata": {"name": other[1], "namespace": NAMESPACE}}))
        caches.see_lease(other, NOW)
        caches.wake([other])
        assert caches.see_members([other]) == {KEY}, "it lives"
        request = create(EXTERNAL_WORKLOADS, NAMESPACE, {"spec": {"workloadIPs": [{"ip": "10.77.0.20"}]}})
        assert caches.give(other, request) == {KEY}
        world = caches.world(KEY, NOW)
        assert world is not None and world.neighbours[0].holds("10.77.0.20"), "before it is answered"
        assert caches.give(other, None) == {KEY}
        workload = {"metadata": {"name": other[1], "namespace": NAMESPACE}, **(request.body or {})}
        assert caches.see_members(caches.workloads.take(Upserted(workload))) == {KEY}
        world = caches.world(other, NOW)
        assert world is not None
        assert caches.keep(other, world, world) == (world, set()), "nothing that others see has changed"
        assert caches.keep(other, world, None) == (None, {KEY})
        world = caches.world(KEY, NOW)
        assert world is not None and world.neighbours == ()


def test_the_time_without_ports_is_counted_from_when_they_were_first_gone() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))

    def emptied_at(ports: list[int], now: float) -> float | None:
        metadata = {"name": NAME, "namespace": NAMESPACE}
        caches.workloads.take(Upserted({"metadata": metadata, "spec": {"ports": [{"port": port} for port in ports]}}))
        world = caches.world(KEY, now)
        assert world is not None
        return world.emptied_at

    assert emptied_at([8080], NOW) is None
    assert emptied_at([], NOW + 1) == NOW + 1
    assert emptied_at([], NOW + 9) == NOW + 1
    assert emptied_at([8080], NOW + 10) is None
    assert emptied_at([], NOW + 11) == NOW + 11


def test_what_a_step_changed_is_known_before_the_watches_tell() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    world = caches.world(KEY, NOW)
    assert world is not None
    workload = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {}}
    caches.keep(KEY, world, world.seen(workload=workload, has_account=True, account_deleted=True))
    again = caches.world(KEY, NOW)
    assert again is not None
    assert again.workload == workload and again.has_account and again.account_deleted
    caches.keep(KEY, again, again.seen(workload=None))
    assert caches.workloads.objects == {}
    caches.keep(KEY, again, None)
    assert caches.world(KEY, NOW) is None
    caches.members.take(Upserted(make_member()))
    anew = caches.world(KEY, NOW)
    assert anew is not None and not anew.has_account and not anew.account_deleted, "another of the same name"


def renamed(uid: str, **spec: Any) -> Object:
    """Another Member of the same name."""
    return placed(make_member(**spec), uid=uid)


@pytest.mark.parametrize("is_removal_told", [True, False])
def test_another_member_of_the_same_name_starts_without_what_was_made_for_the_first(is_removal_told: bool) -> None:
    caches = Caches("exclave", "linkerd")
    caches.see_members(caches.members.take(Upserted(renamed("first"))))
    world = caches.world(KEY, NOW)
    assert world is not None
    caches.keep(KEY, world, world.seen(has_account=True, account_deleted=True))
    if is_removal_told:  # and the answer to the last patch was lost, so that no step ended the Member
        caches.see_members(caches.members.take(Removed(renamed("first"))))
    caches.see_members(caches.members.take(Listed((renamed("second"),))))
    second = caches.world(KEY, NOW)
    assert second is not None and not second.has_account and not second.account_deleted


def test_what_was_made_for_a_member_is_forgotten_when_its_removal_is_told() -> None:
    """Also where the same object would come back, which shows that memory does not grow with those that left."""
    caches = Caches("exclave", "linkerd")
    for _ in range(2):
        caches.see_members(caches.members.take(Upserted(make_member())))
        world = caches.world(KEY, NOW)
        assert world is not None and not world.has_account and not world.account_deleted
        caches.keep(KEY, world, world.seen(has_account=True, account_deleted=True))
        caches.see_members(caches.members.take(Removed(make_member())))


def test_an_account_that_was_found_deleted_is_no_longer_remembered() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    world = caches.world(KEY, NOW)
    assert world is not None
    made, _ = caches.keep(KEY, world, world.seen(has_account=True))
    assert made is not None
    caches.keep(KEY, made, made.seen(has_account=False))
    again = caches.world(KEY, NOW)
    assert again is not None and not again.has_account


def test_the_end_of_a_member_does_not_remove_another_of_its_name_that_a_watch_has_told_meanwhile() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(renamed("first")))
    world = caches.world(KEY, NOW)
    assert world is not None
    caches.members.take(Removed(renamed("first")))
    caches.members.take(Upserted(renamed("second")))
    assert caches.keep(KEY, world, None) == (None, set())
    assert caches.members.objects[KEY] == renamed("second")


def test_what_a_step_made_for_a_member_is_not_given_to_another_of_its_name() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(renamed("first")))
    world = caches.world(KEY, NOW)
    assert world is not None
    newer = placed(renamed("second"), resourceVersion="20")
    caches.members.take(Upserted(newer))
    sealed = world.seen(sealed="eyJ", has_account=True)
    assert caches.keep(KEY, world, sealed) == (None, {KEY}), "the second one is looked at anew"
    second = caches.world(KEY, NOW)
    assert second is not None and second.member == newer and not second.has_account


def test_a_lease_that_was_deleted_is_unknown_before_its_watch_tells() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(renamed("first")))
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    world = caches.world(KEY, NOW)
    assert world is not None and world.has_lease and world.beaten
    caches.keep(KEY, world, world.seen(has_lease=False))
    caches.keep(KEY, world, None)
    caches.members.take(Upserted(renamed("second")))
    second = caches.world(KEY, NOW)
    assert second is not None and not second.has_lease and not second.beaten


def test_another_member_of_the_same_name_is_not_live_before_its_own_heartbeat() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(with_status(renamed("first"), LIVE)))
    caches.leases.take(Upserted(lease()))
    caches.see_lease(KEY, NOW)
    assert caches.refresh_live(NOW) == {KEY}
    caches.leases.take(Removed(lease()))
    caches.see_lease(KEY, NOW + 1)
    caches.members.take(Listed((renamed("second"),)))
    caches.leases.take(Upserted(lease(None)))
    assert caches.see_lease(KEY, NOW + 1)
    second = caches.world(KEY, NOW + 1)
    assert second is not None and second.has_lease and not second.beaten and not second.live
    caches.leases.take(Upserted(lease("2027-01-15T08:00:02.000000Z")))
    assert caches.see_lease(KEY, NOW + 2), "its first heartbeat is not taken for one of many"
    caches.wake([KEY])
    second = caches.world(KEY, NOW + 2)
    assert second is not None and second.beaten and second.live


def test_the_time_without_ports_of_another_external_workload_is_counted_anew() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(make_member()))
    for uid, now in (("first", NOW), ("second", NOW + 60)):
        metadata = {"name": NAME, "namespace": NAMESPACE, "uid": uid}
        caches.workloads.take(Upserted({"metadata": metadata, "spec": {"ports": []}}))
        world = caches.world(KEY, now)
        assert world is not None and world.emptied_at == now


async def test_another_group_of_the_same_name_has_no_older_reading(tmp_path: Path) -> None:
    async with seen(tmp_path) as caches:
        assert caches.group(WEB) is not None
        found = caches.groups.objects[WEB]
        caches.groups.take(Listed(({**placed(found, uid="another"), "spec": {}},)))
        assert caches.group(WEB) is None
        assert f"WorkloadGroup {WEB[0]}/{WEB[1]}" in caches.faults
        caches.groups.take(Listed(()))
        assert caches.group(WEB) is None and not caches.faults


def test_an_answer_that_is_late_undoes_nothing_that_a_watch_has_told() -> None:
    caches = Caches("exclave", "linkerd")
    caches.members.take(Upserted(placed(make_member(), resourceVersion="9")))
    workload = {"metadata": {"name": NAME, "namespace": NAMESPACE, "resourceVersion": "8"}, "spec": {}}
    caches.workloads.take(Upserted(workload))
    world = caches.world(KEY, NOW)
    assert world is not None
    newer = placed(make_member(serving=True), resourceVersion="101")
    caches.members.take(Upserted(newer))
    answered = world.seen(member=placed(make_member(), resourceVersion="99"), workload={**workload}, signed=None)
    kept, _ = caches.keep(KEY, world, answered)
    assert kept is not None and kept.view.serving and caches.members.objects[KEY] == newer

    caches.workloads.take(Removed(placed(workload, resourceVersion="120")))
    kept, _ = caches.keep(KEY, world, world.seen(workload=placed(workload, resourceVersion="110")))
    assert kept is not None and kept.workload is None and not caches.workloads.objects
    made = placed(workload, resourceVersion="130")
    kept, _ = caches.keep(KEY, world, world.seen(workload=made))
    assert kept is not None and kept.workload == made, "another one of the same name"

    caches.members.take(Removed(placed(newer, resourceVersion="140")))
    kept, _ = caches.keep(KEY, world, world.seen(member=placed(make_member(), resourceVersion="139")))
    assert kept is None and not caches.members.objects


def test_a_cache_does_not_remember_removals_for_ever() -> None:
    cache = Cache()
    for number in range(REMEMBERED + 1):
        cache.take(Removed(placed(make_member(), name=f"m{number}", resourceVersion=str(number + 10))))
    old = placed(make_member(), name="m0", resourceVersion="5")
    assert cache.keep((NAMESPACE, "m0"), old) == old
    assert cache.keep((NAMESPACE, "m1"), placed(make_member(), name="m1", resourceVersion="5")) is None


def test_an_object_without_a_name_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    cache, good = Cache(), {"metadata": {"name": "good", "namespace": "shop"}}
    nameless: list[Any] = [{"kind": "Member"}, {"kind": "Member", "metadata": None}, {"metadata": {}}, 7]
    assert cache.take(Listed((nameless[0], good, *nameless[1:]))) == [("shop", "good")]
    for event in (Upserted(nameless[0]), Removed(nameless[0])):
        assert cache.take(event) == []
    assert cache.objects == {("shop", "good"): good}
    assert caplog.messages[0].startswith("an object without metadata cannot be used, and is left out: KeyError")


def test_members_of_a_group_are_found_by_their_names() -> None:
    caches = Caches("exclave", "linkerd")
    for name, namespace in ((NAME, "shop"), ("web-blue-k7q2x-1", "shop"), (NAME, "pay")):
        caches.members.take(Upserted(placed(make_member(), name=name, namespace=namespace)))
    assert caches.members_of("shop", "web") == [("shop", NAME)]
    assert caches.members_of("shop", "web-blue") == [("shop", "web-blue-k7q2x-1")]
