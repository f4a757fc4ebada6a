"""Answers DNS queries until it is killed, and prints `up` once it can.

python stub.py ADDRESS SETTINGS
"""

import sys

import trio

from exclave.api.settings import parse_settings
from exclave.dns.server import open_dns
from exclave.kit.tasks.latest import Latest


async def main(address: str, text: str) -> None:
    async with open_dns(address, Latest(parse_settings(text))):
        print("up", flush=True)
        await trio.sleep_forever()


trio.run(main, *sys.argv[1:])
