"""`exclave proxy metrics` and `exclave proxy identity`: what a proxy of this machine answers, also without an agent.

The cluster cannot ask: the admin port listens on this machine only.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx
import trio
from cryptography import x509

from exclave.cli.status_text import print_lines
from exclave.config import Paths
from exclave.control.client import NoAgent, query_agent
from exclave.errors import Fault, HostError
from exclave.kit.formats.x509 import CertificateFields, fields_of
from exclave.kit.host.output import print_json, print_out
from exclave.link.layout import ADMIN_PORT, INSTANCES, Instance, instance_address
from exclave.member.record import load_settings
from exclave.proxy.probe import TIMEOUT, fetch_metrics, open_admin_client, read_leaf


async def fetch_page(candidates: Sequence[Instance]) -> tuple[Instance, str]:
    """The first of these instances that answers, and its metrics page. Raises HostError."""
    for instance in candidates:
        async with open_admin_client(instance) as client:
            try:
                page = await fetch_metrics(client)
            except httpx.HTTPError:
                continue
        if page is None:
            raise HostError(
                Fault.PROXY_UNUSABLE,
                f"a policy forbids the metrics of proxy {instance}",
                f"the Server that selects port {ADMIN_PORT} needs a route for /metrics",
            )
        return instance, page
    raise _silent_error(candidates)


async def fetch_identity(candidates: Sequence[Instance], server_name: str) -> tuple[Instance, CertificateFields]:
    """The first of these instances that serves a certificate, and that certificate. Raises HostError.

    It is read from a TLS handshake for the server name, which no policy forbids.
    """
    for instance in candidates:
        leaf = await read_leaf(instance_address(instance), ADMIN_PORT, server_name, TIMEOUT)
        if leaf is not None:
            return instance, fields_of(x509.load_der_x509_certificate(leaf))
    raise _silent_error(candidates)


def print_metrics(paths: Paths, instance: Instance | None, *, in_json: bool) -> int:
    """Print the metrics page of a proxy; None: of the one that the rules point to. Returns 0. Raises HostError."""
    work = partial(fetch_page, _candidates(paths.runtime, instance))
    answered, page = trio.run(work, strict_exception_groups=True)
    if in_json:
        print_json({"instance": answered, "metrics": page})
    else:
        print_out(*page.rstrip("\n").split("\n"))
    return 0


def print_identity(paths: Paths, instance: Instance | None, *, in_json: bool) -> int:
    """Print the certificate that a proxy serves; None: the one that the rules point to. Returns 0. Raises HostError."""
    settings = load_settings(paths.state)
    if settings is None:
        raise HostError(
            Fault.PROXY_UNUSABLE, "this machine has no proxy: it is no member", "to join a mesh: exclave join"
        )
    work = partial(fetch_identity, _candidates(paths.runtime, instance), settings[0].server_name)
    answered, certificate = trio.run(work, strict_exception_groups=True)
    if in_json:
        print_json({"instance": answered, "identity": certificate.as_json()})
    else:
        print_lines([("proxy", answered), *certificate.lines()])
    return 0


def _candidates(runtime: Path, named: Instance | None) -> Sequence[Instance]:
    """The instances to ask: the named one, else the one that the rules point to, else all."""
    if named is not None:
        return (named,)
    try:
        active = query_agent(runtime, "status")["proxy"]["active"]
    except (NoAgent, LookupError, TypeError):
        return INSTANCES
    return tuple(name for name in INSTANCES if name == active) or INSTANCES


def _silent_error(candidates: Sequence[Instance]) -> HostError:
    which = "no proxy of this machine answers" if len(candidates) > 1 else f"proxy {candidates[0]} does not answer"
    return HostError(Fault.PROXY_UNUSABLE, f"{which} on port {ADMIN_PORT}", "see why: exclave status")
