"""Which join accounts are due."""

import pytest

from exclave.api.names import EXPIRES
from exclave.controller.policy.expiry import GRACE, accounts_of, expired_accounts, orphan_accounts

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("name", "annotations", "due"),
    [
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T07:59:59Z"}, True, id="one whose time has passed"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:00:00Z"}, True, id="one whose time is now"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:00:01Z"}, False, id="not one that has a second left"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "2027-01-15T08:59:59+01:00"}, True, id="in another zone's time"),
        pytest.param("web.vm.k7q2x-3", {EXPIRES: "2020-01-01T00:00:00Z"}, False, id="never a member's own account"),
        pytest.param("web.join.k7q2x-3", {EXPIRES: "tomorrow"}, False, id="not one whose time cannot be read"),
        pytest.param("web.join.k7q2x-3", {}, False, id="not one without a time"),
        pytest.param("web.join.k7q2x-3", None, False, id="nor without annotations"),
    ],
)
def test_due(name: str, annotations: dict[str, str] | None, due: bool) -> None:
    account = {"metadata": {"name": name, "annotations": annotations}}
    assert expired_accounts([account], NOW) == ([name] if due else [])


def test_the_accounts_of_a_group_are_found_by_its_name() -> None:
    names = ["web.vm.k7q2x-1", "web.join.k7q2x-2", "web.rejoin.k7q2x-1"]
    others = ["web-blue.vm.k7q2x-1", "api.join.k7q2x-1", "web", "web.vm", "web.vm.a.b", "default"]
    accounts = [{"metadata": {"name": name}} for name in (*names, *others)]
    assert accounts_of(accounts, "web") == names


@pytest.mark.parametrize(
    ("name", "age", "is_lonely"),
    [
        pytest.param("web.vm.k7q2x-1", GRACE + 1, False, id="one whose Member is there"),
        pytest.param("web.vm.k7q2x-2", GRACE + 1, True, id="one without a Member"),
        pytest.param("web.vm.k7q2x-2", GRACE, False, id="one whose Member may be about to be seen"),
        pytest.param("web.join.k7q2x-2", GRACE + 1, False, id="a join token's"),
        pytest.param("web.vm", GRACE + 1, False, id="one of another shape"),
        pytest.param("web.vm.k7q2x-2.x", GRACE + 1, False, id="one with dots more"),
    ],
)
def test_a_machines_account_goes_with_its_member(name: str, age: float, is_lonely: bool) -> None:
    created = "2027-01-15T08:00:00Z"
    account = {"metadata": {"name": name, "creationTimestamp": created}}
    found = orphan_accounts([account], {"web-k7q2x-1"}, 1_800_000_000.0 + age)
    assert found == ([(name, "web-k7q2x-2")] if is_lonely else [])
