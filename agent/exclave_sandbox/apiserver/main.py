"""A small Kubernetes API server for the demo and the tests: `python -m exclave_sandbox.apiserver.main --help`.

It listens before it writes DIR/ca.pem and then DIR/admin.token. An outage closes the listener and all connections.
"""

import argparse
import ipaddress
import os
import random
import secrets
import signal
import ssl
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from exclave.kit.formats.host_port import join_host_port, split_host_port
from exclave.kit.host.files import remove, write_atomic
from exclave.kit.tasks.latest import Latest
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave_sandbox import pki
from exclave_sandbox.apiserver.access import TokenKey
from exclave_sandbox.apiserver.api import Api, Watch
from exclave_sandbox.apiserver.http import serve_https
from exclave_sandbox.apiserver.kinds import kinds
from exclave_sandbox.apiserver.messages import HttpRequest, Reply, StreamedReply
from exclave_sandbox.apiserver.store import Store
from exclave_sandbox.apiserver.watch import stream_watch

FIRST_REVISION = 1000
"""Where this cluster's history begins: a watch from before that, such as one from version 1, has expired."""
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # k8s.io/apimachinery pkg/util/rand: no vowels, no words
_CERTIFICATE_LIFE = timedelta(days=365)

EPILOG = """\
signals: SIGUSR1 closes the listener and every connection (an outage), SIGUSR2 listens again, SIGTERM ends.
Each is followed by a line on standard output: "listening on URL" or "closed".

Enforced as kube-apiserver does: resource versions and conflicts, finalizers, status subresources, RBAC, ServiceAccount
tokens and their audience, expiry and account, watches with bookmarks, timeouts and 410, merge patches, namespaces.

Not enforced, or otherwise than by kube-apiserver:
  - admission policies are kept and never run; webhooks, quotas and priorities are not served
  - privilege escalation: whoever may write Roles or bindings may grant what they do not have themselves
  - a field of a custom resource that its schema does not name is refused (400), never pruned in silence; such fields
    of Kubernetes' own kinds are kept, and those kinds are checked only where this project writes them
  - patches: JSON merge patch only; no strategic merge, JSON patch, server-side apply, managedFields or dryRun
  - PUT never creates; a list is of the newest version, of an exact one, or goes on with one that was begun
  - tokens die with their account at once, not after ten seconds, and cannot be bound to an object
  - garbage collection happens at once, when an owner is removed, and so does orphaning; Foreground is as Background
  - nothing runs: no pods, no endpoints, no addresses of services, no default ServiceAccounts or events of its own
"""


@dataclass(frozen=True)
class ApiServer:
    """A server that listens, its CA (PEM), the token of an administrator, and the requests that it counted."""

    url: str
    ca: str
    admin_token: str = field(repr=False)
    store: Store = field(repr=False)
    counts: Counter[tuple[str, str, str]] = field(repr=False)
    _listens: Latest[bool] = field(repr=False)
    _wanted: Latest[bool] = field(repr=False)

    async def close(self) -> None:
        """Begin an outage: close the listener and every connection; return when they are closed."""
        self._wanted.set(False)
        await self._listens.wait_for(lambda listens: not listens)

    async def open(self) -> None:
        """End an outage: listen again on the same port, as a server that was restarted; return when it listens."""
        self.store.history.restart()
        self._wanted.set(True)
        await self._listens.wait_for(lambda listens: listens)


