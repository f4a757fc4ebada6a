"""The admin's commands through the real kubectl against real API servers, with the guard and the real controller."""

import functools
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from exclave.admin.objects import Manifest, group_objects, guard_manifests
from exclave.api.join_token import decode_token
from exclave.api.member import read_conditions, view_member
from exclave.api.requests import (
    CONFIG_MAPS,
    MEMBERS,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    WORKLOAD_GROUPS,
    get,
    path_of,
)
from exclave.cluster.client import open_cluster
from exclave.cluster.credential import parse_credential
from exclave.cluster.member_cluster import open_member_cluster
from exclave.config import Config, MemberConfig, Paths
from exclave.ending import EndingSwitch
from exclave.identity.rotator import REQUEST_INTERVAL, open_identity
from exclave.join.join import join
from exclave.kit.formats.times import rfc3339
from exclave.member.client import open_member
from exclave.member.record import MembershipRecord
from exclave_sandbox.stage.mesh import NAMESPACE
from peers.conftest import Server
from peers.kubernetes import AVAILABLE, RELEASES
from support.admin import Admin, Typed, admin_of, put
from support.mesh_cluster import MeshCluster
from support.store import member

from .test_joining import guarded, until_dead, wait

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

SERVER = ("--server", "https://10.9.9.9:6443")
GROUP = ("--network", "10.78.0.0/16", "--port", "name=pg,port=5432,opaque", "--label", "app=api")
SPEC = {"networks": ["10.0.0.0/8"]}


@pytest.fixture
def typist(server: Server, tmp_path: Path) -> Admin:
    return admin_of(server, tmp_path)


async def typed(admin: Admin, *words: str) -> Typed:
    """Type a command while the controller goes on."""
    return await trio.to_thread.run_sync(functools.partial(admin.type, *words))


async def until_accepted(cluster: MeshCluster, name: str) -> None:
    def is_accepted(found: dict[str, Any] | None) -> bool:
        conditions = read_conditions(((found or {}).get("status") or {}).get("conditions"))
        return any(one.type == "Accepted" and one.status for one in conditions)

    await wait(cluster, WORKLOAD_GROUPS, name, is_accepted)


async def test_from_nothing_to_a_member_and_back(server: Server, typist: Admin, tmp_path: Path) -> None:
    async with guarded(server, tmp_path) as cluster:
        made = await typed(typist, "group", "create", "api", "-n", NAMESPACE, *GROUP)
        assert (made.code, made.err) == (0, f"to let a machine join: kubectl exclave token create api -n {NAMESPACE}\n")
        await until_accepted(cluster, "api")
        created = await typed(typist, "token", "create", "api", "-n", NAMESPACE)
        assert (created.code, created.out.count("\n")) == (0, 1)
        assert [line for line in created.err.splitlines() if line.startswith("warning")] == [
            f"warning: {server.url} is an address of this machine only: name one that machines reach with --server"
        ]

        config = Config(Paths(tmp_path / "state", tmp_path / "run"), MemberConfig("10.78.0.1"))
        record = await join(created.out, config, time.time, lambda _: None)
        await wait(cluster, MEMBERS, record.member, lambda found: is_live(found))
        await look_at(typist, record.member)

        await renew(typist, config, record)

        await typed(typist, "member", "cordon", record.member, "-n", NAMESPACE)
        await wait(cluster, MEMBERS, record.member, lambda found: found is not None and view_member(found).cordoned)
        in_use = await typed(typist, "group", "delete", "api", "-n", NAMESPACE)
        assert (in_use.code, in_use.err.splitlines()[0]) == (
            2,
            f"exclave: group api has 1 member: {record.member}",
        )

        own = parse_credential((config.paths.state / "credential.json").read_text())
        evicted = await typed(typist, "member", "evict", record.member, "-n", NAMESPACE)
        assert evicted.out == f"member {record.member} evicted\n"
        assert re.fullmatch(
            r"within about ten seconds the API server refuses its credential; its certificate: until \S+Z "
            r"\(\d+h left\); the controller withdraws its ports\n",
            evicted.err,
        )
        async with open_cluster(cluster.api.access, lambda: own.token) as credential:
            await until_dead(lambda: credential.send(get(MEMBERS, NAMESPACE, record.member)))
        await wait(cluster, MEMBERS, record.member, lambda found: found is None)
        deleted = await typed(typist, "group", "delete", "api", "-n", NAMESPACE)
        assert deleted.code == 0, deleted.err
        await wait(cluster, WORKLOAD_GROUPS, "api", lambda found: found is None)
        assert await cluster.find(ROLES, "exclave-settings.api") is None


def is_live(found: dict[str, Any] | None) -> bool:
    live = view_member(found).live if found is not None else None
    return live is not None and live.status


