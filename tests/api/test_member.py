"""Names, views and conditions of Members."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from exclave.api.member import (
    Certificate,
    Condition,
    MemberView,
    heartbeat_request,
    make_condition,
    member_object,
    view_member,
    with_condition,
)

LABEL = some.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


def test_a_member_as_created_reads_back() -> None:
    made = member_object(
        "shop",
        "web-k7q2x-1",
        nonce="n",
        machine_hash="0123456789abcdef",
        delivery_key="SPKI",
        csr="CSR",
        addresses=["10.0.0.5"],
        facts={"kernel": "6.1"},
    )
    assert made["kind"] == "Member" and made["apiVersion"] == "exclave.dev/v1alpha1"
    assert made["metadata"] == {"name": "web-k7q2x-1", "namespace": "shop"}
    assert view_member(made) == MemberView(
        name="web-k7q2x-1",
        nonce="n",
        machine_hash="0123456789abcdef",
        delivery_key="SPKI",
        csr="CSR",
        facts={"kernel": "6.1"},
        addresses=("10.0.0.5",),
        data_path="down",
    )


def test_a_view_holds_what_the_controller_wrote_and_hides_the_credential() -> None:
    view = view_member(
        {
            "metadata": {"name": "m", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["f"]},
            "spec": {"serving": True, "loaded": {"proxy": "v1", "odd": 3}},
            "status": {
                "conditions": [{"type": "Admitted", "status": "True", "reason": "Admitted", "message": "yes"}, "odd"],
                "certificate": {"csrSha256": "aa", "chain": "PEM", "notAfter": "2026-01-02T00:00:00Z"},
                "externalWorkload": {"uid": "w", "ports": [8080, {"port": 9090}, "x", True]},
                "settings": "d1",
                "credential": "sealed-box",
            },
        }
    )
    assert view.deleting and view.finalizers == ("f",) and view.serving
    assert view.loaded == {"proxy": "v1"}
    assert view.admitted == Condition("Admitted", True, "Admitted", "yes") and view.live is None
    assert view.certificate == Certificate("aa", "PEM", "2026-01-02T00:00:00Z")
    assert (view.workload_uid, view.workload_ports) == ("w", (8080, 9090))
    assert (view.settings, view.credential) == ("d1", "sealed-box")
    assert "sealed-box" not in repr(view)


JSON: some.SearchStrategy[Any] = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=8,
)


@given(
    some.dictionaries(
        some.sampled_from(["metadata", "spec", "status"]),
        some.dictionaries(some.sampled_from(["name", "conditions", "externalWorkload", "certificate", "serving"]), JSON)
        | JSON,
    )
)
def test_a_view_never_fails(found: dict[str, Any]) -> None:
    view_member(found)


def test_the_time_of_a_condition_changes_only_with_its_status() -> None:
    old = [{"type": "Other", "status": "True"}, make_condition(Condition("Ready", False, "Leaving", "going"), 100)]
    same = with_condition(old, Condition("Ready", False, "Stopped", "stopped"), 200)
    assert same == [
        {"type": "Other", "status": "True"},
        {
            "type": "Ready",
            "status": "False",
            "reason": "Stopped",
            "message": "stopped",
            "lastTransitionTime": "1970-01-01T00:01:40Z",
        },
    ]
    changed = with_condition(old, Condition("Ready", True, "Ready", "ready"), 200)
    assert changed[1]["lastTransitionTime"] == "1970-01-01T00:03:20Z"


def test_a_heartbeat_is_a_patch_of_two_fields() -> None:
    request = heartbeat_request("shop", "web-k7q2x-1", "boot.nonce", 1_700_000_000.5)
    assert request.method == "PATCH"
    assert request.path == "/apis/coordination.k8s.io/v1/namespaces/shop/leases/web-k7q2x-1"
    assert request.body == {"spec": {"holderIdentity": "boot.nonce", "renewTime": "2023-11-14T22:13:20.500000Z"}}
