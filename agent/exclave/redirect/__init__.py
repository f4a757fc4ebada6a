"""Traffic: rules that hand it to the proxy, the guard of what is handed over, the private link that proxies are on."""

from exclave.redirect.guard import open_guard, remove_guard
from exclave.redirect.link import open_link, remove_link
from exclave.redirect.made import forget_rules
from exclave.redirect.nft import Redirect, open_redirect
from exclave.redirect.observe import Observed
from exclave.redirect.policy import RedirectPolicy
from exclave.redirect.tables import find_active, find_armed, hold_table, keep_armed, remove_table

__all__ = [
    "Observed",
    "Redirect",
    "RedirectPolicy",
    "find_active",
    "find_armed",
    "forget_rules",
    "hold_table",
    "keep_armed",
    "open_guard",
    "open_link",
    "open_redirect",
    "remove_guard",
    "remove_link",
    "remove_table",
]
