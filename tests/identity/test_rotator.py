"""Certificates of a member in virtual time: a real MemberClient over a store, and real signatures."""

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.api.csr import make_csr
from exclave.api.identity import MeshIdentity
from exclave.api.member import CERTIFIED, Condition, Issued, make_condition, view_member
from exclave.api.requests import MEMBERS
from exclave.api.settings import render_settings
from exclave.ending import Ending
from exclave.identity.rotator import (
    describe_foreign,
    foreign_keys,
)
from exclave.identity.storage import NEXT_KEY, SVID, generate_key, load_next_key, load_svid, store_next_key, store_svid
from exclave.kit.formats.times import rfc3339
from exclave.kit.formats.x509 import fingerprint
from exclave.member.record import store_settings
from exclave_sandbox.pki import make_anchor, make_issuer
from support.mesh import MEMBER, NAMESPACE, mesh

from .rotator_world import DAY, World, serial


@pytest.mark.parametrize(
    ("issued", "own", "foreign"),
    [
        pytest.param("", "a", "", id="nothing was signed yet"),
        pytest.param("abc", "abc", "", id="all of them are ours"),
        pytest.param("aXb", "ab", "X", id="one between ours is not"),
        pytest.param("aX", "a", "X", id="the newest one is not"),
        pytest.param("aXYb", "ab", "XY", id="two are not"),
        pytest.param("la", "a", "", id="one before our first key: a join may have lost it"),
        pytest.param("VWXYZ", "a", "VWXYZ", id="so many that none of ours is left"),
        pytest.param("XY", "", "", id="without own keys nothing is reported"),
    ],
)
def test_keys_of_others(issued: str, own: str, foreign: str) -> None:
    found = foreign_keys([Issued(f"{place}", key, "t") for place, key in enumerate(issued)], set(own))
    assert "".join(one.key_sha256 for one in found) == foreign


def test_they_are_described_with_serial_and_time() -> None:
    assert describe_foreign(()) is None
    assert describe_foreign([Issued("7a", "k", "2027-01-15T08:00:00Z"), Issued("7b", "k", "2027-01-15T09:00:00Z")]) == (
        "certificates were signed as this member for keys that this machine does not have: 7a at 2027-01-15T08:00:00Z, "
        "7b at 2027-01-15T09:00:00Z"
    )


