"""Addresses of interfaces, in a network of the test's own."""

import netifaces
import pytest

from exclave.kit.host.interfaces import local_addresses
from support.own_network import in_own_network


@pytest.mark.root
@in_own_network("203.0.113.9/32", "2001:db8::9/128")
async def test_every_address_of_both_families_is_found() -> None:
    assert local_addresses() == {"127.0.0.1", "::1", "203.0.113.9", "2001:db8::9"}


def test_an_interface_that_went_away_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netifaces, "interfaces", lambda: ["lo", "exclave-gone"])
    assert "127.0.0.1" in local_addresses()
