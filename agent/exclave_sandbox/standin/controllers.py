"""The stand-in proxy's connections to Linkerd's controllers, as linkerd2-proxy's metrics show them.

Destination: connected to all the time, needed or not.
Policy: once certified, asked for each inbound port and the admin port until it answers. Only the arrival of an answer
is used, not its content: the stand-in controller has no policy beside the default.
"""

import logging
from typing import NoReturn

import dns.exception
import h11
import trio

from exclave_sandbox.standin.admin import Counts, Labels
from exclave_sandbox.standin.lookup import PATIENCE, RETRY, Resolver, get
from exclave_sandbox.standin.settings import StandinSettings
from exclave_sandbox.standin.stream import BROKEN, connect

log = logging.getLogger(__name__)

POLL_PAUSE = 0.5
"""Seconds between two connections to the destination controller."""
CONNECT_TIME = 1.0
"""Seconds."""
GAUGE = "control_destination_balancer_endpoints"


async def watch_controller(resolver: Resolver, counts: Counts) -> NoReturn:
    """Keep the gauge up to date."""
    while True:
        is_there = await reaches(resolver)
        for state, connected in (("ready", is_there), ("pending", not is_there)):
            counts.set(GAUGE, (("endpoint_state", state), ("addr", resolver.server)), int(connected))
        await trio.sleep(POLL_PAUSE)


async def reaches(resolver: Resolver) -> bool:
    """Whether the controller accepts a connection."""
    try:
        with trio.fail_after(CONNECT_TIME):
            async with await connect(await resolver.find()):
                return True
    except (*BROKEN, dns.exception.DNSException):
        return False


async def ask_for_policies(
    settings: StandinSettings, resolver: Resolver, counts: Counts, certified: trio.Event, arrived: set[int]
) -> NoReturn:
    """Ask for the policies of all ports at once, after `certified`; add each port to `arrived` with its answer."""
    await certified.wait()
    async with trio.open_nursery() as nursery:
        for port in sorted({*settings.inbound_ports, settings.admin[1]}):
            nursery.start_soon(_ask, settings, resolver, port, counts, arrived)
        await trio.sleep_forever()


async def _ask(settings: StandinSettings, resolver: Resolver, port: int, counts: Counts, arrived: set[int]) -> None:
    host, number = settings.policy_server
    addr = ("addr", f"{host}:{number}")
    while True:
        status = 0
        try:
            with trio.fail_after(PATIENCE):
                server = await resolver.find()
                counts.add("control_request_total", (addr,))
                status, _ = await get(server, f"/policy?port={port}")
        except (*BROKEN, h11.ProtocolError, dns.exception.DNSException) as problem:
            log.debug("policy controller: %s", problem)
        if status:
            answered: Labels = (addr, ("status_code", str(status)))
            counts.add("control_response_latency_ms_count", answered)  # linkerd2-proxy: first message of the stream
        if status == 200:
            arrived.add(port)
            return
        await trio.sleep(RETRY)
