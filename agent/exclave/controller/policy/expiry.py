"""Which accounts are to be deleted: those of join tokens that expired, and those of machines without a Member. Pure."""

from collections.abc import Iterable

from exclave.api.names import EXPIRES
from exclave.api.requests import Object
from exclave.kit.formats.times import epoch

GRACE = 60.0
"""Seconds for which a new account may have no Member that we know of: it may just be joining."""


def expired_accounts(accounts: Iterable[Object], now: float) -> list[str]:
    """Names of join accounts that have expired. One without a readable time is left alone."""
    return [
        account["metadata"]["name"]
        for account in accounts
        if _is_join(account["metadata"]["name"]) and _is_past(account, now)
    ]


def orphan_accounts(accounts: Iterable[Object], members: set[str], now: float) -> list[tuple[str, str]]:
    """Machines' accounts that belong to none of these Members, each with the name of its missing Member."""
    found = []
    for account in accounts:
        name = account["metadata"]["name"]
        group, kind, tail = (*name.split("."), "", "")[:3]
        member = f"{group}-{tail}"
        if name.count(".") == 2 and kind == "vm" and member not in members and _age(account, now) > GRACE:
            found.append((name, member))
    return found


def accounts_of(accounts: Iterable[Object], group: str) -> list[str]:
    """Names of all accounts of a group: of machines and of join tokens."""
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
