"""The IP addresses of the API servers, or of their proxy, as one published value. Lookups run in the background.

The last answers are on disk, for a boot without DNS. A failed lookup, also NXDOMAIN, changes nothing: the
machine may be offline or outside the VPN.
"""

import json
import logging
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import trio

from exclave.cluster.endpoint import ServerAddress, address_in_url, endpoint_host_and_port
from exclave.errors import HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise

log = logging.getLogger(__name__)

FILE = "server-addresses.json"

LOOKUP = 30.0  # seconds for a lookup: glibc queries up to three name servers twice, for 5 s each (resolv.conf(5))
EVERY = 10.0  # seconds between two lookups of a name
AFTER_FAILURE = 2.0  # the same after a lookup that failed
FIRST_ANSWER = 2.0  # seconds that opening waits for names without a known address

RETAINED = 600.0  # seconds that an address stays after its last answer: some name servers return only a part each time

Answers = Mapping[str, Collection[str]]  # the addresses of each server, by its URL


async def resolve(server: str) -> frozenset[str]:
    """The addresses of one API server. Raises OSError, or trio.TooSlowError after `LOOKUP` seconds."""
    # getaddrinfo, as the HTTP client uses: dnspython's resolver reads neither /etc/hosts nor nsswitch.conf.
    if (address := address_in_url(server)) is not None:
        return frozenset({address})
    host, port = endpoint_host_and_port(server)
    with trio.fail_after(LOOKUP):
        targets = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]).partition("%")[0] for _, _, _, _, address in targets)


async def resolve_all(servers: Sequence[str], timeout: float) -> dict[str, frozenset[str]]:
    """The addresses of each server that is resolved within `timeout` seconds."""
    answers: dict[str, frozenset[str]] = {}

    async def resolve_one(server: str) -> None:
        try:
            answers[server] = await resolve(server)
        except (OSError, trio.TooSlowError) as problem:
            log.debug("%s is not resolved: %s", server, _reason(problem))

    with trio.move_on_after(timeout):
        async with open_bare_nursery() as nursery:
            for server in servers:
                nursery.start_soon(resolve_one, server)
    return answers


def list_addresses(servers: Sequence[str], answers: Answers) -> tuple[ServerAddress, ...]:
    """All addresses, in the order of the servers; for each server IPv4 first, then by number."""
    found = {
        ServerAddress(str(address), endpoint_host_and_port(server)[1]): None
        for server in servers
        for address in sorted(map(ip_address, answers.get(server, ())), key=lambda one: (one.version, int(one)))
    }
    return tuple(found)


def store_answers(state: Path, answers: Answers) -> None:
    """Write the addresses of the servers whose URL has a name, if there are any. Raises HostError."""
    named = {server: sorted(addresses) for server, addresses in answers.items() if address_in_url(server) is None}
    if named:
        write_atomic(state / FILE, (json.dumps(named, indent=1) + "\n").encode())


def load_answers(state: Path, servers: Sequence[str]) -> dict[str, frozenset[str]]:
    """The stored addresses of these servers; none if the file is missing or unusable."""
    try:
        tree = parse_json((state / FILE).read_text(encoding="utf-8"))
        return {server: frozenset(str(ip_address(one)) for one in tree[server]) for server in servers if server in tree}
    except (OSError, ValueError, TypeError):
        return {}


def forget_answers(state: Path) -> None:
    """Remove the file. Raises HostError."""
    remove(state / FILE)


class _AddressBook:
    """The addresses of each server, each with the time of its last answer."""

    def __init__(self, servers: Sequence[str], state: Path) -> None:
        self._servers = servers
        self._state = state
        self._stored: dict[str, frozenset[str]] = load_answers(state, servers)
        now = trio.current_time()
        self._times: dict[str, dict[str, float]] = {}
        for server in servers:
            address = address_in_url(server)
            addresses_now = self._stored.get(server, frozenset()) if address is None else {address}
            self._times[server] = dict.fromkeys(addresses_now, now)
        self._problems: dict[str, str] = {}
        self.latest = Latest(list_addresses(servers, self._times))

    @property
    def is_complete(self) -> bool:
        return all(self._times.values())

    async def run(self, server: str) -> None:
        while True:
            try:
                answer = await resolve(server)
            except (OSError, trio.TooSlowError) as problem:
                self._report(server, _reason(problem))
                await trio.sleep(AFTER_FAILURE)
            else:
                self._report(server, None)
                self._record(server, answer)
                await trio.sleep(EVERY)

    def _record(self, server: str, answer: frozenset[str]) -> None:
        now = trio.current_time()
        times = {**self._times[server], **dict.fromkeys(answer, now)}
        self._times[server] = {address: time for address, time in times.items() if now - time <= RETAINED}
        self.latest.set(list_addresses(self._servers, self._times))
        addresses_now = frozenset(self._times[server])
        if addresses_now != self._stored.get(server):
            self._stored[server] = addresses_now
            try:
                store_answers(self._state, self._stored)
            except HostError as problem:  # a full disk must not end the lookups
                log.warning("%s", problem)

    def _report(self, server: str, problem: str | None) -> None:
        host, last = endpoint_host_and_port(server)[0], self._problems.get(server)
        if problem is None:
            if self._problems.pop(server, None) is not None:
                log.info("the API server's name %s is resolved again", host)
        elif problem != last:
            self._problems[server] = problem
            addresses_now = ", ".join(sorted(self._times[server]))
            log.warning(
                "the API server's name %s is not resolved: %s; %s",
                host,
                problem,
                f"its last addresses are used: {addresses_now}" if addresses_now else "no address of it is known",
            )


def _reason(problem: BaseException) -> str:
    if isinstance(problem, trio.TooSlowError):
        return f"no answer within {LOOKUP:.0f} s"
    if isinstance(problem, socket.gaierror) and problem.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
        return "there is no such name"
    return str(getattr(problem, "strerror", None) or problem)


@asynccontextmanager
async def open_server_addresses(
    servers: Sequence[str], state: Path
) -> AsyncIterator[Latest[tuple[ServerAddress, ...]]]:
    """Publish the API servers' addresses while open; from the start those that are stored or in URLs.

    Opening waits up to `FIRST_ANSWER` seconds for DNS, only if a server was never resolved here.
    """
    book = _AddressBook(servers, state)
    async with open_bare_nursery() as nursery:
        for server in dict.fromkeys(servers):
            if address_in_url(server) is None:
                nursery.start_soon(supervise, f"addresses of {server}", partial(book.run, server))
        with trio.move_on_after(FIRST_ANSWER):
            await book.latest.wait_for(lambda _: book.is_complete)
        yield book.latest
        nursery.cancel_scope.cancel()
