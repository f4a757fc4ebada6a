"""A stand-in for Linkerd's destination and policy controllers: `python -m exclave_sandbox.linkerd.destination --help`.

Rules: it follows Services, ExternalWorkloads and Pods in all namespaces, and goes on answering from what it knows while
the API server is away; before it knows everything once, it answers 500. It answers
`GET /endpoint?address=IP&port=PORT` with 200 and {"identity", "serverName", "address", "port", "opaque"}, 404 if that
is none of the mesh's, 503 if it is a Service that has no endpoint that is ready; endpoints of a Service take turns.
`GET /follows` answers 200 while every kind is being watched, 503 while one is not. `GET /policy?port=PORT` answers 200
and {}: it knows no policies beside the proxies' default. It answers all of that wherever it listens.
"""

import argparse
import itertools
import json
import logging
import random
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl

import h11
import httpx
import trio

from exclave.api.requests import Request, Resource, refusal
from exclave.cluster.watch import WatchMachine
from exclave.cluster.watch_events import (
    Answered,
    Arrived,
    Deliver,
    Ended,
    Fetch,
    GiveUp,
    Lost,
    Open,
    Opened,
    Pause,
    Refused,
)
from exclave.errors import ApiRefusal
from exclave.kit.formats.host_port import split_host_port
from exclave.kit.tasks.nursery import members, open_bare_nursery
from exclave_sandbox.linkerd.destination_table import FOLLOWED, NoEndpoints, Table

log = logging.getLogger("destination")

IDLE = 120.0
"""Seconds after which a silent connection is closed."""


@dataclass(frozen=True)
class Source:
    """The API server: its URL, whom to trust, and our token."""

    url: str
    tls: ssl.SSLContext
    token: str = field(repr=False)

    def client(self) -> httpx.AsyncClient:
        """A client of it; streams have no deadline but their machine's."""
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = httpx.Timeout(10.0, read=None)
        return httpx.AsyncClient(base_url=self.url, verify=self.tls, headers=headers, timeout=timeout, trust_env=False)


async def follow(source: Source, resource: Resource, table: Table) -> NoReturn:
    """Keep one kind in the table for ever. Raises ApiRefusal if it may not be read."""
    machine = WatchMachine(resource, None)
    async with source.client() as client:
        while True:
            action = machine.next_action(trio.current_time(), random.random())  # noqa: S311  jitter is no secret
            if isinstance(action, Deliver):
                table.receive(resource, action.event)
            elif isinstance(action, Pause):
                await trio.sleep_until(action.until)
            elif isinstance(action, GiveUp):
                raise action.refusal
            elif isinstance(action, (Fetch, Open)):
                try:
                    if isinstance(action, Fetch):
                        await _fetch(client, action.request, machine, source.url)
                    else:
                        await _read_stream(client, action.request, machine, source.url, table, resource)
                except httpx.HTTPError as problem:
                    machine.receive(Lost(str(problem) or type(problem).__name__), trio.current_time())


async def _fetch(client: httpx.AsyncClient, request: Request, machine: WatchMachine, server: str) -> None:
    with trio.move_on_after(10.0):
        response = await client.get(request.path, params=dict(request.query))
        machine.receive(_judged(request, response, server), trio.current_time())
        return
    machine.receive(Lost("no answer within 10 s"), trio.current_time())


async def _read_stream(
    client: httpx.AsyncClient, request: Request, machine: WatchMachine, server: str, table: Table, resource: Resource
) -> None:
    async with client.stream("GET", request.path, params=dict(request.query)) as response:
        if response.status_code != 200:
            await response.aread()
            machine.receive(_judged(request, response, server), trio.current_time())
            return
        machine.receive(Opened(), trio.current_time())
        with table.followed(resource):
            await _read_events(response.aiter_bytes(), machine, table, resource)


