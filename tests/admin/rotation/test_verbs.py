"""The gates of a rotation, through Linkerd's own procedure; tests/peers runs it on real servers."""

import base64
import time
from datetime import timedelta
from typing import Any

import pytest

from exclave.admin.rotation.verbs import (
    GroupTrust,
    MeshTrust,
    advice,
    gates,
    issuer_chain,
    rotation_row,
    trust_from_secret,
    trust_from_settings,
)
from exclave.api.requests import Object
from exclave.kit.formats.visible_text import visible
from exclave.kit.formats.x509 import fingerprint
from exclave_sandbox.pki import make_anchor, make_issuer
from support.admin import Admin

OLD = make_anchor("the old one", lifetime=timedelta(days=30))
NEW = make_anchor("the new one", lifetime=timedelta(days=3650))
OLD_ISSUER, NEW_ISSUER = make_issuer(OLD), make_issuer(NEW)
SECRET = "exclave/exclave-issuer"
BEFORE = trust_from_secret(OLD.pem, SECRET, OLD_ISSUER.pem)
BOTH = trust_from_secret(OLD.pem + NEW.pem, SECRET, OLD_ISSUER.pem)
ROTATED = trust_from_secret(OLD.pem + NEW.pem, SECRET, NEW_ISSUER.pem)
AFTER = trust_from_secret(NEW.pem, SECRET, NEW_ISSUER.pem)
ADMITTED = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": ""}
DEAD = {"type": "Live", "status": "False", "reason": "NotLive", "message": ""}


def member(number: int, loaded: MeshTrust | None, *conditions: dict[str, str], **metadata: str) -> Object:
    values = {"anchors": loaded.anchors_sha256, "issuer": loaded.issuer} if loaded else {}
    return {
        "metadata": {"name": f"web-k7q2x-{number}", "namespace": "shop", **metadata},
        "spec": {"loaded": values},
        "status": {"conditions": [ADMITTED, *conditions]},
    }


def published(mesh: MeshTrust) -> list[GroupTrust]:
    return [GroupTrust("shop/web", mesh.anchors, mesh.issuer)]


def late(mesh: MeshTrust, groups: MeshTrust, *members: Object) -> list[tuple[str, ...]]:
    return [gate.late for gate in gates(mesh, published(groups), members)]


def last_word(mesh: MeshTrust, groups: MeshTrust, *members: Object) -> str:
    return advice(mesh, gates(mesh, published(groups), members), members)[-1]


OPEN: list[tuple[str, ...]] = [(), (), (), ()]


def test_of_a_secret_with_more_certificates_the_chain_counts_that_the_controller_uses() -> None:
    for before in (OLD_ISSUER.pem, NEW.pem, make_issuer(make_anchor("a stranger")).pem):
        texts = {"tls.crt": before + NEW_ISSUER.pem, "tls.key": NEW_ISSUER.key_pem}
        data = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        assert issuer_chain({"data": data}, OLD.pem + NEW.pem, time.time()) == NEW_ISSUER.pem
        assert issuer_chain({"data": data}, OLD.pem, time.time()) == texts["tls.crt"]
    assert issuer_chain({}, OLD.pem, time.time()) == ""


def test_without_a_rotation_every_gate_is_open() -> None:
    assert late(BEFORE, BEFORE, member(1, BEFORE)) == OPEN
    assert last_word(BEFORE, BEFORE, member(1, BEFORE)) == "no rotation is in progress"


def test_a_new_step_closes_a_gate_before_the_controller_reacts() -> None:
    for now, before in ((BOTH, BEFORE), (ROTATED, BOTH), (AFTER, ROTATED)):
        found = late(now, before, member(1, before))
        assert found[1] == ("shop/web",)
        assert ("web-k7q2x-1",) in found[2:]
        assert last_word(now, before, member(1, before)).startswith("wait for the controller; check that it runs")


def test_a_new_bundle_must_be_loaded_by_all_before_the_issuer_changes() -> None:
    members = [member(1, BOTH), member(2, BEFORE), member(3, None)]
    assert late(BOTH, BOTH, *members) == [(), (), ("web-k7q2x-2", "web-k7q2x-3"), ("web-k7q2x-3",)]
    lines = advice(BOTH, gates(BOTH, published(BOTH), members), members)
    assert lines[0].startswith("published: 2 trust anchors, bundle ")
    assert "no   every member has loaded the published anchors: not web-k7q2x-2, web-k7q2x-3" in lines
    assert lines[-1] == "wait: these members would not trust an issuer under a new anchor"
    assert list(map(visible, lines)) == lines  # printed as they are
    newest = fingerprint(NEW.certificate)[:12]
    assert last_word(BOTH, BOTH, member(1, BOTH)) == f"you can install an issuer under anchor {newest}"


