"""The connections of the stand-in proxy to Linkerd's controllers: look-ups of destinations, and policies.

An answer in use is fetched again after half a second: linkerd2-proxy has a stream. No connection waits long for that.
While the controller is away a destination without an answer waits, for ever, as there.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver
import h11
import trio

from exclave.kit.formats.json_text import parse_json
from exclave_sandbox.http1 import HttpClient
from exclave_sandbox.linkerd.destination_table import MeshEndpoint, NoEndpoints
from exclave_sandbox.standin.admin import Counts, Labels
from exclave_sandbox.standin.settings import Address, StandinSettings
from exclave_sandbox.standin.stream import BROKEN, connect

log = logging.getLogger(__name__)
REFRESH = 0.5  # seconds between two fetches of an answer in use
MOST_DELAY = 0.5  # seconds that a connection waits for the newer answer; then it uses the former one
RETRY = 0.25
ANSWER_TIME = 1.0  # seconds in which the name servers have to answer
PATIENCE = 3.0  # seconds for one answer, and for a Service to get an endpoint (linkerd2-proxy's failfast)


class Away(Exception):
    """The controller does not answer."""


@dataclass
class _CachedEndpoint:
    endpoint: MeshEndpoint | None
    fetched: float
    used: float


class LookupCache:
    """Asks the controller, and caches its answers. `remember` is the seconds that an unused answer is cached.

    `counts` gets the metrics of requests and answers.
    """

    def __init__(self, find_server: "Resolver", remember: float, clock: Callable[[], float], counts: Counts) -> None:
        self._resolver = find_server
        self._remember = remember
        self._clock = clock
        self._counts = counts
        self._addr = ("addr", find_server.server)
        self._cache: dict[Address, _CachedEndpoint] = {}

    async def find(self, destination: Address) -> MeshEndpoint | None:
        """The endpoint for a destination, None if that is not in the mesh. Raises NoEndpoints."""
        now = self._clock()
        cached = self._cache.get(destination)
        if cached is not None and now - cached.used <= self._remember:
            cached.used = now
            if now - cached.fetched >= REFRESH:
                cached.fetched = now
                with trio.move_on_after(MOST_DELAY):
                    await self._fetch_again(destination, cached)
            if destination in self._cache:
                return cached.endpoint
        while True:
            try:
                endpoint = await self._ask(destination)
                self._cache[destination] = _CachedEndpoint(endpoint, self._clock(), self._clock())
                return endpoint
            except NoEndpoints:
                if self._clock() >= now + PATIENCE:
                    raise
            except Away as problem:
                log.debug("destination controller: %s", problem)
            await trio.sleep(RETRY)

    async def _fetch_again(self, destination: Address, cached: _CachedEndpoint) -> None:
        try:
            cached.endpoint = await self._ask(destination)
        except NoEndpoints:
            self._cache.pop(destination, None)  # this connection waits for one
        except Away as problem:
            log.debug("destination controller: %s", problem)

    async def _ask(self, destination: Address) -> MeshEndpoint | None:
        address, port = destination
        try:
            with trio.fail_after(PATIENCE):
                server = await self._resolver.find()
                self._counts.add(REQUESTS, (self._addr,))
                status, body = await get(server, f"/endpoint?address={address}&port={port}")
                self._counts.add(ANSWERS, (self._addr, ("status_code", str(status))))
        except (*BROKEN, h11.ProtocolError, dns.exception.DNSException) as problem:
            raise Away(str(problem) or type(problem).__name__) from None
        if status == 404:
            return None
        if status == 503:
            raise NoEndpoints(f"no endpoint for {address}:{port}")
        if status != 200:
            raise Away(f"status {status}")
        try:
            return read_endpoint(parse_json(body))
        except ValueError as problem:
            raise Away(str(problem)) from None


def read_endpoint(tree: dict[str, Any]) -> MeshEndpoint:
    """An endpoint of the destination controller's JSON. Raises ValueError."""
    try:
        return MeshEndpoint(
            tree["address"], int(tree["port"]), tree["identity"], tree["serverName"], bool(tree["opaque"])
        )
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError("an endpoint of the destination controller was expected") from None


async def get(server: Address, path: str) -> tuple[int, bytes]:
    """Status and body of one GET. Raises what a broken stream raises, h11.ProtocolError, trio.TooSlowError."""
    async with await connect(server) as stream:
        return await HttpClient(stream).get(server[0], path, is_last=True)


class Resolver:
    """Finds the address of one server: an IP as it is, a name by DNS. The last answer is used when DNS fails."""

    def __init__(self, server: Address, resolv_conf: str) -> None:
        self.server = f"{server[0]}:{server[1]}"
        self._server = server
        self._last: Address | None = None
        self._dns = dns.asyncresolver.Resolver(configure=False)
        words = [line.split() for line in resolv_conf.splitlines()]
        self._dns.nameservers = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]
        self._dns.lifetime = ANSWER_TIME

    async def find(self) -> Address:
        """Host and port. Raises OSError if no name server ever had an address of the name, or a DNSException."""
        try:
            return str(ip_address(self._server[0])), self._server[1]
        except ValueError:  # a name
            pass
        try:
            self._last = await self._resolve(*self._server)
        except (OSError, dns.exception.DNSException):
            if self._last is None:
                raise
        return self._last

    async def _resolve(self, host: str, port: int) -> Address:
        targets = [(record.target, record.port) for record in await self._query(host, "SRV")]
        for name, number in (*targets, (host, port)):
            for kind in ("A", "AAAA"):
                for record in await self._query(name, kind):
                    return record.address, number
        raise OSError(f"{host} has no address")

    async def _query(self, name: str | dns.name.Name, kind: str) -> list[Any]:
        try:
            return list(await self._dns.resolve(name, kind))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.NoNameservers):
            return []


def read_resolv_conf() -> str:
    """The machine's resolv.conf; "" if there is none."""
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""


POLL_PAUSE = 0.5  # seconds between two connections to the destination controller
CONNECT_TIME = 1.0  # seconds
REQUESTS = "control_request_total"
ANSWERS = "control_response_latency_ms_count"  # linkerd2-proxy counts the first message of a stream
GAUGE = "control_destination_balancer_endpoints"


async def watch_controller(resolver: Resolver, counts: Counts) -> NoReturn:
    """Keep the gauge up to date."""
    while True:
        is_there = await reaches(resolver)
        for state, connected in (("ready", is_there), ("pending", not is_there)):
            counts.set(GAUGE, (("endpoint_state", state), ("addr", resolver.server)), int(connected))
        await trio.sleep(POLL_PAUSE)


async def reaches(resolver: Resolver) -> bool:
    """True if the controller accepts a connection."""
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
                counts.add(REQUESTS, (addr,))
                status, _ = await get(server, f"/policy?port={port}")
        except (*BROKEN, h11.ProtocolError, dns.exception.DNSException) as problem:
            log.debug("policy controller: %s", problem)
        if status:
            answered: Labels = (addr, ("status_code", str(status)))
            counts.add(ANSWERS, answered)
        if status == 200:
            arrived.add(port)
            return
        await trio.sleep(RETRY)
