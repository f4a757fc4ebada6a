"""What thieves can do: of a join token, of a machine, of the controller's account. Asked of real API servers.

The admission policies and the rights are the installed ones, made by the functions that the admin's tool uses. Each row
is one attempt: what is tried, and what the thief gets to see.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.admin.objects import (
    Manifest,
    controller_objects,
    group_objects,
    guard_manifests,
    join_account,
    rejoin_account,
)
from exclave.api.delivery import delivery_key_text, seal, unseal
from exclave.api.names import ADMISSION_POLICY_NAMES, CONTROLLER, GROUP_LABEL
from exclave.api.requests import create, create_token
from peers import flooding
from peers.conftest import Server
from peers.kubernetes import AVAILABLE
from support.figures import add_figure

from .attacks import (
    ATTACKS,
    JOINS_ONLY,
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

    def place(self, *placed: Manifest) -> None:
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
        made.place(*guard_manifests("exclave"))
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
        made.place(join_account(SHOP, "web", "green", 2, 2e9))
        made.enter("green", f"{SHOP}-vms", "web.join.green-2")
        made.enter("machine", f"{SHOP}-vms", f"web.vm.{TOKEN}-1")
        made.enter("bystander", f"{OTHER}-vms", f"web.vm.{TOKEN}-1")
        made.enter("application", SHOP, "web")
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
    metadata = {"name": name, "labels": {GROUP_LABEL: name.rsplit("-", 2)[0]}}
    body = {"apiVersion": WORKLOADS, "kind": "ExternalWorkload", "metadata": metadata, "spec": {"meshTLS": tls}}
    town.put(body, group(WORKLOADS, namespace, "externalworkloads"))
    account_body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
    town.put(account_body, core(f"{namespace}-vms", "serviceaccounts"))


def wait_guarded(town: Town) -> None:
    """The API server learns of a policy, and of rights, a moment after they are made."""
    for _ in range(600):
        answer = town.as_["misshapen"].post(members(SHOP), json=member(f"web-{TOKEN}-9"), params={"dryRun": "All"})
        if ADMISSION_POLICY_NAMES[0] in answer.text:
            return
    raise AssertionError(f"the policy does not hold: {answer.text}")


def attempt(client: httpx.Client, what: Attempt) -> httpx.Response:
    method, path, body = what
    if method == "PATCH":
        return client.patch(path, content=body if isinstance(body, bytes) else json.dumps(body), headers=MERGE)
    if isinstance(body, bytes):
        return client.request(method, path, content=body, headers={"Content-Type": "application/json"})
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
        patching(MINE, spec={"renewal": {"request": "now", "result": "renewed", "message": "until tomorrow"}}),
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


CERTIFIED = {
    "a token: an identity from linkerd-identity": ("joiner", f"Not a label: web.join.{TOKEN}-2"),
    "a token for one member: an identity from linkerd-identity": ("again", f"Not a label: web.rejoin.{TOKEN}-4"),
    "a machine: an identity from linkerd-identity": ("machine", f"Not a label: web.vm.{TOKEN}-1"),
    "an account of another shape: an identity from linkerd-identity": ("misshapen", "Not a label: web.vm"),
    "an account without dots is certified, so that the rows before mean something": (
        "application", f"web.{SHOP}.serviceaccount.identity.linkerd.cluster.local",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("who", "words"), CERTIFIED.values(), ids=CERTIFIED)
def test_linkerd_certifies_no_account_of_machines(town: Town, who: str, words: str) -> None:
    assert certified(town, who) == words


def certified(town: Town, who: str) -> str:
    """What linkerd-identity makes of a token: the identity that it certifies, or its refusal.

    Its rule: the API server says whose token it is, for its own audience too, and every part of the name has to be a
    DNS label. Source: linkerd2, controller/identity/validator.go; k8s.io/apimachinery, IsDNS1123Label.
    """
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": bearer(town, who)}}
    answer = town.admin.post("/apis/authentication.k8s.io/v1/tokenreviews", json=review)
    status = answer.json()["status"]
    assert (answer.status_code, status["authenticated"], status.get("error")) == (201, True, None)
    first, *parts = status["user"]["username"].split(":")
    assert (first, len(parts)) == ("system", 3)
    for part in parts:
        if re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", part) is None:
            return f"Not a label: {part}"
    kind, namespace, account = parts
    return f"{account}.{namespace}.{kind}.identity.linkerd.cluster.local"


def bearer(town: Town, who: str) -> str:
    return str(town.as_[who].headers["authorization"]).removeprefix("Bearer ")


MANY = "crowd"
USES = 999


def test_a_token_of_999_uses_makes_999_members_of_a_thousand_at_once(town: Town) -> None:
    town.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MANY}}, "/api/v1/namespaces")
    town.place(*group_objects(MANY, "web", {"networks": [WEB]}, "exclave"), join_account(MANY, "web", TOKEN, USES, 2e9))
    town.enter("crowd", f"{MANY}-vms", f"web.join.{TOKEN}-{USES}")
    try_until_bound(town.as_["crowd"])

    def make(number: int) -> httpx.Response:
        return town.as_["crowd"].post(members(MANY), json=member(f"web-{TOKEN}-{number}"))

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(make, range(1, USES + 2)))
    took = time.monotonic() - began
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused == answers[-1:]
    assert JOINS_ONLY in refused[0].json()["message"]
    add_figure(f"{town.server.name}: 1,000 members at once by one token: 999 made in {took:.1f} s, the last refused")
    assert town.admin.delete(members(MANY)).status_code == 200  # nobody else is to look at so many


def try_until_bound(joiner: httpx.Client) -> None:
    """Rights take a moment to be known."""
    for _ in range(600):
        if joiner.get(members(MANY, "absent")).status_code == 404:
            return
    raise AssertionError("the rights of a group's accounts are not known")


def test_a_machine_that_floods_the_api_server_delays_others_and_stops_nobody(town: Town, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(town.server.ca)
    known: list[float] = []
    alone = heartbeats(town, lambda: len(known) < BEATS, known)
    command = [sys.executable, flooding.__file__, town.server.url, tmp_path / "ca.pem", "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flood:
        assert flood.stdin is not None
        given = {"token": bearer(town, "machine"), "member": MINE, "lease": MY_LEASE, "mint": MY_TOKENS}
        flood.stdin.write(json.dumps(given) + "\n")
        flood.stdin.flush()
        beside = heartbeats(town, lambda: flood.poll() is None, [])
        assert flood.stdout is not None
        answers = json.loads(flood.stdout.read())
    assert set(answers) <= {"200", "201", "409", "429"}, (
        "a flood is served, meets itself, or is told to come back later"
    )
    add_figure(
        f"{town.server.name}: a heartbeat beside a machine that floods ({sum(answers.values())} requests in 3 s: "
        f"{answers}): p50 {1000 * beside[49]:.0f} ms, p99 {1000 * beside[98]:.0f} ms; "
        f"alone {1000 * alone[49]:.0f} and {1000 * alone[98]:.0f} ms"
    )


BEATS = 50
MY_TOKENS = core(f"{SHOP}-vms", "serviceaccounts", f"web.vm.{TOKEN}-1", "token")


def heartbeats(town: Town, go_on: Callable[[], bool], taken: list[float]) -> list[float]:
    """Another machine's heartbeats while it lasts, each of which must be taken; the seconds of each, in percentiles."""
    while go_on():
        began = time.monotonic()
        answer = attempt(town.as_["bystander"], patching(leases(OTHER, f"web-{TOKEN}-1"), spec=RENEWAL))
        assert answer.status_code == 200, answer.text
        taken.append(time.monotonic() - began)
    return quantiles(taken, n=100)
