"""The gates of a rotation, played through by Linkerd's own procedure."""

from exclave.admin.rotation_rows import Published, advice, gates, rotation_row
from exclave.cluster.requests import Object

OLD, NEW = (f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n" for name in ("old", "new"))
BEFORE, BOTH, AFTER = Published(OLD, "a" * 64), Published(OLD + NEW, "a" * 64), Published(NEW, "b" * 64)
ADMITTED = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": ""}


def member(number: int, loaded: Published | None, **metadata: str) -> Object:
    told = {"anchors": loaded.anchors_sha256, "issuer": loaded.issuer} if loaded else {}
    return {
        "metadata": {"name": f"web-k7q2x-{number}", "namespace": "shop", **metadata},
        "spec": {"loaded": told},
        "status": {"conditions": [ADMITTED]},
    }


def late(published: Published, *members: Object) -> list[tuple[str, ...]]:
    return [gate.late for gate in gates(published, members)]


def test_with_nothing_under_way_both_gates_are_open() -> None:
    assert late(BEFORE, member(1, BEFORE)) == [(), ()]
    assert advice(BEFORE, gates(BEFORE, [member(1, BEFORE)]))[-1] == "nothing is under way"


def test_a_new_bundle_must_be_loaded_by_all_before_the_issuer_changes() -> None:
    members = [member(1, BOTH), member(2, BEFORE), member(3, None)]
    assert late(BOTH, *members) == [("web-k7q2x-2", "web-k7q2x-3"), ("web-k7q2x-3",)]
    told = advice(BOTH, gates(BOTH, members))
    assert told[0].startswith("published: 2 trust anchors, bundle ")
    assert told[1] == "no   every member has loaded the published anchors: not web-k7q2x-2, web-k7q2x-3"
    assert told[-1] == "wait: an issuer under a new anchor would not be believed by those"


def test_a_new_issuer_must_have_signed_for_all_before_an_anchor_goes() -> None:
    rotated = Published(BOTH.anchors, "b" * 64)
    assert late(rotated, member(1, rotated), member(2, BOTH)) == [(), ("web-k7q2x-2",)]
    assert advice(rotated, gates(rotated, [member(1, rotated)]))[-1] == (
        "an anchor that the current issuer does not lead to may go, as far as machines are concerned"
    )


def test_those_who_leave_hold_nobody_up() -> None:
    assert late(AFTER, member(1, BEFORE, deletionTimestamp="now")) == [(), ()]


def test_a_row_says_what_is_current_and_names_what_is_not() -> None:
    assert rotation_row(AFTER, member(1, AFTER))[3:5] == ("current", "current")
    assert rotation_row(AFTER, member(1, BEFORE))[3:5] == (BEFORE.anchors_sha256[:12], "a" * 12)
    assert rotation_row(AFTER, member(1, None))[3:5] == ("unknown", "unknown")
