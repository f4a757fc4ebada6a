"""The table's end: removed by leave and stop, left in place by a hand-over."""

import pytest

from exclave.ending import Ending, EndingSwitch
from exclave.redirect.kernel.nft import remove_table
from exclave.redirect.table_door import open_table

from .lab import open_lab
from .policies import PLAIN


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
async def test_the_table_goes_unless_the_agent_hands_over(ending: Ending) -> None:
    async with open_lab() as lab:
        endings = EndingSwitch()
        endings.ask_nowait(ending)
        before = await lab.nft("list", "ruleset")
        async with open_table(endings):
            await lab.load(PLAIN)
        after = await lab.nft("list", "ruleset")
        assert ("table inet exclave {" in after) == (ending is Ending.HAND_OVER)
        await remove_table()
        assert await lab.nft("list", "ruleset") == before
