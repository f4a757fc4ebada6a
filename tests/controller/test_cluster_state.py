"""The controller's state, from real objects of the sandbox's API server, and from the same ones damaged."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from exclave.api.definitions.manifests import admission_objects
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
from exclave.cluster.watch import Listed, Removed, Upserted
from exclave.controller.cache import Cache
from exclave.controller.cluster_state import ClusterState
from exclave.controller.mesh.publish import Published
from exclave.controller.policy.accept import GroupRights
from exclave.kit.formats.x509 import pem_of
from exclave_sandbox.pki import make_anchor, make_issuer
from support.issuers import with_extension
from support.mesh import mesh
from support.mesh_cluster import open_mesh_cluster

from .snapshots import NAME, NAMESPACE, make_lease, make_member, with_metadata

KEY = (NAMESPACE, NAME)
WEB = (NAMESPACE, "web")
NOW = time.time() + 3600  # the keys of the mesh are made later than this line runs, and are good for a year


@asynccontextmanager
async def open_state(folder: Path) -> AsyncIterator[ClusterState]:
    """All objects of a cluster with Linkerd and group `web`, before any member."""
    async with open_mesh_cluster(folder, controlled=False) as cluster:
        state, admin = ClusterState("exclave", "linkerd"), cluster.admin

        async def one(cache: Cache, resource: Resource, namespace: str, name: str) -> None:
            cache.apply(Upserted(await admin.send(get(resource, namespace, name))))

        async def every(cache: Cache, resource: Resource, namespace: str) -> None:
            cache.apply(Listed(tuple((await admin.send(list_all(resource, namespace)))["items"])))

        await one(state.config, CONFIG_MAPS, "linkerd", "linkerd-config")
        await one(state.anchors, CONFIG_MAPS, "linkerd", "linkerd-identity-trust-roots")
        await one(state.secret, SECRETS, "exclave", "exclave-issuer")
        await every(state.linkerd_slices, ENDPOINT_SLICES, "linkerd")
        await every(state.dns_slices, ENDPOINT_SLICES, "kube-system")
        await every(state.groups, WORKLOAD_GROUPS, NAMESPACE)
    yield state


async def test_the_mesh_is_read_from_linkerds_objects_and_reports_changes_only(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        assert state.refresh_mesh(NOW)
        found = state.mesh
        assert found is not None and state.issuer is not None
        assert found.anchors == mesh().anchor.pem and found.issuer == state.issuer.sha256
        assert found.control_plane == ControlPlane(("10.42.0.2",), ("10.42.0.2",), ("10.42.0.2",))
        assert not state.refresh_mesh(NOW)
        moved = [{**one, "endpoints": [{"addresses": ["10.42.0.9"]}]} for one in state.dns_slices.objects.values()]
        state.dns_slices.apply(Listed(tuple(moved)))
        assert state.refresh_mesh(NOW)
        assert state.mesh is not None and state.mesh.control_plane.dns == ("10.42.0.9",)
        state.dns_slices.apply(Listed(()))
        assert not state.refresh_mesh(NOW), "the last good addresses are kept"


async def test_a_digest_of_the_proxys_image_is_published_for_the_tag_that_linkerd_is_installed_with(
    tmp_path: Path,
) -> None:
    async with open_state(tmp_path) as state:
        state.refresh_mesh(NOW)
        assert state.mesh is not None
        image = state.mesh.linkerd.proxy_reference
        assert image == "cr.l5d.io/linkerd/proxy:edge-26.8.2"
        state.proxy_images = {"cr.l5d.io/linkerd/proxy:edge-26.8.1": f"sha256:{'0' * 64}"}
        assert not state.refresh_mesh(NOW), "it is of an image that will soon run nowhere"
        state.proxy_images[image] = f"sha256:{'1' * 64}"
        assert state.refresh_mesh(NOW)
        assert state.mesh.linkerd.proxy_reference == f"{image}@sha256:{'1' * 64}"
        assert not state.refresh_mesh(NOW)


async def test_an_issuer_that_becomes_valid_is_used_without_any_change(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        assert state.refresh_mesh(NOW - 7 * 86400)
        assert state.issuer is None
        assert state.mesh_fault == (
            "the controller can certify nobody yet: what the issuer signs would be refused by proxies: "
            "'CN=identity.linkerd.cluster.local' is not valid yet"
        )
        assert state.refresh_mesh(NOW)
        assert state.issuer is not None


ABSENT = {
    "config": "Linkerd's ConfigMap linkerd-config is missing",
    "anchors": "Linkerd's ConfigMap linkerd-identity-trust-roots is missing",
    "secret": "the issuer's Secret is missing",
}


@pytest.mark.parametrize(("absent", "reported"), ABSENT.items())
async def test_there_is_no_mesh_before_all_sources_were_read_and_the_reason_is_stated(
    tmp_path: Path, absent: str, reported: str
) -> None:
    async with open_state(tmp_path) as state:
        state.members.apply(Upserted(make_member()))
        found = getattr(state, absent).single()
        getattr(state, absent).apply(Listed(()))
        state.refresh_mesh(NOW)
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and snapshot.mesh is None
        assert snapshot.mesh_fault == f"the controller can certify nobody yet: {reported}"
        getattr(state, absent).apply(Upserted({**found, "data": {}}))
        assert state.refresh_mesh(NOW), "whoever waits must be told"
        assert reported not in (state.mesh_fault or "")
        getattr(state, absent).apply(Upserted(found))
        assert state.refresh_mesh(NOW) and state.mesh_fault is None


DAMAGE = {
    "config": (
        {"data": 7},
        "config, the last good reading is kept: ConfigMap linkerd-config: values: YAML with a mapping was expected",
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
async def test_a_source_that_cannot_be_read_is_logged_once_and_its_last_good_reading_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    damage, text = DAMAGE[source]
    async with open_state(tmp_path) as state:
        state.refresh_mesh(NOW)
        assert state.issuer is not None
        good, sha256, cache = state.mesh, state.issuer.sha256, getattr(state, source)
        found = cache.single()
        for number in range(3):
            cache.apply(Upserted({**found, **damage}))
            assert state.refresh_mesh(NOW) == (number == 0), "groups report it once"
        assert state.mesh == good and state.issuer.sha256 == sha256
        (logged,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert logged == text
        assert [text.endswith(fault) for fault in state.mesh_faults] == [True]
        cache.apply(Removed(found))
        assert state.refresh_mesh(NOW) and state.mesh_faults == (), "the fault goes with its object"
        assert state.mesh == good and state.issuer.sha256 == sha256


async def test_a_wrong_key_of_linkerds_settings_stops_neither_new_anchors_nor_a_new_issuer(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        state.refresh_mesh(NOW)
        assert state.mesh is not None and state.mesh.linkerd.opaque_ports.startswith("25,")
        good, config, roots = state.mesh.linkerd, state.config.single(), state.anchors.single()
        assert config is not None and roots is not None
        values = yaml.safe_load(config["data"]["values"])
        values["proxy"] |= {"opaquePorts": ["mysql"], "defaultInboundPolicy": "audit"}
        state.config.apply(Upserted({**config, "data": {"values": yaml.safe_dump(values)}}))
        anchors = mesh().anchor.pem + make_anchor().pem
        state.anchors.apply(Upserted({**roots, "data": {"ca-bundle.crt": anchors}}))
        assert state.refresh_mesh(NOW)
        assert (state.mesh.anchors, state.mesh.linkerd) == (anchors, replace(good, inbound_policy="audit"))
        assert state.mesh_faults == (
            "ConfigMap linkerd-config: values.proxy.opaquePorts: a text with commas was expected, found list",
        )
        state.config.apply(Upserted(config))
        assert state.refresh_mesh(NOW) and state.mesh_faults == ()


async def test_an_issuer_whose_leaves_proxies_refuse_never_replaces_a_good_one(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        state.refresh_mesh(NOW)
        good, secret = state.trust, state.secret.single()
        assert good is not None and secret is not None
        made = make_issuer(mesh().anchor)
        names = x509.NameConstraints([x509.DNSName("example.org")], None)
        for extension, fault in (
            (names, "does not permit the name 'sample.sample.serviceaccount.identity.linkerd.cluster.local'"),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), "is not for both TLS servers and TLS clients"),
        ):
            pem = pem_of(with_extension(made.certificate, extension, mesh().anchor.key))
            state.secret.apply(Upserted({**secret, "data": as_data({"tls.crt": pem, "tls.key": made.key_pem})}))
            assert state.refresh_mesh(NOW) and state.trust == good
            assert fault in state.mesh_faults[0]
        state.secret.apply(Upserted({**secret, "data": as_data({"tls.crt": made.pem, "tls.key": made.key_pem})}))
        assert state.refresh_mesh(NOW) and state.mesh_faults == ()
        assert state.issuer is not None and state.issuer.certificate == made.certificate


def as_data(texts: dict[str, str]) -> dict[str, str]:
    return {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}


async def test_of_a_group_that_cannot_be_read_the_last_good_reading_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_state(tmp_path) as state:
        good = state.group(WEB)
        assert good is not None and good.spec.networks == ("10.77.0.0/24",)
        found = state.groups.objects[WEB]
        state.groups.apply(Upserted({**found, "spec": {**found["spec"], "certificateLifetime": "1s"}}))
        assert state.group(WEB) == good
        assert caplog.messages[-1] == (
            "WorkloadGroup shop/web, the last good reading is kept: certificateLifetime: at least 10s, found 1s"
        )
        state.groups.apply(Removed(found))
        assert state.group(WEB) is None
        state.groups.apply(Upserted({**found, "spec": {}}))
        assert state.group(WEB) is None, "a group of the same name has no older reading"


async def test_a_snapshot_of_a_member_has_all_that_was_observed(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        state.refresh_mesh(NOW)
        assert state.snapshot(KEY, NOW) is None
        state.members.apply(Upserted(make_member()))
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None
        assert snapshot.group == state.group(WEB) and snapshot.mesh == state.mesh
        assert not (snapshot.has_lease or snapshot.has_heartbeat or snapshot.live or snapshot.has_account)
        state.leases.apply(Upserted(make_lease(None)))
        state.liveness.observe(KEY, NOW)
        state.published[WEB] = Published("d" * 64, frozenset({8080}))
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and snapshot.has_lease and not snapshot.has_heartbeat
        assert (snapshot.settings_digest, snapshot.settings_ports) == ("d" * 64, {8080})


async def test_a_member_whose_name_is_none_of_ours_has_no_group(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        state.members.apply(Upserted(with_metadata(make_member(), name="web")))
        snapshot = state.snapshot((NAMESPACE, "web"), NOW)
        assert snapshot is not None and snapshot.group is None


async def test_the_interval_grows_with_the_fleet_and_a_member_has_the_longer_one_until_it_has_loaded() -> None:
    state = ClusterState("exclave", "linkerd")
    state.published[WEB] = Published("new")
    for number in range(1000):
        state.members.apply(Upserted(with_metadata(make_member(), name=f"web-k7q2x-{number}")))
    assert state.refresh_heartbeat() and state.heartbeat == 20.0
    state.members.apply(Listed((make_member(),)))
    state.leases.apply(Upserted(make_lease(None)))
    state.liveness.observe(KEY, NOW)
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    state.liveness.refresh(NOW)
    assert state.refresh_heartbeat() and state.heartbeat == 10.0
    assert state.liveness.refresh(NOW + 55) == set(), "it may still beat every 20 s"
    state.members.apply(Upserted(make_member(loaded={"settings": "new"})))
    state.refresh_heartbeat()
    assert state.liveness.refresh(NOW + 55) == {KEY}


async def test_what_is_wrong_with_the_admission_policies_is_noticed_when_it_changes() -> None:
    state, wanted = ClusterState("exclave", "linkerd"), admission_objects("exclave")
    assert state.refresh_admission(wanted) and state.admission_fault is not None
    for one in wanted:
        cache = state.admission[f"{one['kind']} {one['metadata']['name']}"] = Cache()
        cache.apply(Upserted(one))
    assert state.refresh_admission(wanted) and state.admission_fault is None
    assert not state.refresh_admission(wanted)


async def test_a_change_of_claims_concerns_the_neighbours(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        other = (NAMESPACE, "web-zzzzz-1")
        for key in (KEY, other):
            member = with_metadata(make_member(), name=key[1])
            assert state.refresh_members(state.members.apply(Upserted(member))) == set(), "it decides nothing yet"
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and snapshot.neighbours == ()
        state.leases.apply(Upserted({**make_lease(None), "metadata": {"name": other[1], "namespace": NAMESPACE}}))
        state.liveness.observe(other, NOW)
        state.leases.apply(Upserted({**make_lease(), "metadata": {"name": other[1], "namespace": NAMESPACE}}))
        state.liveness.observe(other, NOW)
        state.liveness.mark_live([other])
        assert state.refresh_members([other]) == {KEY}, "it lives"
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None
        (found,) = snapshot.neighbours
        assert (found.name, found.address, found.live, found.listed_addresses) == (
            other[1],
            "10.77.0.20",
            True,
            frozenset(),
        )
        request = create(EXTERNAL_WORKLOADS, NAMESPACE, {"spec": {"workloadIPs": [{"ip": "10.77.0.20"}]}})
        assert state.reserve_address(other, request) == {KEY}
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and snapshot.neighbours[0].owns("10.77.0.20"), "before it is answered"
        assert state.reserve_address(other, None) == {KEY}
        workload = {"metadata": {"name": other[1], "namespace": NAMESPACE}, **(request.body or {})}
        assert state.refresh_members(state.workloads.apply(Upserted(workload))) == {KEY}
        snapshot = state.snapshot(other, NOW)
        assert snapshot is not None
        assert state.apply_result(other, snapshot, snapshot) == (snapshot, set()), "nothing that others see has changed"
        assert state.apply_result(other, snapshot, None) == (None, {KEY})
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and snapshot.neighbours == ()


def test_the_time_without_ports_begins_when_they_are_first_missing() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))

    def emptied_at(ports: list[int], now: float) -> float | None:
        metadata = {"name": NAME, "namespace": NAMESPACE}
        state.workloads.apply(Upserted({"metadata": metadata, "spec": {"ports": [{"port": port} for port in ports]}}))
        snapshot = state.snapshot(KEY, now)
        assert snapshot is not None
        return snapshot.emptied_at

    assert emptied_at([8080], NOW) is None
    assert emptied_at([], NOW + 1) == NOW + 1
    assert emptied_at([], NOW + 9) == NOW + 1
    assert emptied_at([8080], NOW + 10) is None
    assert emptied_at([], NOW + 11) == NOW + 11


def test_the_result_of_a_transition_counts_before_the_watches_report_it() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    workload = {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {}}
    state.apply_result(KEY, snapshot, snapshot.replaced(workload=workload, has_account=True, account_deleted=True))
    again = state.snapshot(KEY, NOW)
    assert again is not None
    assert again.workload == workload and again.has_account and again.account_deleted
    state.apply_result(KEY, again, again.replaced(workload=None))
    assert state.workloads.objects == {}
    state.apply_result(KEY, again, None)
    assert state.snapshot(KEY, NOW) is None
    state.members.apply(Upserted(make_member()))
    anew = state.snapshot(KEY, NOW)
    assert anew is not None and not anew.has_account and not anew.account_deleted, "another of the same name"


def renamed(uid: str, **spec: Any) -> Object:
    """Another Member of the same name."""
    return with_metadata(make_member(**spec), uid=uid)


@pytest.mark.parametrize("is_removal_reported", [True, False])
def test_another_member_of_the_same_name_has_nothing_of_the_first(is_removal_reported: bool) -> None:
    state = ClusterState("exclave", "linkerd")
    state.refresh_members(state.members.apply(Upserted(renamed("first"))))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    state.apply_result(KEY, snapshot, snapshot.replaced(has_account=True, account_deleted=True))
    if is_removal_reported:  # and the answer to the last patch was lost, so that no step ended the Member
        state.refresh_members(state.members.apply(Removed(renamed("first"))))
    state.refresh_members(state.members.apply(Listed((renamed("second"),))))
    second = state.snapshot(KEY, NOW)
    assert second is not None and not second.has_account and not second.account_deleted


def test_what_was_created_for_a_member_is_forgotten_when_it_is_removed() -> None:
    """Also if the same object comes back: memory does not grow with deleted Members."""
    state = ClusterState("exclave", "linkerd")
    for _ in range(2):
        state.refresh_members(state.members.apply(Upserted(make_member())))
        snapshot = state.snapshot(KEY, NOW)
        assert snapshot is not None and not snapshot.has_account and not snapshot.account_deleted
        state.apply_result(KEY, snapshot, snapshot.replaced(has_account=True, account_deleted=True))
        state.refresh_members(state.members.apply(Removed(make_member())))


def test_an_account_that_was_found_deleted_is_no_longer_remembered() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    made, _ = state.apply_result(KEY, snapshot, snapshot.replaced(has_account=True))
    assert made is not None
    state.apply_result(KEY, made, made.replaced(has_account=False))
    again = state.snapshot(KEY, NOW)
    assert again is not None and not again.has_account


def test_the_end_of_a_member_does_not_remove_another_of_its_name_that_a_watch_has_reported() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(renamed("first")))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    state.members.apply(Removed(renamed("first")))
    state.members.apply(Upserted(renamed("second")))
    assert state.apply_result(KEY, snapshot, None) == (None, set())
    assert state.members.objects[KEY] == renamed("second")


def test_the_result_of_a_transition_does_not_count_for_another_member_of_the_name() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(renamed("first")))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    newer = with_metadata(renamed("second"), resourceVersion="20")
    state.members.apply(Upserted(newer))
    sealed = snapshot.replaced(sealed="eyJ", has_account=True)
    assert state.apply_result(KEY, snapshot, sealed) == (None, {KEY}), "the second one is looked at anew"
    second = state.snapshot(KEY, NOW)
    assert second is not None and second.member == newer and not second.has_account


def test_a_deleted_lease_is_dropped_before_its_watch_reports_it() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(renamed("first")))
    state.leases.apply(Upserted(make_lease()))
    state.liveness.observe(KEY, NOW)
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None and snapshot.has_lease and snapshot.has_heartbeat
    state.apply_result(KEY, snapshot, snapshot.replaced(has_lease=False))
    state.apply_result(KEY, snapshot, None)
    state.members.apply(Upserted(renamed("second")))
    second = state.snapshot(KEY, NOW)
    assert second is not None and not second.has_lease and not second.has_heartbeat


def test_the_time_without_ports_of_another_external_workload_is_counted_anew() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(make_member()))
    for uid, now in (("first", NOW), ("second", NOW + 60)):
        metadata = {"name": NAME, "namespace": NAMESPACE, "uid": uid}
        state.workloads.apply(Upserted({"metadata": metadata, "spec": {"ports": []}}))
        snapshot = state.snapshot(KEY, now)
        assert snapshot is not None and snapshot.emptied_at == now


async def test_another_group_of_the_same_name_has_no_older_reading(tmp_path: Path) -> None:
    async with open_state(tmp_path) as state:
        assert state.group(WEB) is not None
        found = state.groups.objects[WEB]
        state.groups.apply(Listed(({**with_metadata(found, uid="another"), "spec": {}},)))
        assert state.group(WEB) is None
        assert f"WorkloadGroup {WEB[0]}/{WEB[1]}" in state.faults
        state.groups.apply(Listed(()))
        assert state.group(WEB) is None and not state.faults


def test_a_late_response_replaces_nothing_newer_from_a_watch() -> None:
    state = ClusterState("exclave", "linkerd")
    state.members.apply(Upserted(with_metadata(make_member(), resourceVersion="9")))
    workload = {"metadata": {"name": NAME, "namespace": NAMESPACE, "resourceVersion": "8"}, "spec": {}}
    state.workloads.apply(Upserted(workload))
    snapshot = state.snapshot(KEY, NOW)
    assert snapshot is not None
    newer = with_metadata(make_member(serving=True), resourceVersion="101")
    state.members.apply(Upserted(newer))
    answered = snapshot.replaced(
        member=with_metadata(make_member(), resourceVersion="99"), workload={**workload}, signed=None
    )
    last_good, _ = state.apply_result(KEY, snapshot, answered)
    assert last_good is not None and last_good.view.serving and state.members.objects[KEY] == newer

    state.workloads.apply(Removed(with_metadata(workload, resourceVersion="120")))
    last_good, _ = state.apply_result(
        KEY, snapshot, snapshot.replaced(workload=with_metadata(workload, resourceVersion="110"))
    )
    assert last_good is not None and last_good.workload is None and not state.workloads.objects
    made = with_metadata(workload, resourceVersion="130")
    last_good, _ = state.apply_result(KEY, snapshot, snapshot.replaced(workload=made))
    assert last_good is not None and last_good.workload == made, "another one of the same name"

    state.members.apply(Removed(with_metadata(newer, resourceVersion="140")))
    last_good, _ = state.apply_result(
        KEY, snapshot, snapshot.replaced(member=with_metadata(make_member(), resourceVersion="139"))
    )
    assert last_good is None and not state.members.objects


def test_members_of_a_group_are_found_by_their_names() -> None:
    state = ClusterState("exclave", "linkerd")
    for name, namespace in ((NAME, "shop"), ("web-blue-k7q2x-1", "shop"), (NAME, "pay")):
        state.members.apply(Upserted(with_metadata(make_member(), name=name, namespace=namespace)))
    assert state.members_of("shop", "web") == [("shop", NAME)]
    assert state.members_of("shop", "web-blue") == [("shop", "web-blue-k7q2x-1")]


def test_groups_that_are_gone_are_forgotten() -> None:
    """Whoever may make groups may make and delete them for ever."""
    state = ClusterState("exclave", "linkerd")
    for number in range(50):
        key = (f"n{number}", "web")
        metadata = {"namespace": key[0], "name": "web", "uid": str(number)}
        for spec in ({"networks": ["10.77.0.0/24"]}, {"networks": ["nonsense"]}):
            state.groups.apply(Upserted({"metadata": metadata, "spec": spec}))
            state.groups_changed({key[0]})
            state.group(key)
            state.accepted(key)
        state.store_rights(key[0], GroupRights(()))
        state.set_settings_fault(key, "a right is missing")
        state.accepted(key)
        assert state.faults and state.refused_groups == 1
        state.groups.apply(Removed({"metadata": metadata}))
        state.groups_changed({key[0]})
        state.set_settings_fault(key, None)
        state.forget_group(key)
    assert state.readable_groups() == [] and not state.faults
    kept = {name: value for name, value in vars(state).items() if isinstance(value, dict) and value}
    assert kept == {}