async def renew(typist: Admin, config: Config, record: MembershipRecord) -> None:
    """A machine is asked to renew, at once and again."""
    state, endings = config.paths.state, EndingSwitch()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        place = (record.access, state, record.accounts_namespace, record.account)
        cluster = await enter(open_member_cluster(*place, endings, time.time))
        member = await enter(open_member(record, config, cluster, endings, time.time))
        ahead = [0.0]
        identity = await enter(open_identity(state, member, endings, lambda: time.time() + ahead[0]))
        command = ("member", "renew", record.member, "-n", NAMESPACE)
        soon = await typed(typist, *command)
        assert soon.code == 3
        reason = r"a certificate was signed less than 60 s ago: ask again in \d+ s"
        assert re.fullmatch(f"member {record.member} not renewed: {reason}\n", soon.out)
        ahead[0] = REQUEST_INTERVAL
        done = await typed(typist, *command)
        assert identity.svid.value is not None
        ends = rfc3339(identity.svid.value.not_after)
        assert (done.code, done.out) == (0, f"member {record.member} renewed: the certificate ends at {ends}\n")
        assert identity.renewals == {"ok": 1}


async def look_at(typist: Admin, name: str) -> None:
    """What is told of a member that has just joined."""
    (row,) = typist.rows("member", "list", "-n", NAMESPACE, "--group", "api")
    assert {key: row[key] for key in ("NAME", "GROUP", "ADDRESS", "LIVE", "SERVING", "DATA-PATH", "NOTE")} == {
        "NAME": name,
        "GROUP": "api",
        "ADDRESS": "10.78.0.1",
        "LIVE": "True",
        "SERVING": "False",
        "DATA-PATH": "down",
        "NOTE": "-",
    }
    described = await typed(typist, "member", "describe", name, "-n", NAMESPACE)
    assert described.code == 0, described.err
    assert "\nWorkload:    Ready is not reported yet, ports listed: none\n" in described.out
    assert re.search(r"\n  Admitted +True +Admitted +a member of group api\n", described.out)
    group = await typed(typist, "group", "describe", "api", "-n", NAMESPACE)
    assert re.search(rf"\n  [a-z0-9]{{5}} +api +1 +1 +in \d+m +\S+ +-\nMembers:\n  NAME .*\n  {name} ", group.out)
    needless = await typed(typist, "token", "create", "-n", NAMESPACE, "--for", name, *SERVER)
    assert (needless.code, needless.err.splitlines()[-2]) == (2, f"exclave: {name} is live and needs no token")


def test_a_group_made_again_finds_everything_as_it_should_be(typist: Admin, namespace: str) -> None:
    first = typist.type("group", "create", "web", "-n", namespace, *GROUP)
    assert first.code == 0, first.err
    assert first.out.count(" created\n") == 15
    again = typist.type("group", "create", "web", "-n", namespace, *GROUP)
    assert (again.code, again.out) == (0, f"workloadgroup.exclave.dev/web in {namespace} unchanged\n")
    changed = typist.type("group", "create", "web", "-n", namespace, "--label", "app=db")
    assert changed.out == f"workloadgroup.exclave.dev/web in {namespace} changed: spec.labels\n"
    found = typist.kubectl.get(WORKLOAD_GROUPS, namespace, "web")
    assert found is not None
    assert found["spec"]["labels"] == {"app": "db"}


def test_what_a_dry_run_prints_kubectl_applies(typist: Admin, namespace: str) -> None:
    import yaml

    printed = typist.type("group", "create", "web", "-n", namespace, *GROUP, "--dry-run")
    typist.kubectl.apply(list(yaml.safe_load_all(printed.out)))
    again = typist.type("group", "create", "web", "-n", namespace, *GROUP)
    assert (again.code, again.out) == (0, f"workloadgroup.exclave.dev/web in {namespace} unchanged\n")


def test_what_the_api_server_would_refuse_is_refused_before_anything_is_created(typist: Admin, namespace: str) -> None:
    networks = [word for number in range(101) for word in ("--network", f"10.0.{number}.0/24")]
    typed = typist.type("group", "create", "web", "-n", namespace, *networks)
    assert typed.code == 2, typed.err
    assert "networks: at most 100 were expected" in typed.err, typed.err
    assert typist.kubectl.get(NAMESPACES, None, f"{namespace}-vms") is None


def test_a_token_for_one_member_makes_this_member_only(server: Server, typist: Admin, namespace: str) -> None:
    put(server, [*guard_manifests("exclave"), *group_objects(namespace, "web", SPEC, "exclave")])
    put(server, [Manifest(MEMBERS, namespace, member("web-k7q2x-2"))])
    typed = typist.type("token", "create", "-n", namespace, "--for", "web-k7q2x-2", *SERVER)
    assert typed.code == 0, typed.err
    token = decode_token(typed.out)
    assert token.member_names == ("web-k7q2x-2",)
    with server.client(token.token) as machine:
        other = post_until_guarded(machine, namespace, "web-k7q2x-1")
        assert "a token for one member makes this member, and nothing else" in other.json()["message"]
        assert machine.post(path_of(MEMBERS, namespace), json=member("web-k7q2x-2")).status_code == 201
    listed = typist.type("token", "list", "-n", namespace).out.splitlines()[1].split()
    assert (listed[:4], listed[-1]) == (["k7q2x-2", "web", "1", "1"], "web-k7q2x-2")


