"""Output, waiting and changes of an admin's command."""

import argparse

import pytest

from exclave.admin import session as module
from exclave.admin.kubectl import Kubectl
from exclave.admin.objects import group_objects, plan_change
from exclave.admin.session import Session
from exclave.admin.tables import Listing
from exclave.api.requests import MEMBERS, ROLE_BINDINGS
from exclave.errors import ExclaveError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def session() -> Session:
    return Session(Kubectl(), "shop")


def test_results_go_to_standard_output_and_notes_to_standard_error(session: Session, capsys: Captured) -> None:
    session.show(Listing(MEMBERS, [{"metadata": {"name": "a"}}], ["NAME"], [["a"]]), None, "none")
    session.note("a note", "and another")
    session.warn(["beware"])
    assert capsys.readouterr() == ("NAME\na\n", "a note\nand another\nwarning: beware\n")


@pytest.mark.parametrize(("form", "out", "err"), [(None, "", "none\n"), ("wide", "", "none\n"), ("name", "", "")])
def test_an_empty_table_is_reported_to_people_only(
    session: Session, capsys: Captured, form: str | None, out: str, err: str
) -> None:
    session.show(Listing(MEMBERS, [], ["NAME"]), form, "none")
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("all_namespaces", "table", "nothing"),
    [
        pytest.param(False, "NAME\na\n", "no members in namespace shop\n", id="one namespace"),
        pytest.param(True, "NAMESPACE   NAME\nshop        a\n", "no members in any namespace\n", id="all namespaces"),
    ],
)
def test_the_namespace_column_is_shown_with_all_namespaces_only(
    session: Session, capsys: Captured, all_namespaces: bool, table: str, nothing: str
) -> None:
    options = argparse.Namespace(all_namespaces=all_namespaces, output=None)
    listing = Listing(MEMBERS, [{"metadata": {"name": "a"}}], ["NAMESPACE", "NAME"], [["shop", "a"]])
    session.show_list(listing, options, "members")
    session.show_list(Listing(MEMBERS, []), options, "members")
    assert capsys.readouterr() == (table, nothing)


def test_a_true_condition_needs_no_wait(session: Session, capsys: Captured) -> None:
    assert session.wait_until(lambda: True, "the tide")
    assert capsys.readouterr().err == ""


def test_a_wait_is_announced_and_ends_when_its_condition_is_true(
    session: Session, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.0)
    answers = iter([False, False, True])
    assert session.wait_until(lambda: next(answers), "the tide")
    assert capsys.readouterr().err == "waiting for the tide, 60s at most\n"


def test_a_wait_fails_after_its_time(session: Session, capsys: Captured) -> None:
    assert not session.wait_until(lambda: False, "the tide", seconds=0.0)
    assert capsys.readouterr().err == "waiting for the tide, 0s at most\n"


def test_a_binding_with_another_role_is_an_error(session: Session) -> None:
    (role_binding, *_) = [one for one in group_objects("shop", "web", {}, "exclave") if one.resource is ROLE_BINDINGS]
    other = {**role_binding.body, "roleRef": {"kind": "Role", "name": "other"}}
    with pytest.raises(ExclaveError) as refused:
        session.apply(plan_change(role_binding, other))
    assert refused.value.message.endswith("in shop has another roleRef, which cannot be changed")
    assert refused.value.hint.endswith("kubectl delete rolebindings exclave-machines -n shop")


def test_the_namespace_option_wins() -> None:
    assert Session(Kubectl(binary="/nowhere"), "shop").namespace == "shop"
