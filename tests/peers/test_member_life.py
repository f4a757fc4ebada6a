"""What becomes of members on real API servers: clones, silence, another address, a lapsed credential, a missing guard.

The parts of an agent that talk to the cluster, and the real controller, whose seconds are a fifth of real ones. On the
newest server alone, since what happens here is not the API's.
"""

import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jws

from exclave.api.csr import make_csr
from exclave.api.join_token import encode_token
from exclave.api.member import READY, read_conditions, view_member
from exclave.api.requests import (
    EVENTS,
    EXTERNAL_WORKLOADS,
    LEASES,
    MEMBERS,
    SERVICE_ACCOUNTS,
    VALIDATING_ADMISSION_POLICY_BINDINGS,
    Object,
    create,
    delete,
    get,
    list_all,
    patch,
)
from exclave.cluster.credential import parse_credential, render_credential
from exclave.cluster.member_cluster import open_member_cluster
from exclave.cluster.watch import Upserted
from exclave.config import Config, MemberConfig, Paths
from exclave.daemon.address_move import AddressMover
from exclave.ending import EndingSwitch
from exclave.errors import ExclaveError, Fault
from exclave.identity.rotator import Identity, open_identity
from exclave.identity.storage import load_svid
from exclave.join import join as steps
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.member.client import MemberClient, open_member
from exclave.member.record import MembershipRecord, adopt_join, load_membership
from exclave.member.state import Standing
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.fake_machines import IDS, Machine, become, gone, seen
from peers.kubernetes import AVAILABLE
from support.admin import admin_of
from support.cluster_thread import ClusterThread
from support.figures import add_figure
from support.mesh_cluster import MeshCluster

from .cluster_threads import cluster_thread_on
from .test_stolen import NOT_P256, ports_of, request, rsa

pytestmark = pytest.mark.parametrize("server", AVAILABLE[:1], indirect=True)

SLOTS = itertools.count(1)
FLEETING, FORGETFUL = "fleeting", "forgetful"
PORTS = [{"name": "http", "port": 8080}]


@pytest.fixture(scope="module")
def thread(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterThread]:
    """With a group whose certificates are short, and one that forgets soon."""
    groups: dict[tuple[str, str], dict[str, Any]] = {
        (NAMESPACE, FLEETING): {"networks": ["10.78.0.0/24"], "ports": PORTS, "certificateLifetime": "30s"},
        (NAMESPACE, FORGETFUL): {"networks": ["10.79.0.0/24"], "ports": PORTS, "forgetAfter": "60s"},
    }

    async def read_hash() -> str:
        return f"{next(IDS):016x}"

    with mock.patch.object(steps, "read_machine_hash", read_hash):
        with cluster_thread_on(server, tmp_path_factory.mktemp("thread"), groups) as found:
            yield found


def named() -> tuple[str, int]:
    slot = next(SLOTS)
    return f"l{slot:04d}", slot


async def guest(thread: ClusterThread, group: str = "web", network: str = "10.77.0") -> Machine:
    """A machine that has joined, lives and serves."""
    token_id, slot = named()
    token = await thread.cluster.join_token(token_id=token_id, group=group)
    machine = await become(thread, token, f"{network}.{slot}")
    thread.nursery.start_soon(machine.live)
    await machine.serve()
    return machine


@dataclass
class Silent:
    """A machine whose heartbeats have stopped, and every ExternalWorkload of it that was seen since."""

    machine: Machine
    seen: list[Object]
    stopped_at: float
    gone_at: float = 0.0


@pytest.fixture(scope="module", autouse=True)
def silent(thread: ClusterThread) -> dict[str, Silent]:
    """Two that fall silent when the module begins, since death takes its time: of two groups."""

    async def fall_silent(_: MeshCluster) -> dict[str, Silent]:
        found = {}
        for group, network in (("web", "10.77.0"), (FORGETFUL, "10.79.0")):
            machine = await guest(thread, group, network)
            ready = {"type": READY, "status": "True", "reason": "Ready", "message": ""}
            await machine.send(patch(EXTERNAL_WORKLOADS, *machine.place, {"status": {"conditions": [ready]}}, "status"))
            found[group] = Silent(machine, [], thread.now())
            thread.nursery.start_soon(follow, found[group])
            machine.stopped.cancel()
        return found

    async def follow(one: Silent) -> None:
        async with thread.cluster.admin.watch(EXTERNAL_WORKLOADS, *one.machine.place) as events:
            async for event in events:
                if isinstance(event, Upserted):
                    one.seen.append(event.object)
                else:
                    one.gone_at = thread.now()

    return thread.run(fall_silent)


@dataclass
class Agent:
    """As much of one as talks to the cluster."""

    config: Config
    record: MembershipRecord
    member: MemberClient
    identity: Identity


