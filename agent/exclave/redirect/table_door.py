"""Removes the nftables table at the end.

The drain ruleset keeps connections alive while the proxy ends. This door closes after the proxy has ended, and then
removes the table. A hand-over leaves the table in place.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exclave.ending import Ending, EndingSwitch
from exclave.kit.tasks.nursery import shielded
from exclave.redirect.kernel.nft import remove_table

REMOVAL_TIME = 40.0
"""Seconds for one run of nft, which has 30 s, and for its end."""


@asynccontextmanager
async def open_table(endings: EndingSwitch) -> AsyncIterator[None]:
    """Remove the table when the block ends by a leave or a stop. Raises HostError if nft fails."""
    try:
        yield
    finally:
        if endings.value is not Ending.HAND_OVER:
            with shielded(REMOVAL_TIME):
                await remove_table()
