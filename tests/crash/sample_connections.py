"""Opens a connection every PAUSE seconds, with one request: python sample_connections.py HOST PORT PAUSE PATIENCE.

Each line of input is answered with one JSON line of the connections that have ended since: [[begun, ended, outcome], …]
by the monotonic clock. The outcome is `meshed` if the server saw an identity, `plain` if not, else the failure.
"""

import asyncio
import json
import sys
import time

HOST, PORT, PAUSE, PATIENCE = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
DONE: list[tuple[float, float, str]] = []


async def ask() -> str:
    reader, writer = await asyncio.open_connection(HOST, PORT)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        return f"answer {head[:40]!r}"
    return "meshed" if json.loads(body)["client_id"] else "plain"


async def sample() -> None:
    begun = time.monotonic()
    try:
        outcome = await asyncio.wait_for(ask(), PATIENCE)
    except (OSError, asyncio.TimeoutError, ValueError) as problem:
        outcome = f"{type(problem).__name__} {problem}"
    DONE.append((begun, time.monotonic(), outcome))


async def main() -> None:
    loop, running = asyncio.get_running_loop(), set()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def answer_lines() -> None:
        while await lines.readline():
            print(json.dumps(DONE), flush=True)
            DONE.clear()

    answering = asyncio.create_task(answer_lines())
    while not answering.done():
        task = asyncio.create_task(sample())
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(PAUSE)


asyncio.run(main())