async def _read_events(pieces: AsyncIterator[bytes], machine: WatchMachine, table: Table, resource: Resource) -> None:
    while machine.is_reading:
        action = machine.next_action(trio.current_time(), random.random())  # noqa: S311
        if isinstance(action, Deliver):
            table.receive(resource, action.event)
            continue
        assert not isinstance(action, (Fetch, Open, Pause, GiveUp))
        report: Arrived | Ended | Lost = Lost("silence")
        with trio.move_on_at(action.until):
            piece = await anext(pieces, b"")
            report = Arrived(piece) if piece else Ended()
        machine.receive(report, trio.current_time())


def _judged(request: Request, response: httpx.Response, server: str) -> Answered | Refused:
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code == 200 and isinstance(body, dict):
        return Answered(body)
    return Refused(refusal(request, response.status_code, body, server=server, who="the destination controller"))


class Lookups:
    """Answers lookups from a table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._turn = itertools.count()

    def answer(self, target: str) -> tuple[int, object]:
        """Status and body for a request target."""
        path, _, query = target.partition("?")
        if path == "/policy":
            return 200, {}
        if path == "/follows":
            return (200 if self._table.is_followed else 503), {}
        asked = dict(parse_qsl(query))
        if path != "/endpoint" or not asked.get("port", "").isdecimal():
            return 400, {"message": "GET /endpoint?address=IP&port=PORT was expected"}
        if not self._table.is_complete:
            return 500, {"message": "the cluster's objects are not known yet"}
        try:
            endpoints = self._table.find(asked.get("address", ""), int(asked["port"]))
        except NoEndpoints as problem:
            return 503, {"message": f"no endpoint of {problem} is ready"}
        if not endpoints:
            return 404, {"message": "none of the mesh's"}
        return 200, endpoints[next(self._turn) % len(endpoints)].as_json()

    async def talk(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        http = h11.Connection(h11.SERVER)
        async with stream:
            try:
                with trio.move_on_after(IDLE):
                    while await self._talk_once(http, stream):
                        pass
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return

    async def _talk_once(self, http: h11.Connection, stream: trio.SocketStream) -> bool:
        target = ""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Request):
                target = event.target.decode("ascii")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return False
        status, tree = self.answer(target)
        body = json.dumps(tree).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        await stream.send_all(b"".join(http.send(event) or b"" for event in events))
        if http.our_state is h11.MUST_CLOSE:
            return False
        http.start_next_cycle()
        return True


async def serve(places: Sequence[tuple[str, int]], source: Source, trust_domain: str) -> None:
    """Follow the cluster and answer, for ever."""
    table = Table(trust_domain)
    async with open_bare_nursery() as nursery:
        for resource in FOLLOWED:
            nursery.start_soon(follow, source, resource, table)
        listeners = []
        for address, port in places:
            listeners += await trio.open_tcp_listeners(port, host=address)
        for listener in listeners:
            host, bound = listener.socket.getsockname()[:2]
            sys.stdout.write(f"listening on {host}:{bound}\n")
        sys.stdout.flush()
        await trio.serve_listeners(Lookups(table).talk, listeners)


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m exclave_sandbox.linkerd.destination",
        description="Looks up whom destinations belong to, in place of Linkerd's destination controller.",
    )
    parser.add_argument(
        "--listen", required=True, action="append", metavar="ADDR:PORT", help="where to listen; port 0 takes a free one"
    )
    parser.add_argument("--server", required=True, metavar="URL", help="the API server")
    parser.add_argument("--ca-file", required=True, type=Path, metavar="FILE", help="the API server's CA, PEM")
    parser.add_argument(
        "--token-file", required=True, type=Path, metavar="FILE", help="a token that may list and watch"
    )
    parser.add_argument("--trust-domain", default="cluster.local", help="of the mesh (default: cluster.local)")
    options = parser.parse_args(arguments)
    places = [split_host_port(place, lowest=0) for place in options.listen]
    tls = ssl.create_default_context(cadata=options.ca_file.read_text())
    source = Source(options.server, tls, options.token_file.read_text().strip())
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        trio.run(serve, places, source, options.trust_domain, strict_exception_groups=True)
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        refusals = members(problem) or (problem,)  # several kinds may be refused at once
        if not all(isinstance(refusal, ApiRefusal) for refusal in refusals):
            raise
        sys.stderr.write(f"{refusals[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
