"""The addresses of this machine's interfaces, as the kernel has them now."""

from contextlib import suppress

import netifaces


def local_addresses() -> frozenset[str]:
    """IPv4 and IPv6 addresses of all interfaces, without prefix length and zone."""
    found: set[str] = set()
    for name in netifaces.interfaces():
        with suppress(ValueError):  # the interface went away after it was listed
            families = netifaces.ifaddresses(name)
            for family in (netifaces.AF_INET, netifaces.AF_INET6):
                found |= {entry["addr"].partition("%")[0] for entry in families.get(family, ()) if "addr" in entry}
    return frozenset(found)
