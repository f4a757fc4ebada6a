"""A stand-in for Linkerd's destination and policy controllers: `python -m exclave_sandbox.linkerd.destination --help`.

`GET /endpoint?address=IP&port=PORT`: 200 and {"identity", "serverName", "address", "port", "opaque"}; 404 outside of
the mesh; 503 for a Service without a ready endpoint; 500 before the first lists. Endpoints of a Service take turns.
`GET /follows`: 200 while the API server answers every list, else 503.
`GET /policy?port=PORT`: 200 and {}: there are no policies beside the proxies' default.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import trio

from exclave.api.requests import EXTERNAL_WORKLOADS, Object, Resource, is_transient, list_all
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.watch import Listed, Upserted
from exclave.controller.cache import key_of
from exclave.errors import ClusterError
from exclave.kit.formats.host_port import join_host_port, split_host_port
from exclave.kit.tasks.nursery import members, open_bare_nursery
from exclave_sandbox.http1 import json_answer, serve_requests
from exclave_sandbox.linkerd.destination_table import FOLLOWED, DestinationTable, NoEndpoints

POLL_PAUSE = 0.2  # seconds between two lists of one kind


class Follower:
    """Updates the table. Its coroutines raise ClusterError if asking again cannot help."""

    def __init__(self, cluster: Cluster, table: DestinationTable) -> None:
        self._cluster = cluster
        self._table = table
        self._watching = trio.CancelScope()

    async def poll(self, resource: Resource) -> NoReturn:
        """List the objects of a kind again and again."""
        while True:
            try:
                listed = await self._cluster.send(list_all(resource, None))
                self._table.replace(resource, listed["items"])
            except ClusterError as problem:
                if not is_transient(problem):
                    raise
                self._table.mark_stale(resource)
                self._table.mark_stale(EXTERNAL_WORKLOADS)
                self._watching.cancel()  # a new watch does not wait before its first attempt
            await trio.sleep(POLL_PAUSE)

    async def watch_workloads(self) -> NoReturn:
        """Watch the ExternalWorkloads: between two lists a change that lasts for a second may be missed."""
        while True:
            with trio.CancelScope() as self._watching:
                async with self._cluster.watch(EXTERNAL_WORKLOADS, None) as events:
                    objects: dict[tuple[str, str], Object] = {}
                    async for event in events:
                        if isinstance(event, Listed):
                            objects = {key_of(each): each for each in event.objects}
                        elif isinstance(event, Upserted):
                            objects[key_of(event.object)] = event.object
                        else:
                            objects.pop(key_of(event.object), None)
                        self._table.replace(EXTERNAL_WORKLOADS, objects.values())


class LookupServer:
    """Answers lookups from a table."""

    def __init__(self, table: DestinationTable) -> None:
        self._table = table
        self._turn = itertools.count()

    def answer(self, target: str) -> tuple[int, Any]:
        """Status and JSON for a request target."""
        path, _, query = target.partition("?")
        if path == "/policy":
            return 200, {}
        if path == "/follows":
            return (200 if self._table.is_followed else 503), {}
        asked = dict(parse_qsl(query))
        if path != "/endpoint" or not asked.get("port", "").isdecimal():
            return 400, {"message": "GET /endpoint?address=IP&port=PORT was expected"}
        if not self._table.is_complete:
            return 500, {"message": "the cluster's objects have not been read yet"}
        try:
            endpoints = self._table.find(asked.get("address", ""), int(asked["port"]))
        except NoEndpoints as problem:
            return 503, {"message": f"no endpoint of {problem} is ready"}
        if not endpoints:
            return 404, {"message": "the address is not in the mesh"}
        return 200, endpoints[next(self._turn) % len(endpoints)].as_json()

    async def talk(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        await serve_requests(stream, lambda request: json_answer(*self.answer(request.target.decode("ascii"))))


async def serve(places: Sequence[tuple[str, int]], access: Access, token: str, trust_domain: str) -> None:
    """Read the cluster and answer, for ever. Raises ClusterError."""
    table = DestinationTable(trust_domain)
    async with open_cluster(access, lambda: token) as cluster, open_bare_nursery() as nursery:
        follower = Follower(cluster, table)
        for resource in FOLLOWED:
            if resource is not EXTERNAL_WORKLOADS:
                nursery.start_soon(follower.poll, resource)
        nursery.start_soon(follower.watch_workloads)
        listeners = [one for host, port in places for one in await trio.open_tcp_listeners(port, host=host)]
        for listener in listeners:
            print(f"listening on {join_host_port(*listener.socket.getsockname()[:2])}", flush=True)
        await trio.serve_listeners(LookupServer(table).talk, listeners)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exclave_sandbox.linkerd.destination",
        description="Looks up the mesh identity of destinations, in place of Linkerd's destination controller.",
    )
    add = partial(parser.add_argument, required=True)
    add("--listen", action="append", metavar="ADDR:PORT", help="where to listen; port 0 takes a free one")
    add("--server", metavar="URL", help="the API server")
    add("--ca-file", type=Path, metavar="FILE", help="the API server's CA, PEM")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a token that may list Services and Pods, and watch ExternalWorkloads",
    )
    parser.add_argument("--trust-domain", default="cluster.local", help="of the mesh (default: cluster.local)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; the exit code."""
    options = _parser().parse_args(arguments)
    places = [split_host_port(place, lowest=0) for place in options.listen]
    access = Access((options.server,), options.ca_file.read_text())
    token = options.token_file.read_text().strip()
    try:
        trio.run(serve, places, access, token, options.trust_domain, strict_exception_groups=True)
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        refusals = members(problem) or (problem,)  # several kinds may be refused at once
        if not all(isinstance(refusal, ClusterError) for refusal in refusals):
            raise
        sys.stderr.write(f"{refusals[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
