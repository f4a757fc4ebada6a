"""What the stand-in proxy asks the policy controller, so that it can be told whether its policies have arrived.

Rules: as linkerd2-proxy, it asks once for each inbound port that it was told of, and for its admin port, as soon as it
has a certificate, and goes on until it is answered; each answer is counted under linkerd2-proxy's name for the first
message of such a stream. What the answer says is not used, only that it has come (`arrived` holds the ports): the
stand-in controller knows no policy but the default.
"""

import logging
from typing import NoReturn

import dns.exception
import h11
import trio

from exclave_sandbox.standin.admin import Counts, Labels
from exclave_sandbox.standin.lookup import PATIENCE, RETRY, Resolver, get
from exclave_sandbox.standin.settings import StandinSettings
from exclave_sandbox.standin.stream import BROKEN

log = logging.getLogger(__name__)


async def ask_for_policies(
    settings: StandinSettings, resolver: Resolver, counts: Counts, certified: trio.Event, arrived: set[int]
) -> NoReturn:
    """Ask for every port's policy, all at once, once there is a certificate to ask with (`certified`)."""
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
            counts.add("control_response_latency_ms_count", answered)
        if status == 200:
            arrived.add(port)
            return
        await trio.sleep(RETRY)