async def test_the_first_certificate_is_stored_before_it_is_published(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        svid = await identity.svid.wait_for(lambda svid: svid is not None)
        assert svid is not None
        found = load_svid(world.state)
        assert found is not None and found[0].startswith("-----BEGIN CERTIFICATE-----")
        assert found[3] == identity.renew_at.value == found[2] + 0.5 * (svid.not_after - found[2])
        assert load_next_key(world.state) is None
        assert identity.problem.value is None


@pytest.mark.slow
async def test_it_is_renewed_with_a_fresh_key_when_it_is_due_and_not_before(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        first, due = identity.svid.value, identity.renew_at.value
        await serial(identity, 2)
        second = identity.svid.value
        assert first is not None and second is not None and due is not None
        assert due <= world.now() < due + 60
        assert first.key != second.key
        assert identity.renewals == {"ok": 2}


@pytest.mark.slow
async def test_without_a_control_plane_it_starts_from_disk_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        before, due = identity.svid.value, identity.renew_at.value
    world.cluster.away.set(True)
    async with world.identity(draw=lambda: 0.9) as identity:
        assert identity.svid.value == before
        assert identity.renew_at.value == due, "drawn once for a certificate, not at each start"
        await trio.sleep(0.55 * DAY)
        assert identity.svid.value == before
        assert identity.problem.value == "the controller has signed nothing for 60 s"
        assert identity.renewals["failed"] > 0 and identity.renewals["ok"] == 0
        world.cluster.away.set(False)
        await serial(identity, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert identity.problem.value is None


async def test_an_unusable_certificate_on_disk_is_logged_and_replaced(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
    world.jumped += 2 * DAY
    async with world.identity() as identity:
        assert identity.svid.value is None
        assert "the certificate on disk is not usable: the certificate expired" in caplog.text
        await serial(identity, 2)


async def test_a_wall_clock_that_jumps_past_the_time_is_noticed_within_a_nap(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        world.jumped += 0.9 * DAY  # the machine was suspended
        began = trio.current_time()
        await serial(identity, 2)
        assert trio.current_time() - began <= 31


async def test_a_csr_under_way_is_asked_for_again_after_a_restart_and_signed_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity(signs=False) as identity:
        await identity.problem.wait_for(lambda problem: problem is not None)
        under_way = load_next_key(world.state)
        found = world.cluster.find(MEMBERS, NAMESPACE, MEMBER)
        assert found is not None and under_way is not None
        assert view_member(found).csr == under_way[1]
    async with world.identity() as identity:
        await serial(identity, 1)
    assert world.signed == [under_way[1]]


@pytest.mark.slow
async def test_a_key_left_by_a_crash_is_not_used_as_a_new_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
    found = load_svid(world.state)
    assert found is not None
    store_next_key(world.state, found[1], world.signed[0])
    async with world.identity() as identity:
        await serial(identity, 2)
        assert identity.renewals == {"ok": 1}, "the same one taken again would count as a renewal"


async def test_a_key_under_way_that_is_served_already_is_forgotten_at_the_start(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await identity.svid.wait_for(lambda svid: svid is not None)
    found = load_svid(world.state)
    assert found is not None
    store_next_key(world.state, found[1], make_csr(found[1], MEMBER))
    async with world.identity():
        assert load_next_key(world.state) is None


@pytest.mark.slow
async def test_a_certificate_that_the_proxy_would_refuse_leaves_the_last_good_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        good = load_svid(world.state)
        world.identity_given = replace(world.settings.identity, service_account="other")
        problem = await identity.problem.wait_for(lambda problem: problem is not None)
        assert problem == (
            "the names web.shop.serviceaccount.identity.linkerd.cluster.local, spiffe://cluster.local/ns/shop/sa/web "
            "were expected in this order, found other.shop.serviceaccount.identity.linkerd.cluster.local, "
            "spiffe://cluster.local/ns/shop/sa/other"
        )
        assert f"certificate not renewed, the last good one stays in use: {problem}" in caplog.text
        assert identity.svid.value is not None and identity.svid.value.serial == 1
        now = load_svid(world.state)
        assert good is not None and now is not None and now[0] == good[0]
        world.identity_given = None
        await identity.problem.wait_for(lambda problem: problem is None)
        assert identity.svid.value.serial == len(world.signed)
        assert len(set(world.signed)) == len(world.signed), "each try has a fresh key"


async def test_while_there_is_none_bad_ones_do_not_make_a_storm_of_signatures(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    world.identity_given = replace(world.settings.identity, service_account="other")
    async with world.identity() as identity:
        await trio.sleep(600)
        assert identity.svid.value is None
        assert len(world.signed) == identity.renewals["failed"] < 20


@pytest.mark.slow
async def test_a_new_issuer_brings_renewal_forward_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(tmp_path)
    async with world.identity(draw=lambda: 0.5) as identity:
        await serial(identity, 1)
        world.issuer = make_issuer(mesh().anchor)
        changed = world.now()
        world.publish(replace(world.settings, issuer=fingerprint(world.issuer.certificate)))
        await serial(identity, 2)
        assert 300 <= world.now() - changed < 400, "half of ten minutes, as drawn"
        assert identity.svid.value is not None
        assert identity.svid.value.issuer_sha256 == world.settings.issuer
        await trio.sleep(0.4 * DAY)
        assert len(world.signed) == 2


@pytest.mark.parametrize("obeys", [True, False], ids=["the controller signs it", "the controller signs the former one"])
async def test_a_shorter_lifetime_is_asked_for_at_once_and_once(
    obeys: bool, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        await trio.sleep(60)
        assert len(world.signed) == 1
        changed = world.now()
        world.lifetime = 3600.0 if obeys else DAY
        world.publish(replace(world.settings, group=replace(world.settings.group, certificate_lifetime=3600.0)))
        await serial(identity, 2)
        assert world.now() - changed < 60
        assert identity.svid.value is not None
        assert identity.svid.value.not_after - world.now() <= world.lifetime
        await trio.sleep(1000)
        assert len(world.signed) == 2


async def test_a_longer_lifetime_waits_for_the_next_renewal(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        world.publish(replace(world.settings, group=replace(world.settings.group, certificate_lifetime=2 * DAY)))
        await trio.sleep(0.4 * DAY)
        assert len(world.signed) == 1


async def test_other_names_are_asked_for_at_once(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        changed = world.now()
        world.publish(replace(world.settings, group=replace(world.settings.group, service_account="shopfront")))
        await serial(identity, 2)
        assert world.now() - changed < 60
        assert identity.svid.value is not None
        assert identity.svid.value.spiffe_id == "spiffe://cluster.local/ns/shop/sa/shopfront"


@pytest.mark.parametrize(
    ("ending", "kept"),
    [
        pytest.param(Ending.LEAVE, False, id="leaving deletes key and certificate"),
        pytest.param(Ending.STOP, True, id="stopping removes nothing"),
        pytest.param(Ending.HAND_OVER, True, id="handing over removes nothing"),
    ],
)
async def test_ending(tmp_path: Path, autojump_clock: trio.testing.MockClock, ending: Ending, kept: bool) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        key, csr = load_svid(world.state)[1], world.signed[0]  # type: ignore[index]
        store_next_key(world.state, key, csr)
        world.endings.ask_nowait(ending)
    assert [(world.state / name).exists() for name in (SVID, NEXT_KEY)] == [kept, kept]


@pytest.mark.slow
async def test_a_certificate_for_a_foreign_key_is_reported_also_by_the_next_agent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 2)
        assert identity.foreign.value is None
    told = (
        f"certificates were signed as this member for keys that this machine does not have: 3 at {rfc3339(world.now())}"
    )
    world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"spec": {"csr": make_csr(generate_key(), MEMBER)}})
    async with world.identity() as identity:
        assert await identity.foreign.wait_for(lambda text: text is not None) == told
        assert told in [record.message for record in caplog.records if record.levelname == "ERROR"]
        await serial(identity, 4)
    async with world.identity(signs=False) as identity:
        assert await identity.foreign.wait_for(lambda text: text is not None) == told
    async with world.identity() as identity:
        await serial(identity, 8)
        assert identity.foreign.value is None, "the status remembers five"


async def test_a_missing_signature_is_reported_with_the_controllers_reason(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity(signs=False) as identity:
        assert await identity.problem.wait_for(lambda text: text is not None) == (
            "the controller has signed nothing for 60 s"
        )
        told = Condition("Certified", False, "IssuerExpired", "no certificate is signed: the issuer has expired")
        status = {"conditions": [make_condition(told, world.now())]}
        world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": status}, "status")
        assert await identity.problem.wait_for(lambda text: text == told.message)


@pytest.mark.slow
async def test_a_certificate_of_ours_that_does_not_serve_is_no_strangers(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        world.identity_given = MeshIdentity("other", NAMESPACE, "linkerd", "cluster.local")
        await identity.problem.wait_for(lambda problem: problem is not None)
        world.identity_given = None
        await serial(identity, 3)
        assert identity.foreign.value is None
    async with world.identity(signs=False) as identity:
        await trio.sleep(1)
        assert identity.foreign.value is None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder `state` of 64 KiB in it."""
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(state)], check=True)


async def test_a_full_disk_leaves_the_old_certificate_serving_until_there_is_room(
    tiny_disk: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tiny_disk)
    async with world.identity() as identity:
        await serial(identity, 1)
        before = load_svid(world.state)
        filler = world.state / "filler"
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        problem = await identity.problem.wait_for(lambda problem: problem is not None)
        assert problem == f"cannot write {world.state}/next.key: No space left on device"
        after = load_svid(world.state)
        assert before is not None and after is not None and after[0] == before[0]
        assert identity.svid.value is not None and identity.svid.value.serial == 1
        filler.unlink()
        await serial(identity, 2)
        assert not list(world.state.glob(".svid*")), "no half-written file is left"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_on_a_read_only_disk_the_certificate_serves_and_is_renewed_once_it_is_writable(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
    found = load_svid(world.state)
    assert found is not None
    store_next_key(world.state, found[1], world.signed[0])  # as after a crash: to be removed at the start
    with read_only(world.state):
        async with world.identity() as identity:
            assert identity.svid.value is not None
            assert identity.svid.value.serial == 1
            problem = await identity.problem.wait_for(lambda problem: problem is not None)
            assert problem == f"cannot write {world.state}/next.key: Read-only file system"
            assert identity.svid.value.serial == 1
    async with world.identity() as identity:
        await serial(identity, 2)


async def test_no_key_is_ever_logged(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = World(tmp_path)
    async with world.identity() as identity:
        await serial(identity, 1)
        assert "PRIVATE KEY" not in caplog.text
        assert "certificate 1: 86400 s, renewal in 43200 s" in caplog.text


async def test_anchors_that_the_stored_certificate_does_not_lead_to_make_it_none(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    leaf = mesh().leaf()
    store_svid(world.state, mesh().chain(leaf), leaf.key, world.start, world.start + DAY)
    anchor = make_anchor()
    world.issuer = make_issuer(anchor)
    settings = replace(world.settings, anchors=anchor.pem, issuer=fingerprint(world.issuer.certificate))
    store_settings(world.state, render_settings(settings))
    world.publish(settings)
    async with world.identity() as identity:
        assert identity.svid.value is None
        assert "does not lead to a trust anchor of the mesh that is valid" in caplog.text
        await serial(identity, 1)


async def test_after_a_refusal_another_key_is_asked_for(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Such as for a machine that was set back to a snapshot, and asks again for a key of that time."""
    world = World(tmp_path)
    refused = make_condition(Condition(CERTIFIED, False, "RequestRefused", "csr: another key, please"), world.now())
    async with world.identity(signs=False) as identity:
        first = await asked(world)
        world.cluster.change(MEMBERS, NAMESPACE, MEMBER, {"status": {"conditions": [refused]}}, "status")
        assert await identity.problem.wait_for(lambda problem: problem is not None) == "csr: another key, please"
        assert await asked(world, first) != first


async def asked(world: World, before: str = "") -> str:
    """The CSR in the Member, when there is another than before."""
    async with world.cluster.watch(MEMBERS, NAMESPACE, MEMBER) as events:
        async for _ in events:
            csr = view_member(world.cluster.find(MEMBERS, NAMESPACE, MEMBER) or {}).csr
            if csr not in ("", before):
                return csr
    raise AssertionError
