"""Condition OpaquePortsAgree."""

from exclave.api.member import Condition
from exclave.api.workload.opaque_ports import OpaqueMismatch
from exclave.controller.policy.opaque import MOST_MESSAGE, OPAQUE_PORTS_AGREE, opaque_condition


def test_without_a_mismatch_it_is_true() -> None:
    text = "no Service that selects the group differs"
    assert opaque_condition([]) == Condition(OPAQUE_PORTS_AGREE, True, "OpaquePortsAgree", text)


def test_each_mismatch_is_named_with_the_line_to_type() -> None:
    found = opaque_condition([OpaqueMismatch("ports differ", "annotate it"), OpaqueMismatch("so do these", "make it")])
    text = "ports differ; to do: annotate it; so do these; to do: make it"
    assert found == Condition(OPAQUE_PORTS_AGREE, False, "OpaquePortsDiffer", text)


def test_the_message_is_bounded() -> None:
    assert len(opaque_condition([OpaqueMismatch("x" * 100, "y" * 100)] * 500).message) == MOST_MESSAGE