async def joined(
    thread: ClusterThread, folder: Path, address: str, group: str = "web"
) -> tuple[Config, MembershipRecord]:
    """The real join."""
    config = Config(Paths(folder / "state", folder / "run"), MemberConfig(address))
    token = await thread.cluster.join_token(token_id=named()[0], group=group)
    return config, await steps.join(encode_token(token), config, thread.now, lambda _: None)


@asynccontextmanager
async def agent(thread: ClusterThread, config: Config) -> AsyncIterator[Agent]:
    """What runs of an agent; it is ended by a crash, which undoes nothing."""
    endings, record = EndingSwitch(), load_membership(config.paths.state)
    assert record is not None
    state = config.paths.state
    async with (
        open_member_cluster(
            record.access, state, record.accounts_namespace, record.account, endings, thread.now
        ) as cluster,
        open_member(record, config, cluster, endings, thread.now) as member,
    ):
        async with open_identity(state, member, endings, thread.now) as identity:
            yield Agent(config, record, member, identity)


NOT_OURS = "certificates were signed as this member for keys that this machine does not have: "


def test_two_agents_on_one_copied_folder_are_both_told_and_so_is_the_admin(
    thread: ClusterThread, server: Server, tmp_path: Path
) -> None:
    async def clone(cluster: MeshCluster) -> None:
        config, record = await joined(thread, tmp_path / "first", "10.78.0.1", FLEETING)
        shutil.copytree(config.paths.state, tmp_path / "second/state")
        other = replace(config, paths=Paths(tmp_path / "second/state", tmp_path / "second/run"))
        other.paths.runtime.mkdir()
        began = thread.now()
        with trio.fail_after(240):
            async with agent(thread, config) as first, agent(thread, other) as second:
                boots = [json.loads((one.paths.runtime / "boot.json").read_text())["nonce"] for one in (config, other)]
                told = set()
                for one in (first, second):
                    view = await one.member.view.wait_for(
                        lambda view: view is not None and view.cloned is not None and view.cloned.status
                    )
                    assert view is not None and view.cloned is not None
                    told.add(view.cloned.message)
                add_figure(
                    f"{server.name}: a copied disk was found after {thread.now() - began:.0f} s of its second agent"
                )
                alarms = first.identity.foreign, second.identity.foreign
                async with open_any_change(*alarms) as change:
                    while not any(alarm.value for alarm in alarms):
                        await change.wait()
                assert any(str(alarm.value).startswith(NOT_OURS) for alarm in alarms)
                for one in (first, second):
                    assert one.member.view.value is not None and one.member.view.value.cloned is not None
                    told.add(one.member.view.value.cloned.message)
        (story,) = told  # however often the two take turns
        assert all(boot in story for boot in boots)
        events = (await cluster.admin.send(list_all(EVENTS, NAMESPACE)))["items"]
        notes = [one["note"] for one in events if one["regarding"]["name"] == record.member]
        assert len([note for note in notes if note == f"Cloned: {story}"]) == 1

    thread.run(clone)
    rows = admin_of(server, tmp_path).rows("member", "list", "-n", NAMESPACE, "--group", FLEETING)
    assert [row["NOTE"] for row in rows] == ["cloned"]


def test_a_machine_that_has_another_address_is_registered_with_it(thread: ClusterThread, tmp_path: Path) -> None:
    async def move(cluster: MeshCluster) -> None:
        config, record = await joined(thread, tmp_path, "10.77.0.201")
        moved = replace(config, member=MemberConfig("10.77.0.202"))
        proxy: Any = SimpleNamespace(chosen=Latest(""), instances=Latest({}))
        redirect: Any = SimpleNamespace(wanted=Latest(None), observed=Latest(None))  # nothing is served, nobody waits
        with trio.fail_after(100):
            async with agent(thread, moved) as one, open_bare_nursery() as nursery:
                nursery.start_soon(AddressMover(one.member, proxy, redirect, 0.0).run)
                place = (NAMESPACE, record.member)
                await seen(
                    cluster,
                    EXTERNAL_WORKLOADS,
                    place,
                    lambda one: one["spec"]["workloadIPs"] == [{"ip": "10.77.0.202"}],
                )
                nursery.cancel_scope.cancel()
        view = view_member(await cluster.admin.send(get(MEMBERS, *place)))
        assert view.registered is not None and view.registered.status

    thread.run(move)


