"""`member …` against the sandbox's API server; tests/peers runs the same against real ones."""

import json

import pytest

from exclave.admin.member.verbs import events_of
from exclave.admin.objects import Manifest, group_objects
from exclave.api.requests import MEMBERS, SERVICE_ACCOUNTS, Object
from peers.conftest import Server
from support.admin import Admin, put
from support.store import member


@pytest.fixture(autouse=True)
def members(server: Server, namespace: str) -> None:
    """Two members of web and one of db, with their accounts."""
    manifest = group_objects(namespace, "web", {"networks": ["10.0.0.0/8"]}, "exclave")
    for group, tail in (("web", "k7q2x-1"), ("web", "k7q2x-2"), ("db", "aaaaa-1")):
        manifest.append(Manifest(MEMBERS, namespace, member(f"{group}-{tail}", addresses=["10.0.0.5"])))
        account = {"metadata": {"name": f"{group}.vm.{tail}"}}
        manifest.append(Manifest(SERVICE_ACCOUNTS, f"{namespace}-vms", account))
    put(server, manifest)


def test_members_are_listed(admin: Admin, namespace: str) -> None:
    rows = admin.rows("member", "list", "-n", namespace)
    assert [(row["NAME"], row["GROUP"], row["ADDRESS"]) for row in rows] == [
        ("db-aaaaa-1", "db", "10.0.0.5"),
        ("web-k7q2x-1", "web", "10.0.0.5"),
        ("web-k7q2x-2", "web", "10.0.0.5"),
    ]
    named = admin.type("member", "list", "-n", namespace, "--group", "db", "-o", "name")
    assert named.out == "member.exclave.dev/db-aaaaa-1\n"
    all_namespaces = admin.rows("member", "list", "-A")
    assert (namespace, "web-k7q2x-1") in [(row["NAMESPACE"], row["NAME"]) for row in all_namespaces]
    nobody = admin.type("member", "list", "-n", namespace, "--group", "api")
    assert nobody == (0, "", f"no members of group api in namespace {namespace}\n")


def test_a_member_is_described(admin: Admin, namespace: str) -> None:
    described = admin.type("member", "describe", "web-k7q2x-1", "-n", namespace)
    assert described.code == 0
    assert described.out.startswith(f"Name:        web-k7q2x-1\nNamespace:   {namespace}\nGroup:       web\n")
    whole = admin.type("member", "describe", "web-k7q2x-1", "-n", namespace, "-o", "json")
    assert json.loads(whole.out) == admin.kubectl.get(MEMBERS, namespace, "web-k7q2x-1")


@pytest.mark.parametrize("verb", ["describe", "evict", "cordon", "uncordon"])
def test_a_missing_member_is_an_error(admin: Admin, namespace: str, verb: str) -> None:
    typed = admin.type("member", verb, "web-zzzzz-1", "-n", namespace)
    assert typed == (
        2,
        "",
        f"exclave: there is no member web-zzzzz-1 in namespace {namespace}\n"
        "  to do: list them: kubectl exclave member list -A\n",
    )


def test_evicting_deletes_the_account_first_and_then_the_member(admin: Admin, namespace: str) -> None:
    typed = admin.type("member", "evict", "web-k7q2x-1", "web-k7q2x-2", "-n", namespace)
    assert (typed.code, typed.out) == (0, "member web-k7q2x-1 evicted\nmember web-k7q2x-2 evicted\n")
    assert typed.err.splitlines()[0] == (
        "within about ten seconds the API server refuses its credential; its certificate: none yet; the controller "
        "withdraws its ports"
    )
    left = [one["metadata"]["name"] for one in admin.kubectl.list(SERVICE_ACCOUNTS, f"{namespace}-vms")]
    assert [name for name in left if "." in name] == ["db.vm.aaaaa-1"]
    assert [one["metadata"]["name"] for one in admin.kubectl.list(MEMBERS, namespace)] == ["db-aaaaa-1"]


def test_an_account_whose_member_has_gone_is_evicted_too(admin: Admin, namespace: str) -> None:
    admin.kubectl.delete(MEMBERS, namespace, "web-k7q2x-1")
    assert admin.type("member", "evict", "web-k7q2x-1", "-n", namespace).code == 0
    assert admin.kubectl.get(SERVICE_ACCOUNTS, f"{namespace}-vms", "web.vm.k7q2x-1") is None


def test_a_wrong_members_name_is_refused(admin: Admin, namespace: str) -> None:
    typed = admin.type("member", "evict", "web", "-n", namespace)
    assert (typed.code, typed.err.splitlines()[0]) == (2, "exclave: 'web' is not a member's name such as web-k7q2x-1")


def test_a_cordon_is_an_annotation_that_uncordon_removes(admin: Admin, namespace: str) -> None:
    assert admin.type("member", "cordon", "web-k7q2x-1", "-n", namespace).out == "member web-k7q2x-1 cordoned\n"
    found = admin.kubectl.get(MEMBERS, namespace, "web-k7q2x-1")
    assert found is not None
    assert found["metadata"]["annotations"] == {"exclave.dev/cordoned": "true"}
    assert "cordoned" in admin.type("member", "list", "-n", namespace).out
    assert admin.type("member", "uncordon", "web-k7q2x-1", "-n", namespace).out == "member web-k7q2x-1 uncordoned\n"
    found = admin.kubectl.get(MEMBERS, namespace, "web-k7q2x-1")
    assert found is not None
    assert not found["metadata"].get("annotations")


def test_events_of_an_earlier_member_of_the_same_name_are_left_out() -> None:
    def event(kind: str, uid: str | None) -> Object:
        return {"regarding": {"kind": kind, "name": "web-k7q2x-1"} | ({"uid": uid} if uid else {}), "reason": "x"}

    member: Object = {"kind": "Member", "metadata": {"uid": "u2"}}
    workload: Object = {"kind": "ExternalWorkload", "metadata": {"uid": "u3"}}
    ours = [event("Member", "u2"), event("ExternalWorkload", "u3")]
    others = [event("Member", "u1"), event("Member", "u3"), event("Lease", "u2"), event("Member", None)]
    assert events_of([*others, *ours], [member, workload]) == ours
    assert events_of([*others, *ours], [member]) == ours[:1]
