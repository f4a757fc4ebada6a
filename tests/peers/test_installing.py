"""exclave installed, checked and removed by an admin's commands, with the real kubectl on a real API server each."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from exclave.admin.kubectl import Kubectl
from exclave.admin.objects import CONTROLLER
from exclave.cluster.requests import CUSTOM_RESOURCE_DEFINITIONS, MEMBERS, NAMESPACES, WORKLOAD_GROUPS
from exclave.config import Config, MemberConfig, Paths
from exclave.join.steps import join
from exclave.sandbox.mesh import VM, MeshKeys, mesh_requests
from exclave.sandbox.pki import make_anchor, make_issuer
from support.admin import Admin, admin_of
from support.mesh import mesh

from .conftest import Server, run_kubernetes
from .kubernetes import AVAILABLE


@pytest.fixture(params=AVAILABLE)
def admin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Admin]:
    """An admin of a cluster of their own."""
    with run_kubernetes(request.param, tmp_path) as server:
        yield admin_of(server, tmp_path)


def server_of(admin: Admin) -> Server:
    address = admin.kubectl.cluster()
    config = json.loads(Path(admin.kubeconfig).read_text())
    return Server("own", address.server, address.ca, config["users"][0]["user"]["token"])


def furnish(admin: Admin) -> None:
    """Linkerd's objects; exclave's namespace and issuer are for `install` to make."""
    made = mesh()
    with server_of(admin).client(server_of(admin).admin_token) as client:
        for request in mesh_requests(MeshKeys(made.anchor.pem, made.issuer.pem, made.issuer.key_pem)):
            body = request.body or {}
            if "namespaces/exclave/" in request.path or body["metadata"]["name"] in ("exclave", "kube-system"):
                continue
            answer = client.post(request.path, json=body)
            assert answer.status_code == 201, answer.text


def issuer_files(folder: Path, chain: str, key: str) -> list[str]:
    (folder / "issuer.crt").write_text(chain)
    (folder / "issuer.key").write_text(key)
    return ["--issuer-certificate", str(folder / "issuer.crt"), "--issuer-key", str(folder / "issuer.key")]


@contextmanager
def controller(admin: Admin, folder: Path) -> Iterator[None]:
    """The real controller, under the account that `install` has made."""
    kubectl: Kubectl = admin.kubectl
    address = kubectl.cluster()
    (folder / "controller.token").write_text(kubectl.mint("exclave", CONTROLLER, 3600))
    (folder / "controller.ca").write_text(address.ca)
    command = [
        sys.executable, "-m", "exclave", "controller", "--server", address.server,
        "--ca-file", str(folder / "controller.ca"), "--token-file", str(folder / "controller.token"),
    ]  # fmt: skip
    with (folder / "controller.log").open("wb") as log:
        started = subprocess.Popen(command, stderr=log)
    try:
        yield
    finally:
        started.terminate()
        started.wait()


def rows(admin: Admin) -> dict[str, str]:
    """The rows of `check` by what they tell."""
    found = json.loads(admin.type("check", "-o", "json").out)
    return {one["description"]: one["result"] for one in found["categories"][0]["checks"]}


def wait_until_led(admin: Admin) -> None:
    deadline = time.monotonic() + 60
    while rows(admin)["one of them leads"] != "success":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_cluster_without_linkerd_is_refused_and_nothing_is_made(admin: Admin, tmp_path: Path) -> None:
    made = mesh()
    typed = admin.type("install", *issuer_files(tmp_path, made.issuer.pem, made.issuer.key_pem))
    assert typed.code == 2
    assert "× Linkerd is installed\n    there is no ConfigMap linkerd-config in namespace linkerd" in typed.err
    assert admin.kubectl.get(NAMESPACES, None, "exclave") is None


def test_an_issuer_that_the_mesh_would_not_believe_is_refused(admin: Admin, tmp_path: Path) -> None:
    furnish(admin)
    stranger = make_issuer(make_anchor())
    typed = admin.type("install", *issuer_files(tmp_path, stranger.pem, stranger.key_pem))
    assert typed.code == 2
    assert "the issuer does not lead to the trust anchors that Linkerd publishes" in typed.err
    assert admin.kubectl.get(NAMESPACES, None, "exclave") is None


def test_four_commands_from_nothing_to_a_member_and_back(admin: Admin, tmp_path: Path) -> None:
    furnish(admin)
    made = mesh()
    typed = admin.type("install", *issuer_files(tmp_path, made.issuer.pem, made.issuer.key_pem))
    assert typed.code == 0, typed.err
    assert "machines' credentials live 30 days here, and are renewed at half of that" in typed.err
    assert made.issuer.key_pem not in typed.out + typed.err
    assert rows(admin)["the admission policies stand as installed"] == "success"
    assert admin.type("upgrade").code == 0
    with ExitStack() as stack:
        stack.enter_context(controller(admin, tmp_path))
        wait_until_led(admin)
        network = ["--network", "10.77.0.0/24", "--port", "8080"]
        assert admin.type("group", "create", "web", "-n", "shop", *network).code == 0
        wait_accepted(admin)
        line = admin.type("token", "create", "web", "-n", "shop").out.strip()
        config = Config(Paths(tmp_path / "state", tmp_path / "run"), MemberConfig(VM))
        record = trio.run(join, line, config, time.time, lambda _: None)
        assert [row["NAME"] for row in admin.rows("member", "list", "-n", "shop")] == [record.member]
        status = admin.type("rotation", "status")
        assert status.code == 3, "an agent has not run there yet"
        assert f"no   every member has loaded the published anchors: not {record.member}" in status.err
        refused = admin.type("uninstall")
        assert refused.code == 2
        assert f"1 members would be stranded: shop/{record.member}; their certificates would end" in refused.err
        assert admin.type("member", "evict", record.member, "-n", "shop").code == 0
        wait_gone(admin, record.member)
    typed = admin.type("uninstall")
    assert typed.code == 0, typed.err
    for name in ("members.exclave.dev", "workloadgroups.exclave.dev"):
        found = admin.kubectl.get(CUSTOM_RESOURCE_DEFINITIONS, None, name)
        assert found is None or found["metadata"].get("deletionTimestamp")


def wait_accepted(admin: Admin) -> None:
    deadline = time.monotonic() + 30
    while not ((admin.kubectl.get(WORKLOAD_GROUPS, "shop", "web") or {}).get("status") or {}).get("conditions"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_gone(admin: Admin, member: str) -> None:
    deadline = time.monotonic() + 60
    while admin.kubectl.get(MEMBERS, "shop", member) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
