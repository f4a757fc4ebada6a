"""Join tokens end when their account does: which accounts are due. Pure.

The Kubernetes token inside has an expiry of its own; the account is what would otherwise stay behind.
"""

from collections.abc import Iterable
from datetime import datetime

from exclave.cluster.requests import Object

EXPIRES = "exclave.dev/expires"
"""Annotation of a join account: RFC 3339."""


def expired_accounts(accounts: Iterable[Object], now: float) -> list[str]:
    """Names of join accounts whose time has come; those without a time that can be read are left alone."""
    return [
        account["metadata"]["name"]
        for account in accounts
        if _is_join(account["metadata"]["name"]) and _is_past(account, now)
    ]


def _is_join(name: str) -> bool:
    return name.count(".") == 2 and name.split(".")[1] in ("join", "rejoin")


def _is_past(account: Object, now: float) -> bool:
    expires = (account["metadata"].get("annotations") or {}).get(EXPIRES, "")
    try:
        return datetime.fromisoformat(expires.replace("Z", "+00:00")).timestamp() <= now
    except ValueError:
        return False
