"""Traces one connection attempt and prints the verdicts; with the argument `wait`, it waits before the attempt."""

import os
import sys

import trio

from exclave.explain.trace import listen_for_events, open_attempt, open_tracing, read_events, send_first_packet


async def main() -> None:
    with open_attempt(4, 4242, 4343) as attempt:
        async with open_tracing(attempt.getsockname()[1]):
            print("tracing", os.getpid(), flush=True)
            if sys.argv[1:] == ["wait"]:
                await trio.sleep_forever()
            with listen_for_events() as channel:
                send_first_packet(attempt, "10.42.0.9", 80)
                for event in read_events(channel):
                    if event.verdict != "continue":
                        print(event.table, event.chain, event.verdict, flush=True)


trio.run(main)
