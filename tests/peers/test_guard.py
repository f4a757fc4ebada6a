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

from exclave.admin.guard import GUARD, guard_objects
from exclave.admin.objects import CONTROLLER, Placed, controller_objects, group_objects, join_account
from exclave.cluster.requests import create, create_token
from exclave.join.delivery import delivery_key_text, seal, unseal
from peers.conftest import Server
from peers.kubernetes import AUDIENCE, AVAILABLE

from .test_contract import MERGE, config_map, core, group, lease, leases, member, members

pytestmark = pytest.mark.parametrize("server", AVAILABLE, indirect=True)

SHOP, OTHER, WEB = "bazaar", "depot", "10.77.0.0/24"
TOKEN = "k7q2x"
APPLY = {"Content-Type": "application/apply-patch+yaml"}
WORKLOADS = "workload.linkerd.io/v1beta1"


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
        for body in guard_objects("exclave"):
            plural = {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}.get(
                body["kind"], "validatingadmissionpolicybindings"
            )
            made.put(body, f"/apis/admissionregistration.k8s.io/v1/{plural}")
        for namespace in (SHOP, OTHER, "linkerd"):
            made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, "/api/v1/namespaces")
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


def token_request(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [AUDIENCE], "expirationSeconds": 600, **spec},
    }


def minting(account: str, namespace: str = f"{SHOP}-vms", **spec: Any) -> tuple[str, str, Any]:
    return "POST", core(namespace, "serviceaccounts", account, "token"), token_request(**spec)


def patching(path: str, **body: Any) -> tuple[str, str, Any]:
    return "PATCH", path, body


MINE = members(SHOP, f"web-{TOKEN}-1")
THEIRS = members(SHOP, f"web-{TOKEN}-2")
MY_LEASE = leases(SHOP, f"web-{TOKEN}-1")
MY_WORKLOAD = group(WORKLOADS, SHOP, "externalworkloads", f"web-{TOKEN}-1")
RENEWAL = {"holderIdentity": "boot.nonce", "renewTime": "2026-01-02T03:04:05.000006Z"}
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}

JOINS_ONLY = "a join token makes the members of its own names, as many as it has uses, and nothing else"
OWN_NAME = "a machine touches only what bears its own name"
NO_METADATA = "a machine changes no metadata"
NONE_WRITTEN = "a machine writes no metadata"
NOT_AN_ACCOUNT = "an account in this namespace is named <group>.join.<id>-<uses> or <group>.vm.<id>-<number>"
RBAC = "cannot"