def test_an_external_workload_that_somebody_deletes_is_emptied_first_and_made_again(thread: ClusterThread) -> None:
    async def delete_it(cluster: MeshCluster) -> None:
        machine = await guest(thread)
        place, trace = (EXTERNAL_WORKLOADS, *machine.place), []
        uid = (await cluster.admin.send(get(*place)))["metadata"]["uid"]
        with trio.fail_after(150):
            async with cluster.admin.watch(*place) as events:
                async for event in events:
                    if not isinstance(event, Upserted):
                        trace.append("gone")
                        continue
                    metadata, ports = event.object["metadata"], ports_of(event.object)
                    trace.append(f"{'going' if metadata.get('deletionTimestamp') else 'there'} {ports}")
                    if len(trace) == 1:
                        await cluster.admin.send(delete(*place))
                    if metadata["uid"] != uid and ports:
                        break
        assert list(dict.fromkeys(trace)) == [
            *("there [8080]", "going [8080]"),
            "going [8080, 8080]",  # marked: a second name for each port
            *("going []", "gone"),
        ]
        assert trace[-1] == "there [8080]"

    thread.run(delete_it)


def test_a_credential_that_lapsed_while_a_machine_was_off_and_a_token_for_it(
    thread: ClusterThread, server: Server, tmp_path: Path
) -> None:
    """The agent says so and tears nothing down; the admin makes room; the machine joins beside what it has."""
    config = Config(Paths(tmp_path / "vm/state", tmp_path / "vm/run"), MemberConfig("10.77.0.203"))

    async def lapse(cluster: MeshCluster) -> MembershipRecord:
        _, record = await joined(thread, tmp_path / "vm", "10.77.0.203")
        path = config.paths.state / "credential.json"
        known = parse_credential(path.read_text())
        past = replace(
            known, token=expired(known.token, server), granted=thread.now() - 200, expires=thread.now() - 100
        )
        path.write_text(render_credential(past))
        with trio.fail_after(150):
            async with agent(thread, config) as one:
                await one.member.standing.wait_for(lambda standing: standing is Standing.ORPHANED)
                assert one.identity.svid.value is not None, "it serves until its certificate ends"
            await seen(cluster, MEMBERS, (NAMESPACE, record.member), is_dead)
        return record

    record = thread.run(lapse)
    access = ("--server", server.url)
    typed = admin_of(server, tmp_path).type("token", "create", "-n", NAMESPACE, "--for", record.member, *access)
    assert typed.code == 0, typed.err
    assert f"the former member {record.member} and its credential are deleted" in typed.err

    async def join_again(cluster: MeshCluster) -> None:
        spare = config.paths.state / "again"
        beside = replace(config, paths=replace(config.paths, state=spare))
        again = await steps.join(typed.out, beside, thread.now, lambda _: None)
        before = load_svid(config.paths.state)
        adopt_join(spare, config.paths.state)
        after = load_svid(config.paths.state)
        assert (again.member, again.address) == (record.member, record.address)
        assert before is not None and after is not None and before[0] != after[0]
        with trio.fail_after(100):
            async with agent(thread, config):
                await seen(cluster, MEMBERS, (NAMESPACE, record.member), is_live)

    thread.run(join_again)


def expired(token: str, server: Server) -> str:
    """The same token, by the same server's key, two hours earlier and for one: clocks are given a minute."""
    assert server.folder is not None
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "===")) for part in token.split(".")[:2])
    times = {"iat": claims["iat"] - 7200, "nbf": claims["iat"] - 7200, "exp": claims["iat"] - 3600}
    signed = jws.JWS(json.dumps(claims | times))
    key = jwk.JWK.from_pem((server.folder / "accounts.key").read_bytes())
    signed.add_signature(key, protected=json.dumps(header))
    return str(signed.serialize(compact=True))


def test_without_the_admission_policies_nobody_is_admitted_or_certified_until_they_are_back(
    thread: ClusterThread, tmp_path: Path
) -> None:
    async def go_without(cluster: MeshCluster) -> None:
        machine, admin = await guest(thread), cluster.admin
        binding = (VALIDATING_ADMISSION_POLICY_BINDINGS, None, "exclave-guard")
        kept = await admin.send(get(*binding))
        config = Config(Paths(tmp_path / "state", tmp_path / "run"), MemberConfig("10.77.0.204"))
        token = encode_token(await cluster.join_token(token_id=named()[0]))
        await admin.send(delete(*binding))
        try:
            with pytest.raises(ExclaveError) as refused:
                await steps.join(token, config, thread.now, lambda _: None)
            assert refused.value.fault is Fault.NOT_ADMITTED
            assert refused.value.message.startswith(
                "the cluster admits nobody while its admission policy is missing: "
                "ValidatingAdmissionPolicyBinding exclave-guard is missing; "
            )
            csr = make_csr(ec.generate_private_key(ec.SECP256R1()), machine.name)
            await machine.send(patch(MEMBERS, *machine.place, {"spec": {"csr": csr}}))
            told = view_member(await seen(cluster, MEMBERS, machine.place, is_uncertified)).certified
            assert told is not None and told.reason == "GuardMissing"
            assert told.message.startswith(
                "no certificate is signed: ValidatingAdmissionPolicyBinding exclave-guard is"
            )
            assert ports_of(await cluster.find(EXTERNAL_WORKLOADS, machine.name)) == [8080], "what runs is left alone"
        finally:
            kept["metadata"] = {"name": "exclave-guard"}
            await admin.send(create(VALIDATING_ADMISSION_POLICY_BINDINGS, None, kept))
        await machine.certified(csr)
        waiting = json.loads((config.paths.state / "join.json").read_text())["member"]
        await seen(cluster, MEMBERS, (NAMESPACE, waiting), is_admitted)
        assert (await steps.join(token, config, thread.now, lambda _: None)).member == waiting

    thread.run(go_without)