@asynccontextmanager
async def open_apiserver(
    address: str,
    port: int,
    directory: Path,
    *,
    certificate_addresses: Sequence[str] = (),
    now: Callable[[], float] = time.time,
) -> AsyncIterator[ApiServer]:
    """Serve on `address` and `port` (0: any) while open. `now` is epoch seconds. Raises OSError if it cannot listen."""
    for name in ("ca.pem", "admin.token"):
        remove(directory / name)
    anchor = pki.make_anchor("exclave sandbox CA", _CERTIFICATE_LIFE)
    context = _make_context(anchor, [address, *certificate_addresses])
    store = Store(now, _new_uid, _new_suffix, begins=FIRST_REVISION)
    admin_token = secrets.token_urlsafe(32)
    api = Api(store, TokenKey(ec.generate_private_key(ec.SECP256R1())), admin_token, now, _new_uid)
    _furnish(store)
    listeners = await trio.open_tcp_listeners(port, host=address)
    port = listeners[0].socket.getsockname()[1]
    listens, wanted = Latest(True), Latest(True)
    async with open_bare_nursery() as nursery:
        serve = partial(serve_https, context=context, respond=partial(_respond, api, store), now=now)
        nursery.start_soon(_serve_while_wanted, listeners, address, port, serve, listens, wanted)
        write_atomic(directory / "ca.pem", anchor.pem.encode(), 0o644)
        write_atomic(directory / "admin.token", admin_token.encode(), 0o600)
        yield ApiServer(
            f"https://{join_host_port(address, port)}", anchor.pem, admin_token, store, api.counts, listens, wanted
        )
        nursery.cancel_scope.cancel()


async def _serve_while_wanted(
    listeners: Sequence[trio.SocketListener],
    address: str,
    port: int,
    serve: Callable[[Sequence[trio.SocketListener]], Awaitable[None]],
    listens: Latest[bool],
    wanted: Latest[bool],
) -> None:
    while True:
        listens.set(True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listeners)
            await wanted.wait_for(lambda value: not value)
            nursery.cancel_scope.cancel()
        listens.set(False)
        await wanted.wait_for(lambda value: value)
        listeners = await trio.open_tcp_listeners(port, host=address)


def _respond(api: Api, store: Store, request: HttpRequest) -> Reply | StreamedReply:
    found = api.respond(request)
    return StreamedReply(partial(stream_watch, store.history, found)) if isinstance(found, Watch) else found


def _furnish(store: Store) -> None:
    """Create what every cluster has from the start: its namespaces, and the role that may do all."""
    for name in NAMESPACES:
        store.create(kinds.NAMESPACES, "", {"metadata": {"name": name}})
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    store.create(kinds.CLUSTER_ROLES, "", {"metadata": {"name": "cluster-admin"}, "rules": [everything]})


def _make_context(anchor: pki.Authority, addresses: Sequence[str]) -> ssl.SSLContext:
    ips = {ipaddress.ip_address(address) for address in (*addresses, "127.0.0.1", "::1")}
    names: list[x509.GeneralName] = [x509.IPAddress(ip) for ip in sorted(ips, key=str)]
    names += [x509.DNSName("localhost"), x509.DNSName("kubernetes.default.svc")]
    leaf = pki.make_leaf(anchor, names, _CERTIFICATE_LIFE, "kube-apiserver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # made with mode 0600; ssl reads keys from files only
        file.write((leaf.pem + leaf.key_pem).encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _new_uid() -> str:
    return str(uuid.uuid4())


def _new_suffix() -> str:
    return "".join(random.choice(_SUFFIX_LETTERS) for _ in range(5))  # noqa: S311  names are no secrets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m exclave_sandbox.apiserver.main",
        description="A small Kubernetes API server, in memory, for exclave's demo and tests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--listen", required=True, metavar="ADDR:PORT", help="where to listen; port 0 takes a free one")
    add("--directory", required=True, type=Path, metavar="DIR", help="where ca.pem and admin.token are written")
    more = "another address clients reach it by; may be given again"
    add("--address-in-certificate", action="append", default=[], metavar="IP", help=more)
    return parser


async def _main(address: str, port: int, directory: Path, more: Sequence[str]) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT) as signals:
        async with open_apiserver(address, port, directory, certificate_addresses=more) as server:
            print(f"listening on {server.url}", flush=True)
            async for number in signals:
                if number == signal.SIGUSR1:
                    await server.close()
                    print("closed", flush=True)
                elif number == signal.SIGUSR2:
                    await server.open()
                    print(f"listening on {server.url}", flush=True)
                else:
                    return


def main(arguments: Sequence[str]) -> int:
    """Serve until told to end; the exit code."""
    options = _parser().parse_args(arguments)
    address, port = split_host_port(options.listen, lowest=0)
    try:
        trio.run(_main, address, port, options.directory, options.address_in_certificate, strict_exception_groups=True)
    except OSError as problem:
        print(f"cannot listen on {options.listen}: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
