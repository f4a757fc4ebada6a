"""Trust anchors rotated by Linkerd's own procedure, with the installed controller and machines that follow.

The machines are the agent's own parts, data path aside: membership, certificate, and what they say that they have
loaded. Each step is taken as an admin takes it, and the gate is asked at once, and again while somebody lags.
"""

import base64
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from exclave.api.requests import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, SECRETS, SERVICE_ACCOUNTS, path_of
from exclave.api.settings import digest
from exclave.cluster.member_cluster import open_member_cluster
from exclave.config import Config, MemberConfig, Paths
from exclave.daemon.loaded import choose_loaded, report_loaded
from exclave.ending import EndingSwitch
from exclave.identity.rotator import open_identity
from exclave.join.join import join
from exclave.kit.formats.x509 import fingerprint
from exclave.member import facts
from exclave.member.client import open_member
from exclave.member.record import MembershipRecord
from exclave_sandbox.pki import Authority, make_anchor, make_issuer
from support.admin import Admin, Typed, admin_of
from support.published_proxy import make_proxy, running

from .installation import NETWORK, Cluster, cluster_of
from .kubernetes import Kubernetes

PATIENCE = 60.0


@pytest.fixture
def cluster(own_kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(own_kubernetes, tmp_path) as found:
        yield found


async def live(config: Config, record: MembershipRecord) -> None:
    """What an agent does of all this, for ever; new anchors are a new proxy, which says anew what it has loaded."""
    endings, state = EndingSwitch(), config.paths.state
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        own = await enter(
            open_member_cluster(record.access, state, record.accounts_namespace, record.account, endings, time.time)
        )
        member = await enter(open_member(record, config, own, endings, time.time))
        identity = await enter(open_identity(state, member, endings, time.time, lambda: 0.0))
        while True:
            loaded = await member.settings.wait_for(bool)
            assert loaded is not None
            anchors = loaded.anchors
            async with trio.open_nursery() as nursery:
                nursery.start_soon(report_loaded, member, identity, make_proxy(a=running(digest(anchors))))
                await member.settings.wait_for(lambda now, anchors=anchors: now is not None and now.anchors != anchors)  # type: ignore[misc]
                nursery.cancel_scope.cancel()


class Machine:
    """One that has joined, and can be switched on and off."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        folder = cluster.folder / f"vm-{number}"
        folder.mkdir()
        self.id = folder / "machine-id"
        self.id.write_text(f"{number:032x}\n")
        self.config = Config(Paths(folder / "state", folder / "run"), MemberConfig(f"10.77.0.{number}"))
        self.line = cluster.admin.type("token", "create", "web", "-n", "shop").out.strip()
        self.scope = trio.CancelScope()
        self.name = ""

    async def become(self) -> None:
        self.record = await join(self.line, self.config, time.time, lambda _: None)
        self.name = self.record.member

    async def on(self) -> None:
        with trio.CancelScope() as self.scope:
            await live(self.config, self.record)

    def off(self) -> None:
        self.scope.cancel()


async def ask(admin: Admin) -> Typed:
    return await trio.to_thread.run_sync(partial(admin.type, "rotation", "status"))


async def until_open(admin: Admin) -> str:
    """Wait as the help says that one waits; what is said then."""
    with trio.fail_after(PATIENCE):
        while (typed := await ask(admin)).code == 3:  # noqa: ASYNC110  others' state
            await trio.sleep(0.5)
    assert typed.code == 0, typed.err
    return typed.err


def loaded_by_all(cluster: Cluster, anchors: str, issuer: Authority) -> None:
    """What the members themselves say, whatever the gate says of it."""
    wanted = choose_loaded(digest(anchors), fingerprint(issuer.certificate), "", "")
    found = cluster.client.get("/apis/exclave.dev/v1alpha1/members").json()["items"]
    assert len(found) == 2
    for one in found:
        loaded = one["spec"]["loaded"]
        assert (loaded["anchors"], loaded["issuer"]) == (wanted["anchors"], wanted["issuer"])


def put_issuer(cluster: Cluster, issuer: Authority) -> None:
    """What cert-manager does when it renews, or an admin by hand."""
    data = {"tls.crt": issuer.pem, "tls.key": issuer.key_pem}
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    cluster.merge(path_of(SECRETS, "exclave", "exclave-issuer"), {"data": encoded})


def reader(cluster: Cluster) -> Admin:
    """An admin who may read all but Secrets."""
    rules = [
        {"apiGroups": ["exclave.dev"], "resources": ["members", "workloadgroups"], "verbs": ["get", "list"]},
        {"apiGroups": ["", "apps"], "resources": ["configmaps", "deployments"], "verbs": ["get"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
    ]
    kubectl = cluster.admin.kubectl
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "watchman"}
    subject = {"kind": "ServiceAccount", "name": "watchman", "namespace": "default"}
    for resource, namespace, body in (
        (SERVICE_ACCOUNTS, "default", {}),
        (CLUSTER_ROLES, None, {"rules": rules}),
        (CLUSTER_ROLE_BINDINGS, None, {"roleRef": role, "subjects": [subject]}),
    ):
        answer = cluster.client.post(path_of(resource, namespace), json={"metadata": {"name": "watchman"}, **body})
        assert answer.status_code in (201, 409), answer.text
    return admin_of(cluster.server, cluster.folder / "watchman", kubectl.create_token("default", "watchman", 3600))


async def test_anchors_are_rotated_and_the_gate_holds_every_step(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, admin = cluster.furnish(), cluster.admin
    anchor = make_anchor("the next root", lifetime=timedelta(days=7300))
    issuer, both = make_issuer(anchor), old.anchor.pem + anchor.pem
    assert admin.type("install", *cluster.issuer_files(old.issuer)).code == 0
    watchman = reader(cluster)
    try:
        async with trio.open_nursery() as nursery:
            with cluster.controller():
                assert admin.type("group", "create", "web", "-n", "shop", "--adopt", *NETWORK).code == 0
                machines = [Machine(cluster, number) for number in (21, 22)]
                for machine in machines:
                    monkeypatch.setattr(facts, "MACHINE_ID", machine.id)  # two machines on one host
                    await machine.become()
                    nursery.start_soon(machine.on)
                assert (await until_open(admin)).endswith("no rotation is in progress\n")
                loaded_by_all(cluster, old.anchor.pem, old.issuer)

            # 1. Both anchors, while the controller is away: nobody can have heard of it.
            cluster.publish(both)
            told = await ask(admin)
            assert told.code == 3
            assert "no   every group's settings have the anchors and the issuer: not shop/web\n" in told.err
            assert told.err.endswith("wait for the controller; check that it runs: kubectl exclave check\n")
            assert (await ask(watchman)).code == 3
            machines[1].off()
            with cluster.controller():
                told = await until_late(admin, machines[1].name)
                assert "wait: these members would not trust an issuer under a new anchor" in told
                nursery.start_soon(machines[1].on)
                told = await until_open(admin)
                assert told.endswith(f"you can install an issuer under anchor {fingerprint(anchor.certificate)[:12]}\n")
                loaded_by_all(cluster, both, old.issuer)

                # 2. The new issuer.
                machines[1].off()
                put_issuer(cluster, issuer)
                told_at_once = await ask(admin)
                assert told_at_once.code == 3
                names = ", ".join(sorted(machine.name for machine in machines))
                assert (
                    f"no   every member's certificate comes from the issuer in use: not {names}\n" in told_at_once.err
                )
                told = await until_late(admin, machines[1].name)
                assert "wait: do not remove an anchor before every certificate comes from the issuer in use" in told
                assert (await ask(watchman)).code == 3
                nursery.start_soon(machines[1].on)
                told = await until_open(admin)
                gone = fingerprint(old.anchor.certificate)[:12]
                assert told.endswith(f"as far as machines are concerned, you can remove anchor {gone}\n")
                loaded_by_all(cluster, both, issuer)
                assert "you may not read the issuer's Secret" in await until_open(watchman)

            # 3. The new anchor alone; the controller is away once more.
            cluster.publish(anchor.pem)
            assert (await ask(admin)).code == 3
            assert (await ask(watchman)).code == 3
            with cluster.controller():
                assert (await until_open(admin)).endswith("no rotation is in progress\n")
                loaded_by_all(cluster, anchor.pem, issuer)
            nursery.cancel_scope.cancel()
    finally:
        ended = await trio.to_thread.run_sync(partial(admin.type, "uninstall", "--strand-members"))
    assert ended.code == 0, ended.err


async def until_late(admin: Admin, name: str) -> str:
    """Wait until this member alone keeps the gate closed; what is said then."""
    with trio.fail_after(PATIENCE):
        while True:
            typed = await ask(admin)
            assert typed.code == 3, "it has opened without everybody"
            late = [line for line in typed.err.splitlines() if line.startswith("no ")]
            if late and all(line.endswith(f": not {name}") for line in late):
                return typed.err
            await trio.sleep(0.5)
