"""The part of an agent that makes rules which need a confirmation. Arguments: state folder, address of the machine.

Prints the stage of the confirmation once the rules are in the kernel.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import trio

from exclave.confirm.confirm import open_confirm
from exclave.ending import EndingSwitch
from exclave.kit.tasks.latest import Latest
from exclave.redirect.kernel.nft import find_armed
from exclave.redirect.reconciler import open_redirect
from redirect.policies import PLAIN


async def main(state: str, address: str) -> None:
    membership = SimpleNamespace(view=Latest(None))
    async with open_confirm(Path(state), membership, await find_armed()) as confirming:
        wanted = Latest(replace(PLAIN, addresses=(address,), armed_until=confirming.arm()))
        async with open_redirect(wanted, Path(state), EndingSwitch()):
            print(confirming.view.value.stage.value, flush=True)
            await trio.sleep_forever()


trio.run(main, *sys.argv[1:])
