"""Which linkerd2-proxy this is, from the line it greets with, and which versions cannot be used. Pure.

The proxy has no `--version`; it logs one line before it reads its configuration, and ends with status 64 when there is
none: run with an empty environment it says its version and touches nothing.
Source: linkerd2-proxy/src/main.rs, `{profile} {version} ({sha}) by {vendor} on {date}`.
"""

import re

_GREETING = re.compile(r"linkerd2_proxy: \S+ v?(\d+\.\d+\.\d+[^\s(]*) \(")

_WRONG_SERVICE = "asks the Workload API for a service name that no server knows, and so never gets a certificate"
REFUSED = {"2.329.0": _WRONG_SERVICE, "2.330.0": _WRONG_SERVICE}
"""Versions that cannot work here, with the reason."""

REMEDY = "use v2.331.0 or later, or v2.328.0 or earlier"


def read_version(greeting: str) -> str | None:
    """The version such as `2.331.0` in what the proxy printed; None if it does not say."""
    found = _GREETING.search(greeting)
    return found[1] if found else None


def why_refused(version: str | None) -> str | None:
    """Why this version cannot be used; None if it can, or if nobody knows."""
    return REFUSED.get(version or "")
