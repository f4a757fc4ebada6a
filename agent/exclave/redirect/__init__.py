"""Traffic: the nftables rules that hand it to the proxy, and the private link that proxies listen on."""

from exclave.redirect.link import open_link, remove_link
from exclave.redirect.nft import Redirect, open_redirect
from exclave.redirect.observe import Observed
from exclave.redirect.policy import RedirectPolicy
from exclave.redirect.tables import hold_table, remove_table

__all__ = [
    "Observed",
    "Redirect",
    "RedirectPolicy",
    "hold_table",
    "open_link",
    "open_redirect",
    "remove_link",
    "remove_table",
]
