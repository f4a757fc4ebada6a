"""Observes the firewall of this network namespace, until it is ended. Argument: own address.

Prints at each change what keeps the pod 10.42.0.2 out of port 8080, as JSON: message and hint, or null.
"""

import json
import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from exclave.api.settings import Settings
from exclave.firewall.observer import open_firewall
from exclave.kit.tasks.latest import Latest
from support.mesh import make_settings


async def main() -> None:
    settings = Latest[Settings | None](make_settings())
    async with open_firewall(settings, Latest((sys.argv[1],))) as firewall:
        async for blocked in firewall.blocked.changes():
            print(json.dumps(blocked and [blocked.message, blocked.hint]), flush=True)


trio.run(main)
