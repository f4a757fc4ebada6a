"""The controller's policy: the next transition of a snapshot, and members from join to removal."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from exclave.api.csr import csr_sha256, make_csr
from exclave.api.member import Condition, make_condition
from exclave.api.names import DRAIN
from exclave.api.requests import EXTERNAL_WORKLOADS, Object, patch
from exclave.api.workload.withdrawal import NOTICE, SETTLE, withdrawal
from exclave.controller.policy.mark import mark_of
from exclave.controller.policy.register import register, wanted_workload
from exclave.controller.policy.snapshot import MemberSnapshot, Neighbour
from exclave.controller.policy.transitions import (
    Action,
    DeleteMember,
    MarkNotReady,
    PutWorkload,
    RecheckAfter,
    Transition,
    WriteStatus,
    next_removal,
    next_transition,
    retire_workload,
    signing_fault,
)
from exclave.identity.storage import generate_key
from exclave_sandbox.apiserver.kinds.kinds import merge_patch
from support.issuers import without_group

from ..snapshots import (
    ADMITTED,
    GROUP,
    KEY,
    LIVE,
    MARK_KEY,
    MESH,
    NAME,
    NAMESPACE,
    NOW,
    REGISTERED,
    SIGNED,
    executed,
    make_member,
    make_snapshot,
    marked,
    settled_snapshot,
    with_status,
)

REFUSED = Condition("Admitted", False, "AddressRefused", "192.0.2.7 lies in none of the group's networks: 10.77.0.0/24")
OUTSIDE: dict[str, Any] = {"addresses": ["192.0.2.7"]}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
NOT_READY = Condition("Admitted", False, "NotReady", "there is no issuer")


def not_live() -> MemberSnapshot:
    snapshot = settled_snapshot(live=False)
    assert snapshot.workload is not None
    return snapshot.replaced(workload={**snapshot.workload, "status": READY})


def new_csr() -> MemberSnapshot:
    snapshot = settled_snapshot()
    return snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"csr": make_csr(generate_key(), "x")}}))


def deleted_by_others(ports: int, marked: float | None = None) -> MemberSnapshot:
    snapshot = settled_snapshot(serving=bool(ports))
    assert snapshot.workload is not None
    gone = {**snapshot.workload, "metadata": {**snapshot.workload["metadata"], "deletionTimestamp": "now"}}
    if marked is not None:
        gone = merge_patch(gone, withdrawal(gone))
    return snapshot.replaced(workload=gone, emptied_at=NOW, withdrawn_at=marked)


SCENARIOS: dict[str, tuple[MemberSnapshot, Transition]] = {
    "a Member gets a finalizer first": (
        make_snapshot(make_member(finalizer=False)),
        Action.ADD_FINALIZER,
    ),
    "also one that will be refused": (make_snapshot(make_member(finalizer=False, **OUTSIDE)), Action.ADD_FINALIZER),
    "a Lease that a former Member of its name left is deleted first": (
        make_snapshot(make_member(finalizer=False), has_lease=True, has_heartbeat=True, live=True),
        Action.DELETE_LEASE,
    ),
    "the Lease of an admitted Member stays though somebody removed its finalizer": (
        settled_snapshot().replaced(member=with_status(make_member(finalizer=False), ADMITTED)),
        Action.ADD_FINALIZER,
    ),
    "an admitted Member gets an account": (make_snapshot(), Action.MAKE_ACCOUNT),
    "then a Lease": (make_snapshot(has_account=True), Action.MAKE_LEASE),
    "an old member whose Lease is not watched gets it before anything is decided": (
        settled_snapshot(has_lease=False, has_heartbeat=False, live=False),
        Action.MAKE_LEASE,
    ),
    "a Member with a heartbeat has an account": (
        settled_snapshot(has_account=False),
        None,
    ),
    "a member for whom everything is done is left alone": (settled_snapshot(), None),
    "also one that is listed": (settled_snapshot(serving=True), None),
    "an admitted one whose group is gone is left alone": (settled_snapshot(group=None, settings_digest=None), None),
    "also while Linkerd's settings cannot be read": (settled_snapshot(mesh=None), None),
    "a Member that waits for an issuer has the reason in its status": (
        make_snapshot(mesh=None, mesh_fault="there is no issuer"),
        WriteStatus({"status": {"conditions": [make_condition(NOT_READY, NOW)]}}),
    ),
    "a new CSR is signed": (new_csr(), Action.SIGN),
    "a ready member whose heartbeats stopped becomes not ready": (
        not_live(),
        MarkNotReady("NotLive", "no heartbeat for three intervals"),
    ),
    "the ports of an ExternalWorkload that others delete are emptied first": (
        deleted_by_others(1, marked=NOW - NOTICE),
        Action.EMPTY_PORTS,
    ),
    "after pods have had notice": (deleted_by_others(1, marked=NOW - 0.5), RecheckAfter(NOTICE - 0.5)),
    "then there is a pause": (deleted_by_others(0), RecheckAfter(10.0)),
    "one that never sent a heartbeat is deleted after ten minutes": (
        make_snapshot(make_member(601.0)),
        DeleteMember("it never sent a heartbeat"),
    ),
    "but not before": (make_snapshot(make_member(599.0)), Action.MAKE_ACCOUNT),
    "a deleted Member is removed": (make_snapshot(make_member(deleting=True)), Action.DELETE_ACCOUNT),
    "a deleted Member without our finalizer is left alone": (
        make_snapshot(make_member(deleting=True, finalizer=False)),
        None,
    ),
    "a refused one waits for its removal": (
        make_snapshot(with_status(make_member(5.0, **OUTSIDE), REFUSED)),
        RecheckAfter(16.0),
    ),
    "a refused one is deleted after twenty seconds, with the reason": (
        make_snapshot(with_status(make_member(21.0, **OUTSIDE), REFUSED)),
        DeleteMember(REFUSED.message),
    ),
    "also if nothing speaks against it any more": (
        make_snapshot(with_status(make_member(21.0), REFUSED)),
        DeleteMember(REFUSED.message),
    ),
    "one that waits for the controller is deleted after ten minutes": (
        make_snapshot(with_status(make_member(601.0), NOT_READY), mesh=None, mesh_fault=NOT_READY.message),
        DeleteMember(NOT_READY.message),
    ),
    "new settings are written to the status": (
        settled_snapshot(settings_digest="e" * 64),
        WriteStatus({"status": {"settings": "e" * 64}}),
    ),
    "an unknown digest removes nothing": (settled_snapshot(settings_digest=None), None),
}


@pytest.mark.parametrize(("snapshot", "transition"), SCENARIOS.values(), ids=SCENARIOS)
def test_the_next_transition(snapshot: MemberSnapshot, transition: Transition) -> None:
    assert next_transition(snapshot) == transition


def test_a_refusal_is_written_once_with_its_message() -> None:
    transition = next_transition(make_snapshot(make_member(**OUTSIDE)))
    assert isinstance(transition, WriteStatus)
    (condition,) = transition.patch["status"]["conditions"]
    assert condition == {
        "type": "Admitted",
        "status": "False",
        "reason": "AddressRefused",
        "message": REFUSED.message,
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    }


def test_ports_are_withdrawn_when_the_member_stops_serving() -> None:
    snapshot = settled_snapshot(serving=True)
    transition = next_transition(snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"serving": False}})))
    assert isinstance(transition, PutWorkload)
    assert snapshot.workload is not None and transition.request.body == withdrawal(snapshot.workload)


def test_the_status_lists_ports_only_once_the_external_workload_does() -> None:
    snapshot = settled_snapshot()
    listed = wanted_workload(settled_snapshot(serving=True), GROUP, MESH)
    listed["metadata"]["uid"] = "workload-uid"
    transition = next_transition(
        snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"serving": True}}), workload=listed)
    )
    assert transition == WriteStatus({"status": {"externalWorkload": {"uid": "workload-uid", "ports": [8080]}}})


def test_the_credential_is_removed_at_the_first_heartbeat() -> None:
    snapshot = settled_snapshot()
    transition = next_transition(
        snapshot.replaced(member=merge_patch(snapshot.member, {"status": {"credential": "eyJ"}}))
    )
    assert transition == WriteStatus({"status": {"credential": None}})


def test_a_silent_member_gets_live_false_and_other_conditions_stay() -> None:
    snapshot = settled_snapshot(live=False)
    theirs = {"type": "Theirs", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "then"}
    found = snapshot.member["status"]["conditions"]
    member = merge_patch(snapshot.member, {"status": {"conditions": [theirs, *found]}})
    transition = next_transition(snapshot.replaced(member=member))
    assert isinstance(transition, WriteStatus)
    conditions = {one["type"]: one for one in transition.patch["status"]["conditions"]}
    assert conditions["Theirs"] == theirs
    assert conditions["Live"]["reason"] == "NotLive"
    assert conditions["Live"]["message"] == "its Lease has not been renewed for three intervals"
    assert conditions["Live"]["lastTransitionTime"] == "2027-01-15T08:00:00Z"
    assert conditions["Admitted"]["lastTransitionTime"] == "2027-01-15T07:59:00Z", "it is as it was a minute ago"


def test_five_certificates_are_remembered_the_newest_last() -> None:
    snapshot = settled_snapshot()
    old = [{"serial": str(number), "keySha256": "k", "time": "t"} for number in range(5)]
    csr = make_csr(KEY, "y")
    member = merge_patch(snapshot.member, {"spec": {"csr": csr}, "status": {"issued": old}})
    transition = next_transition(snapshot.replaced(member=member, signed=replace(SIGNED, csr_sha256=csr_sha256(csr))))
    assert isinstance(transition, WriteStatus)
    status = transition.patch["status"]
    assert status["issued"] == [*old[1:], {"serial": "7a", "keySha256": "key", "time": "2027-01-15T08:00:00Z"}]
    assert status["certificate"] == {
        "csrSha256": csr_sha256(csr),
        "chain": "chain",
        "notAfter": "2027-01-15T09:00:00Z",
    }


def test_a_request_that_another_controller_has_signed_meanwhile_is_left_to_it() -> None:
    assert next_transition(settled_snapshot(signed=SIGNED)) is None


def label(transition: Transition) -> str:
    return "RecheckAfter" if isinstance(transition, RecheckAfter) else transition.label


def play(snapshot: MemberSnapshot) -> tuple[list[str], MemberSnapshot]:
    """The transitions until there is none, and the snapshot after them."""
    transitions: list[str] = []
    while (transition := next_transition(snapshot)) is not None:
        transitions.append(label(transition))
        is_notice = isinstance(transition, RecheckAfter) and transition.seconds in (SETTLE, NOTICE)
        if isinstance(transition, RecheckAfter) and not is_notice:
            break
        snapshot = executed(transition, snapshot)
        assert len(transitions) < 20, transitions
    return transitions, snapshot


def test_a_member_from_its_join_until_its_ports_are_listed() -> None:
    transitions, snapshot = play(make_snapshot(make_member(finalizer=False), settings_digest="d" * 64))
    made = ["AddFinalizer", "MakeAccount", "MakeLease", "PutWorkload", "Sign", "Seal", "WriteStatus"]
    assert transitions == made, "one write tells the machine everything"
    status = snapshot.member["status"]
    assert [one["reason"] for one in status["conditions"]] == ["Admitted", "Registered", "NoHeartbeat"]
    assert status["credential"] == "eyJ" and status["externalWorkload"] == {"uid": "workload-uid", "ports": []}

    transitions, snapshot = play(snapshot.replaced(has_heartbeat=True, live=True))
    assert transitions == ["WriteStatus"]
    assert (
        "credential" not in snapshot.member["status"] and snapshot.view.live is not None and snapshot.view.live.status
    )

    transitions, snapshot = play(snapshot.replaced(member=merge_patch(snapshot.member, {"spec": {"serving": True}})))
    assert transitions == ["PutWorkload", "WriteStatus"]
    assert snapshot.member["status"]["externalWorkload"]["ports"] == [8080]


def test_a_crash_between_any_two_transitions_changes_nothing_in_the_end() -> None:
    whole = make_snapshot(make_member(finalizer=False), settings_digest="d" * 64)
    _, wanted = play(whole)
    snapshot = whole
    for _ in range(7):
        transition = next_transition(snapshot)
        snapshot = executed(transition, snapshot)
        _, found = play(snapshot.replaced(signed=None, sealed=None))  # what was not written is lost
        assert found.member["status"]["certificate"] == wanted.member["status"]["certificate"]
        assert found.member["status"]["credential"] == wanted.member["status"]["credential"]
        assert register(found, GROUP, MESH) is None


def test_an_admitted_member_that_would_be_refused_today_loses_only_its_ports() -> None:
    snapshot = settled_snapshot()
    stranger = merge_patch(snapshot.member, {"status": {"conditions": [], "mark": None}, "spec": OUTSIDE})
    assert isinstance(refused := next_transition(snapshot.replaced(member=stranger)), WriteStatus)
    assert [one["reason"] for one in refused.patch["status"]["conditions"]] == ["AddressRefused"]
    last_good = merge_patch(snapshot.member, {"spec": OUTSIDE})
    assert snapshot.view.admitted == ADMITTED
    transition = next_transition(snapshot.replaced(member=last_good))
    assert isinstance(transition, WriteStatus), "it stays a member, and its ports are withdrawn"
    (registered,) = [one for one in transition.patch["status"]["conditions"] if one["type"] == "Registered"]
    assert (registered["status"], registered["reason"]) == ("False", "AddressRefused")
    assert registered["message"] == ("no port is listed: 192.0.2.7 lies in none of the group's networks: 10.77.0.0/24")


NOT_LIVE_SINCE = marked(
    with_status(make_member(90 * 86400.0), ADMITTED, REGISTERED, replace(LIVE, status=False, reason="NotLive"))
)


def test_a_member_that_is_silent_for_longer_than_its_group_waits_is_deleted() -> None:
    snapshot = settled_snapshot(live=False).replaced(member=NOT_LIVE_SINCE)
    assert next_transition(snapshot.replaced(now=NOW - 60 + GROUP.spec.forget_after + 1)) == DeleteMember(
        "no heartbeat since 2027-01-15T07:59:00Z, for longer than its group waits"
    )
    assert not isinstance(next_transition(snapshot.replaced(now=NOW - 60 + GROUP.spec.forget_after - 1)), DeleteMember)


HEIR = Neighbour(
    "shop", "web-zzzzz-1", "another", "10.77.0.20", frozenset({"10.77.0.20"}), live=True, admitted_at=NOW - 60
)


def test_a_silent_member_is_deleted_at_once_when_a_new_member_of_its_group_has_its_address() -> None:
    snapshot = settled_snapshot(live=False).replaced(member=NOT_LIVE_SINCE)
    gone = DeleteMember("the living member shop/web-zzzzz-1 has its address 10.77.0.20")
    assert next_transition(snapshot.replaced(neighbours=(HEIR,))) == gone
    assert next_transition(settled_snapshot(neighbours=(HEIR,))) != gone, "one that lives keeps its place"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"admitted_at": NOW - 61}, id="one that was a member before"),
        pytest.param({"admitted_at": None}, id="one that is not admitted"),
        pytest.param({"name": "api-zzzzz-1"}, id="one of another group"),
        pytest.param({"namespace": "bank"}, id="one of another namespace"),
        pytest.param({"listed_addresses": frozenset()}, id="one without the address in its ExternalWorkload"),
        pytest.param({"live": False}, id="one that is silent itself"),
        pytest.param({"leaving": True}, id="one that is being deleted"),
    ],
)
def test_a_silent_member_is_not_deleted_for(change: dict[str, Any]) -> None:
    snapshot = settled_snapshot(live=False).replaced(member=NOT_LIVE_SINCE, neighbours=(replace(HEIR, **change),))
    assert not isinstance(next_transition(snapshot), DeleteMember)


OLDER = with_status(make_member(2 * 86400.0), ADMITTED, REGISTERED, LIVE)  # than the key of marks
UNDER_WAY: dict[str, Any] = {"has_lease": True, "has_heartbeat": True, "live": True}


def test_a_member_of_an_earlier_version_is_marked_before_anything_is_signed_for_it() -> None:
    snapshot = make_snapshot(OLDER, **UNDER_WAY, workload=settled_snapshot().workload)
    assert next_transition(snapshot) is Action.ADOPT
    adopted = snapshot.replaced(adoption="adopted")
    first = next_transition(adopted)
    assert isinstance(first, WriteStatus)
    assert first.patch["status"]["mark"] == mark_of(MARK_KEY, OLDER)
    marked_one = executed(first, adopted)
    assert next_transition(marked_one) is Action.SIGN
    assert next_transition(marked_one.replaced(adoption="unread")) is Action.SIGN, "known by its mark from now on"


def test_a_member_of_an_earlier_version_gets_nothing_while_its_accounts_cannot_be_read() -> None:
    snapshot = make_snapshot(OLDER, **UNDER_WAY, workload=settled_snapshot().workload, adoption="unknown")
    first = next_transition(snapshot)
    assert isinstance(first, WriteStatus)
    assert "mark" not in first.patch["status"]
    (certified,) = [one for one in first.patch["status"]["conditions"] if one["type"] == "Certified"]
    assert (certified["status"], certified["reason"]) == ("False", "NotReady")
    after = next_transition(executed(first, snapshot))
    assert after is None or isinstance(after, RecheckAfter)


def test_a_younger_member_without_a_mark_is_decided_as_a_new_one() -> None:
    member = with_status(make_member(addresses=["192.0.2.7"]), ADMITTED)
    refused = next_transition(make_snapshot(member, **UNDER_WAY))
    assert isinstance(refused, WriteStatus)
    assert [one["reason"] for one in refused.patch["status"]["conditions"]] == ["AddressRefused"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"mark_key": None, "mark_fault": "it is damaged"}, "NotReady", id="the key of marks"),
        pytest.param({"shares_account": True, "group_refusal": "x"}, "AccountShared", id="an account of its own"),
        pytest.param({"group": replace(GROUP, spec=replace(GROUP.spec, networks=("192.0.2.0/24",)))}, "AddressRefused",
                     id="an address in its group's networks"),
        pytest.param({"mesh": replace(MESH, issuers=(without_group("shop"),))}, "NameNotPermitted",
                     id="an issuer that may certify its name"),
    ],
)  # fmt: skip
def test_a_member_is_not_certified_without(changes: dict[str, Any], reason: str) -> None:
    fault = signing_fault(settled_snapshot(**changes))
    assert fault is not None and fault[0] == reason
    assert signing_fault(settled_snapshot()) is None


def test_a_member_for_which_nothing_was_ever_made_is_refused_and_released() -> None:
    refused = {"namespace_refusal": "belongs to Linkerd"}
    first = next_transition(make_snapshot(with_status(make_member(finalizer=False), ADMITTED), **refused))
    assert isinstance(first, WriteStatus)
    assert [one["reason"] for one in first.patch["status"]["conditions"]] == ["GroupNotAccepted"]
    assert next_transition(make_snapshot(make_member(deleting=True), **refused)) is Action.RELEASE_MEMBER
    assert next_transition(make_snapshot(make_member(deleting=True, finalizer=False), **refused)) is None


def test_without_the_admission_policies_nothing_is_delivered_or_signed() -> None:
    fault = "ValidatingAdmissionPolicy exclave-guard is missing"
    fresh = make_snapshot(admission_fault=fault)
    transition = next_transition(fresh)
    assert isinstance(transition, WriteStatus)
    (condition,) = transition.patch["status"]["conditions"]
    assert (condition["reason"], condition["message"]) == ("GuardMissing", fault)
    settled = settled_snapshot(admission_fault=fault)
    renewing = settled.replaced(member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y")}}))
    assert next_transition(renewing) is not Action.SIGN
    assert next_transition(renewing.replaced(admission_fault=None)) is Action.SIGN


WEAK = "no certificate is signed: csr: a P-256 key was expected, found another kind"


def weak_csr() -> str:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_a_csr_that_cannot_be_signed_is_reported_and_delays_nothing_else() -> None:
    settled = settled_snapshot(serving=True)
    asked = settled.replaced(member=merge_patch(settled.member, {"spec": {"csr": weak_csr(), "serving": False}}))
    transitions, after = play(asked)
    assert transitions == ["PutWorkload", "WriteStatus", "RecheckAfter", "PutWorkload", "WriteStatus"], "its ports go"
    assert after.view.certified == Condition("Certified", False, "RequestRefused", WEAK)
    assert after.member["status"]["externalWorkload"]["ports"] == []
    transitions, again = play(after.replaced(member=merge_patch(after.member, {"spec": {"csr": make_csr(KEY, "y")}})))
    assert transitions == ["Sign", "WriteStatus"]
    assert again.view.certified == Condition("Certified", True, "Certified", "its certificates are signed")


def test_a_renewal_that_waits_for_its_issuer_has_the_reason_in_a_condition() -> None:
    expired = replace(MESH, issuer_ends=NOW)
    assert next_transition(settled_snapshot(mesh=expired)) is None, "nothing is asked for"
    settled = settled_snapshot(mesh=expired)
    asked = settled.replaced(member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y")}}))
    transitions, after = play(asked)
    assert transitions == ["WriteStatus"]
    assert after.view.certified is not None
    assert (after.view.certified.status, after.view.certified.reason) == (False, "IssuerExpired")
    transitions, _ = play(after.replaced(mesh=MESH))
    assert transitions == ["Sign", "WriteStatus"]


def test_the_status_is_written_before_a_renewal_is_signed() -> None:
    settled = settled_snapshot(serving=True)
    asked = settled.replaced(
        member=merge_patch(settled.member, {"spec": {"csr": make_csr(KEY, "y"), "serving": False}}), live=False
    )
    transitions, _ = play(asked)
    signed = ["PutWorkload", "WriteStatus", "Sign", "WriteStatus", "RecheckAfter"]
    assert transitions == [*signed, "PutWorkload", "WriteStatus", "RecheckAfter"]


def test_two_machines_as_one_member_are_a_condition_until_one_is_silent() -> None:
    snapshot = settled_snapshot(clones=("host.b", "host.a"))
    transition = next_transition(snapshot)
    assert isinstance(transition, WriteStatus)
    reported = [one for one in transition.patch["status"]["conditions"] if one["type"] == "Cloned"]
    assert [(one["status"], one["message"]) for one in reported] == [
        (
            "True",
            "two machines take turns as this member, boots b and a: evict it, and join each with a token of its own "
            "after rm /etc/machine-id && systemd-machine-id-setup",
        )
    ]
    transitions, after = play(snapshot)
    assert transitions == ["WriteStatus", "RecheckAfter"], "it is looked at again when one may have fallen silent"
    assert after.view.cloned is not None and after.view.cloned.status
    _, later = play(after.replaced(clones=None))
    assert later.view.cloned is not None and not later.view.cloned.status


def test_a_cordon_is_written_to_the_status_and_removed_again() -> None:
    snapshot = settled_snapshot()
    annotated = merge_patch(snapshot.member, {"metadata": {"annotations": {"exclave.dev/cordoned": "true"}}})
    transitions, after = play(snapshot.replaced(member=annotated))
    assert transitions == ["WriteStatus"] and after.view.cordoned
    free = merge_patch(after.member, {"metadata": {"annotations": None}})
    _, after = play(after.replaced(member=free))
    assert not after.view.cordoned


def workload(
    ports: int = 1, ready: bool = True, deleting: bool = False, finalizer: bool = True, marked: bool = False
) -> Object:
    found: Object = {"metadata": {}, "spec": {"ports": [{"port": 8080}] * ports}}
    if marked:
        found = merge_patch(found, withdrawal(found))
    if finalizer:
        found["metadata"]["finalizers"] = ["exclave.dev/ports"]
    if deleting:
        found["metadata"]["deletionTimestamp"] = "now"
    return {**found, "status": READY} if ready else found


@pytest.mark.parametrize(
    ("found", "so_for", "transition"),
    [
        pytest.param(
            workload(),
            None,
            MarkNotReady("Evicted", "the Member is being deleted"),
            id="first it becomes not ready",
        ),
        pytest.param(
            workload(ready=False),
            None,
            PutWorkload(patch(EXTERNAL_WORKLOADS, NAMESPACE, NAME, withdrawal(workload()))),
            id="then it is marked",
        ),
        pytest.param(workload(ready=False), 0.0, RecheckAfter(SETTLE), id="once Linkerd has handled that"),
        pytest.param(workload(ready=False, marked=True), 0.0, RecheckAfter(NOTICE), id="then pods have notice"),
        pytest.param(workload(ready=False, marked=True), NOTICE, Action.EMPTY_PORTS, id="then its ports are emptied"),
        pytest.param(workload(0, False), 0.0, RecheckAfter(DRAIN), id="then clients have time to notice"),
        pytest.param(workload(0, False), 4.0, RecheckAfter(DRAIN - 4), id="the whole time"),
        pytest.param(workload(0, False), None, RecheckAfter(DRAIN), id="also if the time is unknown"),
        pytest.param(workload(0, False), DRAIN, Action.DELETE_WORKLOAD, id="then it is deleted"),
        pytest.param(workload(0, False, True), DRAIN, Action.RELEASE_WORKLOAD, id="then its finalizer is removed"),
        pytest.param(workload(0, False, True, False), DRAIN, RecheckAfter(1.0), id="unless it has another finalizer"),
        pytest.param(
            workload(1, True, True),
            None,
            PutWorkload(patch(EXTERNAL_WORKLOADS, NAMESPACE, NAME, withdrawal(workload()))),
            id="one that others delete is marked first",
        ),
    ],
)
def test_retiring(found: Object, so_for: float | None, transition: Transition) -> None:
    since = None if so_for is None else NOW - so_for
    snapshot = make_snapshot(workload=found, emptied_at=since, withdrawn_at=since, unready_at=since)
    assert retire_workload(snapshot) == transition


def test_a_removal_empties_the_ports_before_it_deletes_anything_with_ports() -> None:
    snapshot = make_snapshot(make_member(deleting=True), workload=workload(), has_lease=True, has_account=True)
    transitions: list[Transition] = []
    while not transitions or transitions[-1] != Action.RELEASE_MEMBER:
        transitions.append(next_removal(snapshot))
        snapshot = executed(transitions[-1], snapshot)
        assert len(transitions) < 20
    assert transitions == [
        Action.DELETE_ACCOUNT,
        MarkNotReady("Evicted", "the Member is being deleted"),
        RecheckAfter(1.0),
        PutWorkload(patch(EXTERNAL_WORKLOADS, NAMESPACE, NAME, withdrawal(workload()))),
        RecheckAfter(1.0),
        Action.EMPTY_PORTS,
        RecheckAfter(10.0),
        Action.DELETE_WORKLOAD,
        Action.RELEASE_WORKLOAD,
        Action.DELETE_LEASE,
        Action.RELEASE_MEMBER,
    ]


def test_a_member_without_objects_is_released_at_once() -> None:
    snapshot = make_snapshot(make_member(deleting=True), account_deleted=True)
    assert next_removal(snapshot) == Action.RELEASE_MEMBER


@pytest.mark.parametrize(
    ("metadata", "is_ours"),
    [
        ({}, False),
        ({"labels": {"app": "web"}, "finalizers": ["a.b/c"], "ownerReferences": [{"kind": "Pod"}]}, False),
        ({"labels": {"exclave.dev/group": ""}}, True),
        ({"finalizers": ["exclave.dev/ports"]}, True),
        ({"ownerReferences": [{"kind": "WorkloadGroup"}]}, True),
    ],
    ids=["nothing", "others", "the label", "the finalizer", "the owner"],
)
def test_an_external_workload_of_others_holds_no_member(metadata: Object, is_ours: bool) -> None:
    """The admission policy lets the controller touch none without the label, the finalizer or a group as its owner."""
    found = {"metadata": metadata, "spec": {"ports": []}}
    snapshot = make_snapshot(make_member(deleting=True), account_deleted=True, has_lease=False, workload=found)
    assert next_removal(snapshot) == (RecheckAfter(DRAIN) if is_ours else Action.RELEASE_MEMBER)