def is_admitted(found: Object) -> bool:
    admitted = view_member(found).admitted
    return admitted is not None and admitted.status


def is_live(found: Object) -> bool:
    live = view_member(found).live
    return live is not None and live.status


def is_uncertified(found: Object) -> bool:
    certified = view_member(found).certified
    return certified is not None and not certified.status


def test_a_machine_that_asks_for_a_certificate_for_a_key_of_another_kind_is_told_why_it_gets_none(
    thread: ClusterThread,
) -> None:
    async def ask(cluster: MeshCluster) -> None:
        machine = await guest(thread)
        before = view_member(await cluster.admin.send(get(MEMBERS, *machine.place))).certificate
        weak = request(rsa.generate_private_key(65537, 1024), machine.name)
        await machine.send(patch(MEMBERS, *machine.place, {"spec": {"csr": weak}}))
        view = view_member(await seen(cluster, MEMBERS, machine.place, is_uncertified))
        assert view.certified is not None and view.certificate == before
        assert (view.certified.reason, view.certified.message) == (
            "RequestRefused", f"no certificate is signed: {NOT_P256}",
        )  # fmt: skip
        await machine.certified(make_csr(ec.generate_private_key(ec.SECP256R1()), machine.name))

    thread.run(ask)


# Those who fell silent when the module began.


def test_a_dead_members_address_goes_to_the_machine_that_comes_in_its_place_and_it_is_gone_at_once(
    thread: ClusterThread, server: Server, silent: dict[str, Silent]
) -> None:
    async def replace_it(cluster: MeshCluster) -> None:
        dead = silent["web"].machine
        await seen(cluster, MEMBERS, dead.place, is_dead)
        assert ports_of(await cluster.find(EXTERNAL_WORKLOADS, dead.name)) == []
        began = thread.now()
        heir = await become(thread, await cluster.join_token(token_id=named()[0]), dead.address)
        thread.nursery.start_soon(heir.live)
        await gone(cluster, MEMBERS, dead.place)
        add_figure(f"{server.name}: a dead member was gone {thread.now() - began:.0f} s after another had its address")
        await heir.serve()
        assert await cluster.find(EXTERNAL_WORKLOADS, dead.name) is None

    thread.run(replace_it)


def is_dead(found: Object) -> bool:
    live = view_member(found).live
    return live is not None and not live.status and live.reason == "NotLive"


def test_a_member_that_is_silent_for_longer_than_its_group_waits_is_withdrawn_and_forgotten(
    thread: ClusterThread, server: Server, silent: dict[str, Silent]
) -> None:
    async def wait(cluster: MeshCluster) -> None:
        one = silent[FORGETFUL]
        await gone(cluster, MEMBERS, one.machine.place)
        took = one.gone_at - one.stopped_at
        add_figure(
            f"{server.name}: a member of a group that forgets after 60 s was gone {took:.0f} s after its last heartbeat"
        )
        for resource in (EXTERNAL_WORKLOADS, LEASES):
            assert await cluster.find(resource, one.machine.name) is None
        account = f"{FORGETFUL}.vm.{one.machine.name.removeprefix(FORGETFUL + '-')}"
        assert await cluster.find(SERVICE_ACCOUNTS, account, f"{NAMESPACE}-vms") is None
        shown = [(ready_of(found), ports_of(found)) for found in one.seen]
        assert list(dict.fromkeys(map(str, shown)))[:4] == [
            "(('True', 'Ready'), [8080])",
            "(('False', 'NotLive'), [8080])",
            "(('False', 'NotLive'), [8080, 8080])",  # marked: a second name for each port
            "(('False', 'NotLive'), [])",
        ]

    thread.run(wait)


def ready_of(workload: Object) -> tuple[str, str]:
    (found,) = read_conditions((workload.get("status") or {}).get("conditions"))
    return str(found.status), found.reason
