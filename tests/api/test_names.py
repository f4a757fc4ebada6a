"""Names of members, accounts, namespaces and settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from exclave.api.names import MemberName, accounts_namespace, parse_member_name, settings_name

LABEL = some.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


@given(LABEL, some.from_regex(r"[a-z0-9]{5}", fullmatch=True), some.integers(1, 999))
def test_a_name_that_was_built_is_parsed_again(group: str, token_id: str, slot: int) -> None:
    name = MemberName(group, token_id, slot)
    assert parse_member_name(str(name)) == name


@pytest.mark.parametrize("name", ["", "web", "web-k7q2x", "-k7q2x-1", "web-k7q2x-one", "web--1", "web-k7q2x-"])
def test_what_is_no_members_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a member's name such as web-k7q2x-1"):
        parse_member_name(name)


def test_accounts_have_dots_and_a_namespace_of_their_own() -> None:
    assert parse_member_name("big-web-k7q2x-12").account == "big-web.vm.k7q2x-12"
    assert accounts_namespace("shop") == "shop-vms"
    assert settings_name("web") == "exclave-mesh.web"
