"""Condition MeshCurrent."""

from exclave.api.member import Condition
from exclave.controller.policy.mesh_current import MESH_CURRENT, MOST_MESSAGE, mesh_condition

BEFORE = {"status": {"conditions": [{"type": MESH_CURRENT, "status": "False", "reason": "LastGoodUsed"}]}}


def test_there_is_none_while_nothing_was_ever_wrong() -> None:
    assert mesh_condition({}, (), has_mesh=True) is None


def test_every_fault_is_named_and_so_is_its_end() -> None:
    found = mesh_condition({}, ("the issuer is bad", "a key is bad"), has_mesh=True)
    assert found == Condition(MESH_CURRENT, False, "LastGoodUsed", "the issuer is bad; a key is bad")
    found = mesh_condition(BEFORE, (), has_mesh=True)
    text = "the newest issuer, trust anchors and settings are in use"
    assert found == Condition(MESH_CURRENT, True, "MeshCurrent", text)


def test_without_a_last_good_one_nobody_can_be_certified() -> None:
    assert mesh_condition({}, ("none",), has_mesh=False) == Condition(MESH_CURRENT, False, "NotReady", "none")


def test_the_message_is_bounded() -> None:
    found = mesh_condition({}, ("x" * 9000,), has_mesh=True)
    assert found is not None and len(found.message) == MOST_MESSAGE
