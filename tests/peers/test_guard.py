"""What thieves can do: of a join token, of a machine, of the controller's account. Asked of real API servers.

The admission policies and the rights are the installed ones, made by the functions that the admin's tool uses. Each row
is one attempt: what is tried, and what the thief gets to see.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.guard import GUARD, placed_guard
from exclave.admin.objects import CONTROLLER, Placed, controller_objects, group_objects, join_account, rejoin_account
from exclave.cluster.requests import create, create_token
from exclave.join.delivery import delivery_key_text, seal, unseal
from peers.conftest import Server
from peers.kubernetes import AVAILABLE

from .attacks import (
    ATTACKS,
    MINE,
    MY_LEASE,
    MY_WORKLOAD,
    NO_METADATA,
    OTHER,
    READY,
    RENEWAL,
    SHOP,
    THEIRS,
    TOKEN,
    WEB,
    WORKLOADS,
    Attempt,
    minting,
    patching,
)
from .test_contract import MERGE, config_map, core, group, lease, leases, member, members

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

APPLY = {"Content-Type": "application/apply-patch+yaml"}


@dataclass
class Town:
    """A guarded cluster: two namespaces with groups, and those who have tokens. `as_` holds their clients."""

    server: Server
    admin: httpx.Client
    stack: ExitStack
    as_: dict[str, httpx.Client] = field(default_factory=dict)

    def put(self, body: dict[str, Any], path: str) -> None:
        answer = self.admin.post(path, json=body)
        assert answer.status_code in (201, 409), answer.text

    def place(self, *placed: Placed) -> None:
        for one in placed:
            self.put(one.body, create(one.resource, one.namespace, one.body).path)

    def enter(self, who: str, namespace: str, account: str) -> None:
        """Have a client with a token of an account."""
        request = create_token(namespace, account, 3600)
        answer = self.admin.post(request.path, json=request.body)
        assert answer.status_code == 201, answer.text
        self.as_[who] = self.stack.enter_context(self.server.client(answer.json()["status"]["token"]))


@pytest.fixture(scope="module")
def town(server: Server) -> Iterator[Town]:
    """Policies first, then rights, as they are installed."""
    with ExitStack() as stack:
        made = Town(server, stack.enter_context(server.client(server.admin_token)), stack)
        made.place(*placed_guard("exclave"))
        made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "linkerd"}}, "/api/v1/namespaces")
        made.place(*controller_objects("exclave", "linkerd", "exclave-issuer"))
        for namespace in (SHOP, OTHER):
            made.place(*group_objects(namespace, "web", {"networks": [WEB]}, "exclave"))
            made.place(*group_objects(namespace, "db", {"networks": [WEB]}, "exclave"))
        made.place(join_account(SHOP, "web", TOKEN, 2, 2e9))
        for namespace, number in ((SHOP, 1), (SHOP, 2), (OTHER, 1)):
            furnish(made, namespace, f"web-{TOKEN}-{number}", f"web.vm.{TOKEN}-{number}")
        furnish(made, SHOP, "db-aaaaa-1", "db.vm.aaaaa-1")
        for name in ("web.vm", "web.join.k7q2x-2.more"):
            made.put(
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
                core(f"{SHOP}-vms", "serviceaccounts"),
            )
        made.enter("joiner", f"{SHOP}-vms", f"web.join.{TOKEN}-2")
        made.enter("machine", f"{SHOP}-vms", f"web.vm.{TOKEN}-1")
        made.place(rejoin_account(SHOP, f"web-{TOKEN}-4", 2e9))
        made.enter("again", f"{SHOP}-vms", f"web.rejoin.{TOKEN}-4")
        made.enter("misshapen", f"{SHOP}-vms", "web.vm")
        made.enter("dotted", f"{SHOP}-vms", "web.join.k7q2x-2.more")
        made.enter("controller", "exclave", CONTROLLER)
        wait_guarded(made)
        yield made


def furnish(town: Town, namespace: str, name: str, account: str) -> None:
    """What the controller makes for an admitted machine."""
    town.put(member(name, finalizers=["exclave.dev/member"]), members(namespace))
    town.put(lease(name), leases(namespace))
    tls = {"identity": "spiffe://x", "serverName": "web"}
    body = {"apiVersion": WORKLOADS, "kind": "ExternalWorkload", "metadata": {"name": name}, "spec": {"meshTLS": tls}}
    town.put(body, group(WORKLOADS, namespace, "externalworkloads"))
    account_body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
    town.put(account_body, core(f"{namespace}-vms", "serviceaccounts"))


def wait_guarded(town: Town) -> None:
    """The API server learns of a policy, and of rights, a moment after they are made."""
    for _ in range(600):
        answer = town.as_["misshapen"].post(members(SHOP), json=member(f"web-{TOKEN}-9"), params={"dryRun": "All"})
        if GUARD in answer.text:
            return
    raise AssertionError(f"the policy does not hold: {answer.text}")


def attempt(client: httpx.Client, what: Attempt) -> httpx.Response:
    method, path, body = what
    if method == "PATCH":
        return client.patch(path, content=json.dumps(body), headers=MERGE)
    if method == "APPLY":
        return client.patch(f"{path}?fieldManager=x", content=json.dumps(body), headers=APPLY)
    return client.request(method, path, json=body)


@pytest.mark.parametrize(("who", "what", "words"), ATTACKS.values(), ids=ATTACKS)
def test_a_thief_is_refused(town: Town, who: str, what: Attempt, words: str) -> None:
    answer = attempt(town.as_[who], what)
    assert answer.status_code in (403, 422), answer.text
    assert words in answer.json()["message"]


def test_a_thief_may_watch_members_and_sees_a_credential_only_sealed(town: Town) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    sealed = seal("the credential itself", delivery_key_text(key))
    attempt(town.admin, patching(f"{THEIRS}/status", status={"credential": sealed}))
    query = {"watch": "1", "timeoutSeconds": "1", "resourceVersion": "0"}
    with town.as_["joiner"].stream("GET", members(SHOP), params=query) as answer:
        seen = "".join(answer.iter_text())
    assert sealed in seen
    assert "the credential itself" not in seen
    assert unseal(sealed, key) == "the credential itself"


def test_a_join_token_makes_the_members_it_may(town: Town) -> None:
    town.admin.patch(THEIRS, content='{"metadata":{"finalizers":null}}', headers=MERGE)
    town.admin.delete(THEIRS)
    answer = town.as_["joiner"].post(members(SHOP), json=member(f"web-{TOKEN}-2"))
    assert answer.status_code == 201, answer.text


def test_a_token_for_one_member_makes_this_member(town: Town) -> None:
    answer = town.as_["again"].post(members(SHOP), json=member(f"web-{TOKEN}-4"))
    assert answer.status_code == 201, answer.text


def test_a_machine_does_what_it_has_to(town: Town) -> None:
    machine = town.as_["machine"]
    for what in (
        patching(MINE, spec={"serving": True, "dataPath": "meshed"}),
        patching(MY_LEASE, spec=RENEWAL),
        patching(f"{MY_WORKLOAD}/status", status={"conditions": [READY]}),
        minting(f"web.vm.{TOKEN}-1"),
    ):
        assert attempt(machine, what).status_code in (200, 201), what
    assert machine.get(MINE).status_code == 200
    assert machine.get(core(SHOP, "configmaps", "exclave-mesh.web")).status_code == 404


def test_the_older_version_of_a_workload_has_no_status_to_write(town: Town) -> None:
    older = MY_WORKLOAD.replace("v1beta1", "v1alpha1")
    assert town.admin.get(older).status_code == 200
    for who in (town.as_["machine"], town.admin):
        assert attempt(who, patching(f"{older}/status", status={"conditions": [READY]})).status_code == 404


def test_a_machine_cannot_write_metadata_through_a_status(town: Town) -> None:
    body = {"metadata": {"finalizers": ["a.b/c"]}, "status": {"conditions": []}}
    attempt(town.as_["machine"], patching(f"{MY_WORKLOAD}/status", **body))
    assert "finalizers" not in town.admin.get(MY_WORKLOAD).json()["metadata"]


def test_a_deleted_member_is_held_until_the_controller_lets_go(town: Town) -> None:
    place = members(SHOP, "db-aaaaa-1")
    with town.server.client(machine_token(town, "db.vm.aaaaa-1")) as machine:
        assert machine.delete(place).status_code == 200
        for body in ({"finalizers": None}, {"finalizers": []}):
            answer = attempt(machine, patching(place, metadata=body))
            assert NO_METADATA in answer.json()["message"]
    assert town.admin.get(place).json()["metadata"]["finalizers"] == ["exclave.dev/member"]
    released = attempt(town.as_["controller"], patching(place, metadata={"finalizers": None}))
    assert released.status_code == 200
    assert town.admin.get(place).status_code == 404


def test_the_controller_does_what_it_has_to(town: Town) -> None:
    controller = town.as_["controller"]
    assert attempt(controller, minting(f"web.vm.{TOKEN}-1", expirationSeconds=30 * 86400)).status_code == 201
    assert attempt(controller, patching(f"{MINE}/status", status={"settings": "x"})).status_code == 200
    for resource in ("members", "workloadgroups"):
        assert controller.get(f"/apis/exclave.dev/v1alpha1/{resource}").status_code == 200
    web = group("exclave.dev/v1alpha1", SHOP, "workloadgroups", "web")
    assert attempt(controller, patching(web, metadata={"finalizers": ["exclave.dev/group"]})).status_code == 200
    assert attempt(controller, patching(f"{web}/status", status={"conditions": []})).status_code == 200
    assert attempt(controller, patching(web, metadata={"finalizers": None})).status_code == 200
    assert attempt(controller, patching(MINE, metadata={"finalizers": ["exclave.dev/member"]})).status_code == 200
    assert controller.post(core(SHOP, "configmaps"), json=config_map("exclave-mesh.web")).status_code == 201


def machine_token(town: Town, account: str) -> str:
    request = create_token(f"{SHOP}-vms", account, 3600)
    return str(town.admin.post(request.path, json=request.body).json()["status"]["token"])
