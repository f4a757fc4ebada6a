"""Whom a destination belongs to: lookups at the stand-in destination controller, and names for it.

Rules: an answer is used for half a second, then asked for again; while the controller is away, what was in use within
the last idle timeout goes on as it is, and anything else waits for it, for ever: linkerd2-proxy does the same with its
streams. Names are looked up as linkerd2-proxy does: SRV first, then A and AAAA, at the server of /etc/resolv.conf,
which is read once.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.rdatatype
import h11
import trio

from exclave_sandbox.standin.settings import Address
from exclave_sandbox.standin.stream import BROKEN, connect

log = logging.getLogger(__name__)

FRESH = 0.5
"""Seconds that an answer is used without asking again."""

RETRY = 0.25
PATIENCE = 3.0
"""Seconds for one answer; also how long a Service without endpoints is given to get one (linkerd2-proxy's failfast)."""


class NoEndpoint(Exception):
    """A Service without an endpoint that is ready."""


class Away(Exception):
    """The controller does not answer."""


@dataclass(frozen=True)
class Endpoint:
    """Where connections go; `identity` is who must answer there, None if it is not in the mesh."""

    address: str
    port: int
    identity: str | None
    server_name: str | None
    is_opaque: bool


@dataclass
class _Known:
    endpoint: Endpoint | None
    fetched: float
    used: float


class Lookups:
    """Asks, and remembers. `remember` is seconds that an unused answer survives.

    `is_away`: the controller is known to be away, so that what is known is used without asking.
    """

    def __init__(self, find_server: "Resolver", remember: float, clock: Callable[[], float]) -> None:
        self._resolver = find_server
        self._remember = remember
        self._clock = clock
        self.is_away = False
        self._known: dict[Address, _Known] = {}

    async def find(self, destination: Address) -> Endpoint | None:
        """The endpoint for a destination, None if it is none of the mesh's business. Raises NoEndpoint."""
        known = self._recall(destination)
        if known is not None and (self.is_away or self._clock() - known.fetched < FRESH):
            return known.endpoint
        deadline = self._clock() + PATIENCE
        while True:
            try:
                endpoint = await self._ask(destination)
                now = self._clock()
                self._known[destination] = _Known(endpoint, now, now)
                return endpoint
            except NoEndpoint:
                self._known.pop(destination, None)
                if self._clock() >= deadline:
                    raise
            except Away as problem:
                if known is not None:
                    known.fetched = self._clock()  # asked again after FRESH, not by every connection
                    return known.endpoint
                log.debug("destination controller: %s", problem)
            await trio.sleep(RETRY)

    def _recall(self, destination: Address) -> _Known | None:
        now = self._clock()
        known = self._known.get(destination)
        if known is None or now - known.used > self._remember:
            return None
        known.used = now
        return known

    async def _ask(self, destination: Address) -> Endpoint | None:
        address, port = destination
        try:
            with trio.fail_after(PATIENCE):
                server = await self._resolver.find()
                status, body = await get(server, f"/endpoint?address={address}&port={port}")
        except (*BROKEN, h11.ProtocolError, dns.exception.DNSException) as problem:
            raise Away(str(problem) or type(problem).__name__) from None
        if status == 404:
            return None
        if status == 503:
            raise NoEndpoint(f"no endpoint for {address}:{port}")
        if status != 200:
            raise Away(f"status {status}")
        return read_endpoint(json.loads(body))


def read_endpoint(tree: dict[str, Any]) -> Endpoint:
    """An endpoint as the destination controller writes it. Raises KeyError."""
    return Endpoint(tree["address"], int(tree["port"]), tree["identity"], tree["serverName"], bool(tree["opaque"]))


async def get(server: Address, target: str) -> tuple[int, bytes]:
    """Status and body of one GET. Raises what a broken stream raises, h11.ProtocolError, trio.TooSlowError."""
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", server[0]), ("Connection", "close")]
    async with await connect(server) as stream:
        request = http.send(h11.Request(method="GET", target=target, headers=headers)) or b""
        await stream.send_all(request + (http.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("closed before the answer was whole")


class Resolver:
    """Finds the address of one server: an IP as it is, a name by DNS, each time it is asked."""

    def __init__(self, server: Address, resolv_conf: str) -> None:
        self.server = f"{server[0]}:{server[1]}"
        self._server = server
        words = [line.split() for line in resolv_conf.splitlines()]
        self._nameservers = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]

    async def find(self) -> Address:
        """Host and port. Raises OSError if no name server knows it, or a DNSException."""
        host, port = self._server
        try:
            return str(ip_address(host)), port
        except ValueError:
            pass
        for nameserver in self._nameservers:
            found = await self._ask_server(nameserver, host, port)
            if found is not None:
                return found
        raise OSError(f"{host} has no address")

    async def _ask_server(self, nameserver: str, host: str, port: int) -> Address | None:
        for record in await _query(nameserver, host, dns.rdatatype.SRV):
            for address in await _addresses(nameserver, record.target.to_text()):
                return address, record.port
        for address in await _addresses(nameserver, host):
            return address, port
        return None


async def _addresses(nameserver: str, name: str) -> list[str]:
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        found = await _query(nameserver, name, kind)
        if found:
            return [record.address for record in found]
    return []


async def _query(nameserver: str, name: str, kind: dns.rdatatype.RdataType) -> list[Any]:
    """The records of one kind. Raises OSError if nobody is there, trio.TooSlowError if nobody answers."""
    question = dns.message.make_query(name, kind)
    family = trio.socket.AF_INET6 if ":" in nameserver else trio.socket.AF_INET
    with trio.fail_after(1.0), trio.socket.socket(family, trio.socket.SOCK_DGRAM) as channel:
        await channel.connect((nameserver, 53))
        await channel.send(question.to_wire())
        while True:
            answer = dns.message.from_wire(await channel.recv(4096))
            if question.is_response(answer):
                return [record for records in answer.answer if records.rdtype == kind for record in records]


def read_resolv_conf() -> str:
    """The machine's resolv.conf; "" if there is none."""
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""
