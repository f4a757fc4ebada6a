"""Which accounts of machines are due to go: join tokens' that have expired, members' without a Member. Pure.

The Kubernetes token inside has an expiry of its own; the account is what would otherwise stay behind.
"""

from collections.abc import Iterable

from exclave.api.names import EXPIRES
from exclave.api.requests import Object
from exclave.kit.formats.rfc3339 import epoch

GRACE = 60.0
"""Seconds in which an account may be older than what is known of its Member."""


def expired_accounts(accounts: Iterable[Object], now: float) -> list[str]:
    """Names of join accounts whose time has come; those without a time that can be read are left alone."""
    return [
        account["metadata"]["name"]
        for account in accounts
        if _is_join(account["metadata"]["name"]) and _is_past(account, now)
    ]


def orphan_accounts(accounts: Iterable[Object], members: set[str], now: float) -> list[tuple[str, str]]:
    """Machines' accounts that belong to none of these Members, each with the Member that it would belong to."""
    found = []
    for account in accounts:
        name = account["metadata"]["name"]
        group, kind, tail = (*name.split("."), "", "")[:3]
        member = f"{group}-{tail}"
        if name.count(".") == 2 and kind == "vm" and member not in members and _age(account, now) > GRACE:
            found.append((name, member))
    return found


def accounts_of(accounts: Iterable[Object], group: str) -> list[str]:
    """Names of all accounts of machines and of tokens that are a group's."""
    names = [str(account["metadata"]["name"]) for account in accounts]
    return [name for name in names if name.count(".") == 2 and name.split(".")[0] == group]


def _age(account: Object, now: float) -> float:
    created = epoch(str(account["metadata"].get("creationTimestamp") or ""))
    return 0.0 if created is None else now - created


def _is_join(name: str) -> bool:
    return name.count(".") == 2 and name.split(".")[1] in ("join", "rejoin")


def _is_past(account: Object, now: float) -> bool:
    expires = (account["metadata"].get("annotations") or {}).get(EXPIRES, "")
    when = epoch(expires)
    return when is not None and when <= now