def test_a_new_issuer_must_have_signed_for_all_before_an_anchor_goes() -> None:
    members = [member(1, ROTATED), member(2, BOTH)]
    assert late(ROTATED, ROTATED, *members) == [(), (), (), ("web-k7q2x-2",)]
    assert last_word(ROTATED, ROTATED, *members) == (
        "wait: do not remove an anchor before every certificate comes from the issuer in use"
    )
    assert last_word(ROTATED, ROTATED, member(1, ROTATED)) == (
        f"as far as machines are concerned, you can remove anchor {fingerprint(OLD.certificate)[:12]}"
    )


def test_steps_in_the_wrong_order_open_no_gate() -> None:
    early = trust_from_secret(OLD.pem, SECRET, NEW_ISSUER.pem)
    assert late(early, BEFORE, member(1, BEFORE)) == [
        (f"that of Secret {SECRET}",), ("shop/web",), (), ("web-k7q2x-1",),
    ]  # fmt: skip
    assert last_word(early, BEFORE, member(1, BEFORE)) == (
        "wait: its certificates would not be trusted; publish its anchor, or install another issuer"
    )
    empty = trust_from_secret(OLD.pem, SECRET, "")
    assert late(empty, BEFORE)[0] == (f"Secret {SECRET} holds no certificate that can be read",)


def test_without_the_secret_all_settings_must_agree_and_a_controller_must_lead() -> None:
    same, stale = published(ROTATED), [*published(ROTATED), GroupTrust("lab/db", BOTH.anchors, BOTH.issuer)]
    trust = trust_from_settings(ROTATED.anchors, same, has_leader=True)
    assert (trust.issuer, trust.fault, trust.is_issuer_read) == (ROTATED.issuer, "", False)
    for groups, has_leader in ((same, False), (stale, True), (published(AFTER), True), ([], True)):
        unknown = trust_from_settings(ROTATED.anchors, groups, has_leader=has_leader)
        assert unknown.issuer == ""
        found = gates(unknown, groups, [member(1, ROTATED)])
        assert not found[0].is_open
        assert found[3].late == ("web-k7q2x-1",)


def test_leaving_members_do_not_count_and_dead_ones_do_and_are_named() -> None:
    assert late(AFTER, AFTER, member(1, BEFORE, deletionTimestamp="now")) == OPEN
    members = [member(1, AFTER), member(2, BEFORE, DEAD)]
    lines = advice(AFTER, gates(AFTER, published(AFTER), members), members)
    assert "counted although not live: web-k7q2x-2; evict those that do not come back" in lines


@pytest.mark.parametrize(
    "status",
    ["text", ["list"], {"conditions": "text"}, {"conditions": ["text"]}, {"conditions": [{"status": "True"}]}],
    ids=str,
)
def test_a_member_whose_status_cannot_be_read_counts_and_is_named(status: Any) -> None:
    found = {**member(1, BEFORE), "status": status}
    assert late(AFTER, AFTER, found) == [(), (), ("web-k7q2x-1",), ("web-k7q2x-1",)]
    assert rotation_row(AFTER, found)[2] == "unreadable"
    lines = advice(AFTER, gates(AFTER, published(AFTER), [found]), [found])
    assert "counted although the status cannot be read: web-k7q2x-1; evict those that do not matter" in lines
    assert late(AFTER, AFTER, {**found, "spec": member(1, AFTER)["spec"]}) == OPEN
    assert late(AFTER, AFTER, {**member(1, BEFORE, deletionTimestamp="now"), "status": status}) == OPEN


@pytest.mark.parametrize("status", [None, {}, {"conditions": None}, {"conditions": []}], ids=str)
def test_a_member_that_is_not_admitted_yet_does_not_count(status: Any) -> None:
    found = {**member(1, BEFORE), "status": status}
    assert late(AFTER, AFTER, found) == OPEN
    assert rotation_row(AFTER, found)[2] == ""


def test_a_row_shows_current_or_the_hash_that_is_loaded() -> None:
    assert rotation_row(AFTER, member(1, AFTER))[3:5] == ("current", "current")
    assert rotation_row(AFTER, member(1, BEFORE))[3:5] == (BEFORE.anchors_sha256[:12], BEFORE.issuer[:12])
    assert rotation_row(AFTER, member(1, None))[3:5] == ("unknown", "unknown")


def test_missing_anchors_are_an_error_with_the_option_to_use(admin: Admin) -> None:
    typed = admin.type("rotation", "status", "-L", "nowhere")
    assert (typed.code, typed.out) == (23, "")
    assert typed.err == (
        "exclave: Linkerd's trust anchors cannot be read in namespace nowhere: ConfigMap linkerd-identity-trust-roots: "
        "a certificate in PEM was expected, found none\n"
        "  to do: name Linkerd's namespace: --linkerd-namespace\n"
    )
