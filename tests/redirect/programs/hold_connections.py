"""Hold many connections that exchange words all the time. Arguments: connections for each place, places.

At each line of stdin, print who serves the connections that are alive.
"""

import asyncio
import json
import sys


class Flow:
    words, is_alive, who = 0, True, None

    async def talk(self, place):
        address, port = place.rsplit("/", 1)
        lines, out = await asyncio.open_connection(address, int(port))
        self.who = json.loads(await lines.readline())["who"]
        try:
            while True:
                out.write(b"word\n")
                if await asyncio.wait_for(lines.readline(), 20) != b"word\n":
                    break
                self.words += 1
                await asyncio.sleep(0.002)
        except (OSError, asyncio.TimeoutError):
            pass
        self.is_alive = False


async def wait_until(condition):
    while not condition():  # noqa: ASYNC110  the words of many flows are counted
        await asyncio.sleep(0.002)


def has_answered(flow, words_before):
    """Whether a word that was sent after the count has come back: the one under way then may be an older one."""
    return not flow.is_alive or flow.words > words_before + 1


async def main():
    places = sys.argv[2:] * int(sys.argv[1])
    flows = [Flow() for _ in places]
    tasks = [asyncio.create_task(flow.talk(place)) for flow, place in zip(flows, places, strict=True)]
    await wait_until(lambda: all(flow.words for flow in flows))
    print("up", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        pairs = [(flow, flow.words) for flow in flows]
        await wait_until(lambda pairs=pairs: all(has_answered(flow, words) for flow, words in pairs))
        print(json.dumps([flow.who for flow in flows if flow.is_alive]), flush=True)
    for task in tasks:
        task.cancel()


asyncio.run(main())