Attempt = tuple[str, str, Any]
ATTACKS: dict[str, tuple[str, Attempt, str]] = {
    "a token: a member of another group": ("joiner", ("POST", members(SHOP), member(f"db-{TOKEN}-1")), JOINS_ONLY),
    "a token: a member in another namespace": ("joiner", ("POST", members(OTHER), member(f"web-{TOKEN}-1")), RBAC),
    "a token: one member more than it has uses": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-3")), JOINS_ONLY,
    ),
    "a token: slot nought": ("joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-0")), JOINS_ONLY),
    "a token: a slot written otherwise": ("joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-01")), JOINS_ONLY),
    "a token: another token's names": ("joiner", ("POST", members(SHOP), member("web-zzzzz-1")), JOINS_ONLY),
    "a token: a name drawn by the server": (
        "joiner", ("POST", members(SHOP), {**member(""), "metadata": {"generateName": f"web-{TOKEN}-"}}), GUARD,
    ),
    "a token: a member with a label": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-2", labels={"a": "b"})), NONE_WRITTEN,
    ),
    "a token: a member with an owner": (
        "joiner",
        ("POST", members(SHOP), member(f"web-{TOKEN}-2", ownerReferences=[
            {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}])),
        NONE_WRITTEN,
    ),
    "a token: a member with a finalizer": (
        "joiner", ("POST", members(SHOP), member(f"web-{TOKEN}-2", finalizers=["a.b/c"])), NONE_WRITTEN,
    ),
    "a token: changing a member": ("joiner", patching(MINE, spec={"serving": True}), JOINS_ONLY),
    "a token: deleting a member": ("joiner", ("DELETE", MINE, None), JOINS_ONLY),
    "a token: deleting all members": ("joiner", ("DELETE", members(SHOP), None), RBAC),
    "a token: a credential of its own": ("joiner", minting(f"web.join.{TOKEN}-2"), JOINS_ONLY),
    "a token: a credential of a machine": ("joiner", minting(f"web.vm.{TOKEN}-1"), JOINS_ONLY),
    "a token: listing members": ("joiner", ("GET", members(SHOP), None), RBAC),
    "a token: reading Secrets": ("joiner", ("GET", core(SHOP, "secrets"), None), RBAC),
    "a token: a heartbeat": ("joiner", patching(MY_LEASE, spec=RENEWAL), JOINS_ONLY),
    "a token: readiness": ("joiner", patching(f"{MY_WORKLOAD}/status", status={"conditions": [READY]}), JOINS_ONLY),
    "a machine: another member's object": ("machine", patching(THEIRS, spec={"serving": True}), OWN_NAME),
    "a machine: a member of another group": (
        "machine", patching(members(SHOP, "db-aaaaa-1"), spec={"serving": True}), OWN_NAME,
    ),
    "a machine: its namesake in another namespace": (
        "machine", patching(members(OTHER, f"web-{TOKEN}-1"), spec={"serving": True}), RBAC,
    ),
    "a machine: deleting another member": ("machine", ("DELETE", THEIRS, None), OWN_NAME),
    "a machine: its own status": ("machine", patching(f"{MINE}/status", status={"settings": "x"}), RBAC),
    "a machine: another's heartbeat": (
        "machine", patching(leases(SHOP, f"web-{TOKEN}-2"), spec=RENEWAL), OWN_NAME,
    ),
    "a machine: a heartbeat of a megabyte": (
        "machine", patching(MY_LEASE, spec={"holderIdentity": "x" * 500_000}), "a heartbeat names its holder",
    ),
    "a machine: another's readiness": (
        "machine",
        patching(group(WORKLOADS, SHOP, "externalworkloads", f"web-{TOKEN}-2", "status"), status={"conditions": []}),
        OWN_NAME,
    ),
    "a machine: a condition of its own": (
        "machine",
        patching(f"{MY_WORKLOAD}/status", status={"conditions": [READY, {**READY, "type": "Mine"}]}),
        "a machine writes one condition, Ready",
    ),
    "a machine: a message of a megabyte": (
        "machine",
        patching(f"{MY_WORKLOAD}/status", status={"conditions": [{**READY, "message": "x" * 30_000}]}),
        "a machine writes one condition, Ready",
    ),
    "a machine: its ExternalWorkload's ports": ("machine", patching(MY_WORKLOAD, spec={"ports": []}), RBAC),
    "a machine: a finalizer more": (
        "machine", patching(MINE, metadata={"finalizers": ["exclave.dev/member", "a.b/c"]}), NO_METADATA,
    ),
    "a machine: a finalizer less": ("machine", patching(MINE, metadata={"finalizers": None}), NO_METADATA),
    "a machine: an owner": (
        "machine",
        patching(MINE, metadata={"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]}),
        NO_METADATA,
    ),
    "a machine: a label": ("machine", patching(MINE, metadata={"labels": {"app": "db"}}), NO_METADATA),
    "a machine: a label on its Lease": ("machine", patching(MY_LEASE, metadata={"labels": {"a": "b"}}), NO_METADATA),
    "a machine: a new member": (
        "machine", ("POST", members(SHOP), member(f"web-{TOKEN}-1")), "a machine creates nothing but its own tokens",
    ),
    "a machine: a Lease of another name, by apply": (
        "machine", ("APPLY", leases(SHOP, "mine"), lease("mine")), "is forbidden",
    ),
    "a machine: another's token": ("machine", minting(f"web.vm.{TOKEN}-2"), OWN_NAME),
    "a machine: the join token's token": ("machine", minting(f"web.join.{TOKEN}-2"), OWN_NAME),
    "a machine: a token in the group's namespace": ("machine", minting("web", SHOP), RBAC),
    "a machine: a token for ten years": (
        "machine", minting(f"web.vm.{TOKEN}-1", expirationSeconds=315_360_000), "lives 30 days at most",
    ),
    "a machine: a token that linkerd-identity takes": (
        "machine", minting(f"web.vm.{TOKEN}-1", audiences=["identity.l5d.io"]), "for the API server only",
    ),
    "a machine: a token bound to an object": (
        "machine",
        minting(f"web.vm.{TOKEN}-1", boundObjectRef={"apiVersion": "v1", "kind": "Secret", "name": "x"}),
        "bound to no object",
    ),
    "a machine: listing members": ("machine", ("GET", members(SHOP), None), RBAC),
    "a machine: other namespaces": ("machine", ("GET", "/api/v1/namespaces", None), RBAC),
    "a machine: Secrets": ("machine", ("GET", core(SHOP, "secrets"), None), RBAC),
    "a machine: another group's settings": ("machine", ("GET", core(SHOP, "configmaps", "other"), None), RBAC),
    "a machine: an Event": (
        "machine", ("POST", group("events.k8s.io/v1", SHOP, "events"), {"metadata": {"name": "e"}}), RBAC,
    ),
    "an account of another shape: a member": (
        "misshapen", ("POST", members(SHOP), member(f"web-{TOKEN}-2")), NOT_AN_ACCOUNT,
    ),
    "an account of another shape: a heartbeat": ("misshapen", patching(MY_LEASE, spec=RENEWAL), NOT_AN_ACCOUNT),
    "an account with dots more: a member": (
        "dotted", ("POST", members(SHOP), member(f"web-{TOKEN}-2")), NOT_AN_ACCOUNT,
    ),
    "the controller: a token of a join account": (
        "controller", minting(f"web.join.{TOKEN}-2"), "the controller mints tokens of machines only",
    ),
    "the controller: a machine's token for ten years": (
        "controller", minting(f"web.vm.{TOKEN}-1", expirationSeconds=315_360_000), "the controller mints tokens",
    ),
    "the controller: a token of an application": ("controller", minting("web", SHOP), RBAC),
    "the controller: a Role": (
        "controller",
        ("POST", group("rbac.authorization.k8s.io/v1", SHOP, "roles"), {"metadata": {"name": "r"}}),
        RBAC,
    ),
    "the controller: any Secret": ("controller", ("GET", core(SHOP, "secrets"), None), RBAC),
    "the controller: another Secret of its own namespace": (
        "controller", ("GET", core("exclave", "secrets", "other"), None), RBAC,
    ),
    "the controller: making Members": ("controller", ("POST", members(SHOP), member(f"web-{TOKEN}-9")), RBAC),
}  # fmt: skip


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
    assert controller.post(core(SHOP, "configmaps"), json=config_map("exclave-mesh.web")).status_code == 201


def machine_token(town: Town, account: str) -> str:
    request = create_token(f"{SHOP}-vms", account, 3600)
    return str(town.admin.post(request.path, json=request.body).json()["status"]["token"])