def post_until_guarded(machine: httpx.Client, namespace: str, name: str) -> httpx.Response:
    """Try to make a member until it is refused: a policy takes a moment to be in force where it was just installed."""
    deadline = time.monotonic() + 30
    while True:
        answer = machine.post(path_of(MEMBERS, namespace), json={**member(name)}, params={"dryRun": "All"})
        if answer.status_code != 201 or time.monotonic() > deadline:
            return answer


def test_a_token_dies_when_it_is_revoked(server: Server, typist: Admin, namespace: str) -> None:
    put(server, group_objects(namespace, "web", SPEC, "exclave"))
    token = decode_token(typist.type("token", "create", "web", "-n", namespace, *SERVER).out)
    revoked = typist.type("token", "revoke", token.account[9:14], "-n", namespace)
    assert revoked.code == 0, revoked.err
    deadline = time.monotonic() + 30
    with server.client(token.token) as machine:
        while machine.get(path_of(MEMBERS, namespace, "web-k7q2x-1")).status_code != 401:
            assert time.monotonic() < deadline, "the token lives on"


def test_whoever_may_not_is_told_which_right_is_missing(
    server: Server, typist: Admin, namespace: str, tmp_path: Path
) -> None:
    put(server, group_objects(namespace, "web", SPEC, "exclave"))
    kubectl = typist.kubectl
    kubectl.create(SERVICE_ACCOUNTS, namespace, {"metadata": {"name": "reader"}})
    rules = [{"apiGroups": ["exclave.dev"], "resources": ["workloadgroups"], "verbs": ["get"]}]
    kubectl.create(ROLES, namespace, {"metadata": {"name": "reader"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": namespace}
    kubectl.create(ROLE_BINDINGS, namespace, {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]})
    reader = admin_of(server, tmp_path / "reader", kubectl.create_token(namespace, "reader", 600))
    typed = reader.type("token", "create", "web", "-n", namespace, *SERVER)
    assert (typed.code, typed.out) == (24, "")
    first, second = typed.err.splitlines()[-2:]
    assert re.match(
        rf"exclave: you may not create serviceaccounts web.join.[a-z0-9]{{5}}-1 in namespace {namespace}-vms: "
        rf'serviceaccounts is forbidden: User "system:serviceaccount:{namespace}:reader" cannot create resource',
        first,
    )
    assert second == (
        f"  to do: ask the cluster's admin for the right to create serviceaccounts in namespace {namespace}-vms, or "
        "name another context: --context"
    )
    assert kubectl.can_i("create", SERVICE_ACCOUNTS, namespace)
    assert not reader.kubectl.can_i("create", SERVICE_ACCOUNTS, namespace)
    assert reader.kubectl.can_i("get", WORKLOAD_GROUPS, namespace, name="web")


def test_a_token_that_is_none_is_told_so(server: Server, tmp_path: Path) -> None:
    stranger = admin_of(server, tmp_path, "nobody")
    assert stranger.type("member", "list", "-n", "shop") == (
        24,
        "",
        "exclave: the API server does not know who wants to list members in namespace shop: Unauthorized\n"
        "  to do: log in again, or name a context: --context\n",
    )


def test_long_lists_come_in_pages(typist: Admin, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        typist.kubectl.create(CONFIG_MAPS, namespace, {"metadata": {"name": name, "labels": {"x": "y"}}})
    monkeypatch.setattr("exclave.admin.kubectl.PAGE", 1)
    found = typist.kubectl.list(CONFIG_MAPS, namespace, selector="x=y")
    assert [one["metadata"]["name"] for one in found] == ["a", "b", "c"]


def test_a_deleted_object_is_gone_when_its_finalizers_are_removed(typist: Admin, namespace: str) -> None:
    body = {"metadata": {"name": "a", "finalizers": ["example.com/held"]}}
    typist.kubectl.create(CONFIG_MAPS, namespace, body)
    assert typist.kubectl.delete(CONFIG_MAPS, namespace, "a")
    typist.kubectl.patch(CONFIG_MAPS, namespace, "a", {"metadata": {"finalizers": None}})
    assert not typist.kubectl.delete(CONFIG_MAPS, namespace, "a")


def test_the_version_is_the_servers(server: Server, typist: Admin) -> None:
    assert typist.kubectl.server_version() == RELEASES[server.name]
