"""Addresses on the private link, as the contract fixes them."""

from ipaddress import ip_address

import pytest

from exclave.link.layout import (
    ADMIN_PORT,
    INBOUND_PORT,
    INSTANCES,
    LINK,
    NETWORK4,
    NETWORK6,
    OUTBOUND_PORT,
    TABLE,
    Family,
    dns_address,
    instance_address,
    trial_address,
)


@pytest.mark.parametrize(
    ("family", "addresses"),
    [
        (4, ["169.254.77.1", "169.254.77.2", "169.254.77.3", "169.254.77.4"]),
        (6, ["fd77:ec1a:7e::1", "fd77:ec1a:7e::2", "fd77:ec1a:7e::3", "fd77:ec1a:7e::4"]),
    ],
)
def test_instances_stub_and_trial_have_an_address_each_inside_of_what_strangers_cannot_reach(
    family: Family, addresses: list[str]
) -> None:
    instances = [instance_address(instance, family) for instance in INSTANCES]
    assert [*instances, dns_address(family), trial_address(family)] == addresses
    network = NETWORK4 if family == 4 else NETWORK6
    assert all(ip_address(address) in network for address in addresses)


def test_names_and_ports_of_the_contract() -> None:
    assert (LINK, TABLE) == ("exclave0", "exclave")
    assert (OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT) == (4140, 4143, 4191)  # linkerd2-proxy's own
