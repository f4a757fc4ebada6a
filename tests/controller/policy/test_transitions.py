"""The controller's policy: which step follows from what is known, and a whole life played through."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.member import Condition, make_condition
from exclave.api.names import FINALIZER
from exclave.api.requests import Object
from exclave.controller.policy.reap import DeleteAccount, EmptyPorts, MarkNotReady, Wait
from exclave.controller.policy.register import register, wanted_workload
from exclave.controller.policy.snapshot import MemberWorld, Neighbour, Signed
from exclave.controller.policy.transitions import (
    AddFinalizer,
    DeleteMember,
    MakeAccount,
    MakeLease,
    PutWorkload,
    Seal,
    Sign,
    Step,
    WriteStatus,
    next_step,
)
from exclave.identity.storage import generate_key
from exclave_sandbox.apiserver.kinds.kinds import merge_patch

from ..worlds import (
    ADMITTED,
    CSR,
    GROUP,
    KEY,
    LIVE,
    MESH,
    NOW,
    REGISTERED,
    make_member,
    make_world,
    settled_world,
    with_status,
)

REFUSED = Condition("Admitted", False, "AddressRefused", "192.0.2.7 lies in none of the group's networks: 10.77.0.0/24")
OUTSIDE: dict[str, Any] = {"addresses": ["192.0.2.7"]}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
NOT_READY = Condition("Admitted", False, "NotReady", "there is no issuer")
SIGNED = Signed(csr_sha256(CSR), "chain", NOW + 3600.5, 0x7A, "key")


def not_live() -> MemberWorld:
    world = settled_world(live=False)
    assert world.workload is not None
    return world.seen(workload={**world.workload, "status": READY})


def new_csr() -> MemberWorld:
    world = settled_world()
    return world.seen(member=merge_patch(world.member, {"spec": {"csr": make_csr(generate_key(), "x")}}))


def deleted_by_others(ports: int) -> MemberWorld:
    world = settled_world(serving=bool(ports))
    assert world.workload is not None
    gone = {**world.workload, "metadata": {**world.workload["metadata"], "deletionTimestamp": "now"}}
    return world.seen(workload=gone, emptied_at=NOW)


SCENARIOS: dict[str, tuple[MemberWorld, Step]] = {
    "before anything is made for it, a Member is held": (make_world(make_member(finalizer=False)), AddFinalizer()),
    "also one that will be refused": (make_world(make_member(finalizer=False, **OUTSIDE)), AddFinalizer()),
    "one that is admitted gets an account": (make_world(), MakeAccount()),
    "then a Lease": (make_world(has_account=True), MakeLease()),
    "one that has a heartbeat has an account, though we did not see it made": (
        settled_world(has_account=False),
        None,
    ),
    "a member for whom everything is done is left alone": (settled_world(), None),
    "also one that is listed": (settled_world(serving=True), None),
    "an admitted one whose group is gone is left alone": (settled_world(group=None, settings_digest=None), None),
    "so it is while Linkerd's settings cannot be read": (settled_world(mesh=None), None),
    "one that asks to join is told why it waits": (
        make_world(mesh=None, mesh_fault="there is no issuer"),
        WriteStatus({"status": {"conditions": [make_condition(NOT_READY, NOW)]}}),
    ),
    "a new CSR is signed": (new_csr(), Sign()),
    "a ready one whose heartbeats stopped gets no traffic": (
        not_live(),
        MarkNotReady("NotLive", "no heartbeat for three intervals"),
    ),
    "one that others delete is emptied first": (deleted_by_others(1), EmptyPorts()),
    "and then waited for": (deleted_by_others(0), Wait(10.0)),
    "one that never sent a heartbeat is deleted after ten minutes": (
        make_world(make_member(601.0)),
        DeleteMember("it never sent a heartbeat"),
    ),
    "but not before": (make_world(make_member(599.0)), MakeAccount()),
    "one that is being deleted is undone": (make_world(make_member(deleting=True)), DeleteAccount()),
    "one that others still hold is not our business": (make_world(make_member(deleting=True, finalizer=False)), None),
    "a refused one waits for its removal": (make_world(with_status(make_member(5.0, **OUTSIDE), REFUSED)), Wait(596.0)),
    "a refused one is deleted after ten minutes, with the reason": (
        make_world(with_status(make_member(601.0, **OUTSIDE), REFUSED)),
        DeleteMember(REFUSED.message),
    ),
    "new settings are named": (
        settled_world(settings_digest="e" * 64),
        WriteStatus({"status": {"settings": "e" * 64}}),
    ),
    "a digest that we do not know takes nothing away": (settled_world(settings_digest=None), None),
}


@pytest.mark.parametrize(("world", "step"), SCENARIOS.values(), ids=SCENARIOS)
def test_step(world: MemberWorld, step: Step) -> None:
    assert next_step(world) == step


def test_a_refusal_is_written_once_with_its_words() -> None:
    step = next_step(make_world(make_member(**OUTSIDE)))
    assert isinstance(step, WriteStatus)
    (condition,) = step.patch["status"]["conditions"]
    assert condition == {
        "type": "Admitted",
        "status": "False",
        "reason": "AddressRefused",
        "message": REFUSED.message,
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }


def test_ports_are_withdrawn_when_the_member_stops_serving() -> None:
    world = settled_world(serving=True)
    step = next_step(world.seen(member=merge_patch(world.member, {"spec": {"serving": False}})))
    assert isinstance(step, PutWorkload)
    assert step.request.body == {"spec": {"ports": []}}


def test_the_status_tells_of_ports_only_once_they_are_listed() -> None:
    world = settled_world()
    listed = wanted_workload(settled_world(serving=True), GROUP, MESH)
    listed["metadata"]["uid"] = "workload-uid"
    step = next_step(world.seen(member=merge_patch(world.member, {"spec": {"serving": True}}), workload=listed))
    assert step == WriteStatus({"status": {"externalWorkload": {"uid": "workload-uid", "ports": [8080]}}})


def test_the_credential_goes_at_the_first_heartbeat() -> None:
    world = settled_world()
    step = next_step(world.seen(member=merge_patch(world.member, {"status": {"credential": "eyJ"}})))
    assert step == WriteStatus({"status": {"credential": None}})


def test_a_member_that_lost_its_heartbeat_is_told_so_and_others_conditions_are_kept() -> None:
    world = settled_world(live=False)
    theirs = {"type": "Theirs", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "then"}
    found = world.member["status"]["conditions"]
    member = merge_patch(world.member, {"status": {"conditions": [theirs, *found]}})
    step = next_step(world.seen(member=member))
    assert isinstance(step, WriteStatus)
    conditions = {one["type"]: one for one in step.patch["status"]["conditions"]}
    assert conditions["Theirs"] == theirs
    assert conditions["Live"]["reason"] == "NotLive"
    assert conditions["Live"]["message"] == "its Lease has not been renewed for three intervals"
    assert conditions["Live"]["lastTransitionTime"] == "2027-01-15T08:00:00Z"
    assert conditions["Admitted"]["lastTransitionTime"] == "2027-01-15T07:59:00Z", "it is as it was a minute ago"


def test_five_certificates_are_remembered_the_newest_last() -> None:
    world = settled_world()
    old = [{"serial": str(number), "keySha256": "k", "time": "t"} for number in range(5)]
    csr = make_csr(KEY, "y")
    member = merge_patch(world.member, {"spec": {"csr": csr}, "status": {"issued": old}})
    step = next_step(world.seen(member=member, signed=replace(SIGNED, csr_sha256=csr_sha256(csr))))
    assert isinstance(step, WriteStatus)
    status = step.patch["status"]
    assert status["issued"] == [*old[1:], {"serial": "7a", "keySha256": "key", "time": "2027-01-15T08:00:00Z"}]
    assert status["certificate"] == {
        "csrSha256": csr_sha256(csr),
        "chain": "chain",
        "notAfter": "2027-01-15T09:00:00Z",
    }


def test_a_request_that_another_controller_has_signed_meanwhile_is_left_to_it() -> None:
    assert next_step(settled_world(signed=SIGNED)) is None


def carried(step: Step, world: MemberWorld) -> MemberWorld:
    """The world after a step, as the carrier and the API server would leave it."""
    if isinstance(step, AddFinalizer):
        return world.seen(member=merge_patch(world.member, {"metadata": {"finalizers": [FINALIZER]}}))
    if isinstance(step, MakeAccount):
        return world.seen(has_account=True)
    if isinstance(step, MakeLease):
        return world.seen(has_lease=True)
    if isinstance(step, PutWorkload):
        body: Object = step.request.body or {}
        made = merge_patch(world.workload or {}, body)
        return world.seen(workload=merge_patch(made, {"metadata": {"uid": "workload-uid"}}))
    if isinstance(step, Sign):
        return world.seen(signed=replace(SIGNED, csr_sha256=csr_sha256(world.view.csr)))
    if isinstance(step, Seal):
        return world.seen(sealed="eyJ")
    assert isinstance(step, WriteStatus), step
    return world.seen(member=merge_patch(world.member, step.patch), signed=None, sealed=None)


def play(world: MemberWorld) -> tuple[list[str], MemberWorld]:
    """Steps until there is none, and what is left."""
    steps: list[str] = []
    while (step := next_step(world)) is not None:
        steps.append(type(step).__name__)
        if isinstance(step, Wait):
            break
        world = carried(step, world)
        assert len(steps) < 20, steps
    return steps, world


def test_a_life_from_joining_to_being_listed() -> None:
    steps, world = play(make_world(make_member(finalizer=False), settings_digest="d" * 64))
    made = ["AddFinalizer", "MakeAccount", "MakeLease", "PutWorkload", "Sign", "Seal", "WriteStatus"]
    assert steps == made, "one write tells the machine everything"
    status = world.member["status"]
    assert [one["reason"] for one in status["conditions"]] == ["Admitted", "Registered", "NoHeartbeat"]
    assert status["credential"] == "eyJ" and status["externalWorkload"] == {"uid": "workload-uid", "ports": []}

    steps, world = play(world.seen(beaten=True, live=True))
    assert steps == ["WriteStatus"]
    assert "credential" not in world.member["status"] and world.view.live is not None and world.view.live.status

    steps, world = play(world.seen(member=merge_patch(world.member, {"spec": {"serving": True}})))
    assert steps == ["PutWorkload", "WriteStatus"]
    assert world.member["status"]["externalWorkload"]["ports"] == [8080]


def test_a_controller_that_crashed_between_any_two_steps_goes_on_to_the_same_end() -> None:
    whole = make_world(make_member(finalizer=False), settings_digest="d" * 64)
    _, wanted = play(whole)
    world = whole
    for _ in range(7):
        step = next_step(world)
        world = carried(step, world)
        _, found = play(world.seen(signed=None, sealed=None))  # what was not written is lost
        assert found.member["status"]["certificate"] == wanted.member["status"]["certificate"]
        assert found.member["status"]["credential"] == wanted.member["status"]["credential"]
        assert register(found, GROUP, MESH) is None


def test_one_that_was_admitted_is_served_on_though_it_would_be_refused_today() -> None:
    world = settled_world()
    stranger = merge_patch(world.member, {"status": {"conditions": []}, "spec": OUTSIDE})
    assert next_step(world.seen(member=stranger)) == DeleteMember(REFUSED.message)
    kept = merge_patch(world.member, {"spec": OUTSIDE})
    assert world.view.admitted == ADMITTED
    step = next_step(world.seen(member=kept))
    assert isinstance(step, WriteStatus), "it stays a member, and its ports are withdrawn"
    (registered,) = [one for one in step.patch["status"]["conditions"] if one["type"] == "Registered"]
    assert (registered["status"], registered["reason"]) == ("False", "AddressRefused")
    assert registered["message"] == ("no port is listed: 192.0.2.7 lies in none of the group's networks: 10.77.0.0/24")


NOT_LIVE_SINCE = with_status(
    make_member(90 * 86400.0), ADMITTED, REGISTERED, replace(LIVE, status=False, reason="NotLive")
)


def test_one_that_is_not_heard_of_for_longer_than_its_group_waits_is_forgotten() -> None:
    world = settled_world(live=False).seen(member=NOT_LIVE_SINCE)
    assert next_step(world.seen(now=NOW - 60 + GROUP.spec.forget_after + 1)) == DeleteMember(
        "no heartbeat since 2027-01-15T07:59:00Z, for longer than its group waits"
    )
    assert not isinstance(next_step(world.seen(now=NOW - 60 + GROUP.spec.forget_after - 1)), DeleteMember)


HEIR = Neighbour(
    "shop", "web-zzzzz-1", "another", "10.77.0.20", frozenset({"10.77.0.20"}), live=True, admitted_at=NOW - 60
)


def test_one_that_is_not_heard_of_goes_at_once_when_a_newcomer_of_its_group_has_its_address() -> None:
    world = settled_world(live=False).seen(member=NOT_LIVE_SINCE)
    gone = DeleteMember("the living member shop/web-zzzzz-1 has its address 10.77.0.20")
    assert next_step(world.seen(neighbours=(HEIR,))) == gone
    assert next_step(settled_world(neighbours=(HEIR,))) != gone, "one that lives keeps its place"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"admitted_at": NOW - 61}, id="one that was a member before"),
        pytest.param({"admitted_at": None}, id="one that is not admitted"),
        pytest.param({"name": "api-zzzzz-1"}, id="one of another group"),
        pytest.param({"namespace": "bank"}, id="one of another namespace"),
        pytest.param({"stands": frozenset()}, id="one that only says so"),
        pytest.param({"live": False}, id="one that is silent itself"),
        pytest.param({"leaving": True}, id="one that is being deleted"),
    ],
)
def test_a_silent_member_is_removed_by_nobody_else(change: dict[str, Any]) -> None:
    world = settled_world(live=False).seen(member=NOT_LIVE_SINCE, neighbours=(replace(HEIR, **change),))
    assert not isinstance(next_step(world), DeleteMember)


def test_without_the_admission_policies_nothing_is_given_or_signed() -> None:
    fault = "ValidatingAdmissionPolicy exclave-guard is missing"
    fresh = make_world(guard_fault=fault)
    step = next_step(fresh)
    assert isinstance(step, WriteStatus)
    (condition,) = step.patch["status"]["conditions"]
    assert (condition["reason"], condition["message"]) == ("GuardMissing", fault)
    settled = settled_world(guard_fault=fault)
    renewing = settled.seen(member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y")}}))
    assert not isinstance(next_step(renewing), Sign)
    assert isinstance(next_step(renewing.seen(guard_fault=None)), Sign)


WEAK = "no certificate is signed: csr: a P-256 key was expected, found another kind"


def weak_csr() -> str:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_a_request_that_cannot_be_signed_is_told_and_holds_up_nothing_else() -> None:
    settled = settled_world(serving=True)
    asked = settled.seen(member=merge_patch(settled.member, {"spec": {"csr": weak_csr(), "serving": False}}))
    steps, after = play(asked)
    assert steps == ["PutWorkload", "WriteStatus"], "its ports go all the same"
    assert after.view.certified == Condition("Certified", False, "RequestRefused", WEAK)
    assert after.member["status"]["externalWorkload"]["ports"] == []
    steps, again = play(after.seen(member=merge_patch(after.member, {"spec": {"csr": make_csr(KEY, "y")}})))
    assert steps == ["Sign", "WriteStatus"]
    assert again.view.certified == Condition("Certified", True, "Certified", "its certificates are signed")


def test_a_renewal_that_waits_for_its_issuer_is_told_why() -> None:
    expired = replace(MESH, issuer_ends=NOW)
    assert next_step(settled_world(mesh=expired)) is None, "nothing is asked for"
    settled = settled_world(mesh=expired)
    asked = settled.seen(member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y")}}))
    steps, after = play(asked)
    assert steps == ["WriteStatus"]
    assert after.view.certified is not None
    assert (after.view.certified.status, after.view.certified.reason) == (False, "IssuerExpired")
    steps, _ = play(after.seen(mesh=MESH))
    assert steps == ["Sign", "WriteStatus"]


def test_what_a_member_must_know_is_written_before_its_renewal_is_signed() -> None:
    settled = settled_world(serving=True)
    asked = settled.seen(
        member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y"), "serving": False}}), live=False
    )
    steps, _ = play(asked)
    assert steps == ["PutWorkload", "WriteStatus", "Sign", "WriteStatus", "Wait"]


def test_two_machines_as_one_member_are_told_and_forgotten_again() -> None:
    world = settled_world(clones=("host.b", "host.a"))
    step = next_step(world)
    assert isinstance(step, WriteStatus)
    told = [one for one in step.patch["status"]["conditions"] if one["type"] == "Cloned"]
    assert [(one["status"], one["message"]) for one in told] == [
        (
            "True",
            "two machines take turns as this member, boots b and a: evict it, and join each with a token of its own "
            "after rm /etc/machine-id && systemd-machine-id-setup",
        )
    ]
    steps, after = play(world)
    assert steps == ["WriteStatus", "Wait"], "it is looked at again when one may have fallen silent"
    assert after.view.cloned is not None and after.view.cloned.status
    _, later = play(after.seen(clones=None))
    assert later.view.cloned is not None and not later.view.cloned.status


def test_a_cordon_is_told_to_the_machine_and_taken_back() -> None:
    world = settled_world()
    annotated = merge_patch(world.member, {"metadata": {"annotations": {"exclave.dev/cordoned": "true"}}})
    steps, after = play(world.seen(member=annotated))
    assert steps == ["WriteStatus"] and after.view.cordoned
    free = merge_patch(after.member, {"metadata": {"annotations": None}})
    _, after = play(after.seen(member=free))
    assert not after.view.cordoned
