"""From `exclave join` to the first request over mutual TLS, with the requests to the API server on the way."""

import logging
import ssl
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import trio
from tests.bench.figures import heading, note, row

from exclave_sandbox.demo.membership import BY_ADDRESS, JoinScenes
from exclave_sandbox.stage.stage import DemoStage, open_stage

UNTIL_MESHED = Path(__file__).with_name("programs") / "until_meshed.py"

RUNS = 3


async def measure() -> tuple[float, float, Counter[tuple[str, str]], float]:
    """Seconds to the first meshed request, seconds until `exclave join` returned, requests by step, the peer's time."""
    async with open_stage("24h") as stage:
        joining = JoinScenes(stage)
        await joining.outside()
        await joining.make_token()
        stage.vm.start_agent()
        await stage.vm.wait_idle()
        before = Counter(stage.api.counts)
        first = 0.0

        async def ask() -> None:
            nonlocal first
            await stage.pod.must(sys.executable, str(UNTIL_MESHED), BY_ADDRESS)
            first = time.perf_counter()

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await joining.join()
            joined = time.perf_counter()
        asked: Counter[tuple[str, str]] = Counter()
        for (user, verb, resource), count in (stage.api.counts - before).items():
            if user.startswith("system:serviceaccount:shop-vms:"):
                asked[_who(user), f"{verb} {resource}"] += count
        return first - began, joined - began, asked, await bare_requests(stage, asked.total())


def _who(user: str) -> str:
    return "join account" if ".join." in user else "own account"


async def bare_requests(stage: DemoStage, count: int) -> float:
    """Seconds for as many requests in a row by a bare client, connection and all."""
    began = time.perf_counter()
    tls = ssl.create_default_context(cadata=stage.access.ca)
    headers = {"Authorization": f"Bearer {stage.api.admin_token}"}
    async with httpx.AsyncClient(verify=tls, headers=headers, trust_env=False) as client:
        for _ in range(count):
            (await client.get(f"{stage.api.url}/api/v1/namespaces/shop")).raise_for_status()
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    runs = [trio.run(measure, strict_exception_groups=True) for _ in range(RUNS)]
    first, joined, asked, peer = sorted(runs, key=lambda run: run[0])[RUNS // 2]
    heading(f"Joining (median of {RUNS} runs)")
    row("exclave join to the first meshed request", first, "s", peer)
    row("exclave join to its own end: pods may send traffic", joined, "s", peer)
    note(f"peer: {asked.total()} requests in a row by a bare HTTPS client, to the same server")
    row("API round trips of the machine, a watch counted as one", asked.total(), "")
    for (who, what), count in sorted(asked.items(), key=lambda item: (item[0][0] != "join account", item[0])):
        row(f"  {who}: {what}", count, "")


if __name__ == "__main__":
    main()
