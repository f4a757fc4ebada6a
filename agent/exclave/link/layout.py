"""Addresses on the private link `exclave0`: for instances a and b, the DNS stub and the trial listener.

Instances differ by address, not by port: linkerd2-proxy recognises opaque traffic by its own inbound port.
"""

from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Instance = Literal["a", "b"]
Family = Literal[4, 6]

INSTANCES: tuple[Instance, Instance] = ("a", "b")
FAMILIES: tuple[Family, Family] = (4, 6)

LINK = "exclave0"
TABLE = "exclave"  # family inet
KEEPALIVE_TABLE = "exclave-guard"  # family inet; TABLE has no owner, since it must outlive any process
PRIVATE_TABLE = "exclave-private"  # family inet; it stands as long as the link, also while there are no other rules
TRACE_TABLE = "exclave-trace"  # family inet; it has the rule of `exclave explain --trace`
OUR_TABLES = (TABLE, KEEPALIVE_TABLE, PRIVATE_TABLE, TRACE_TABLE)

# The rules drop packets from outside to these networks.
NETWORK4 = IPv4Network("169.254.77.0/29")
NETWORK6 = IPv6Network("fd77:ec1a:7e::/64")

INBOUND_PORT = 4143
OUTBOUND_PORT = 4140
ADMIN_PORT = 4191

_HOST = {"a": 1, "b": 2, "dns": 3, "trial": 4}


def instance_address(instance: Instance, family: Family = 4) -> str:
    """The address on which a proxy instance listens."""
    return _address(instance, family)


def dns_address(family: Family = 4) -> str:
    """The address of the DNS stub, port 53."""
    return _address("dns", family)


def trial_address(family: Family = 4) -> str:
    """The address of the trial listener, with which a swap tests a new instance."""
    return _address("trial", family)


def _address(who: str, family: Family) -> str:
    network = NETWORK4 if family == 4 else NETWORK6
    return str(network[_HOST[who]])
