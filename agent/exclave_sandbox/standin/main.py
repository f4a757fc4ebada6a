"""A stand-in for linkerd2-proxy, for the demo and the tests: `python -m exclave_sandbox.standin.main`.

Like the real one: environment, Workload API, original destinations, mutual TLS under the same names, draining.
Unlike it: HTTP/1.1 and bytes only, no balancing, no retries; controllers are look-ups, a policy's content is not used.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial

import trio

from exclave_sandbox.standin import controllers
from exclave_sandbox.standin.admin import Admin, Counts
from exclave_sandbox.standin.controllers import LookupCache, Resolver
from exclave_sandbox.standin.forward import Forwarder
from exclave_sandbox.standin.identity import follow_folder, follow_workload_api
from exclave_sandbox.standin.settings import StandinSettings, read_environment
from exclave_sandbox.standin.stream import Drain
from exclave_sandbox.standin.tls import Tls

EX_USAGE = 64
GREETING = "INFO linkerd2_proxy: standin 0.0.0-standin (exclave) by exclave"
log = logging.getLogger("standin")


async def run(settings: StandinSettings) -> None:
    """Be the proxy until SIGTERM or SIGINT has been drained."""
    tls, counts, drain, certified = Tls(settings.anchors), Counts(), Drain(), trio.Event()
    resolver = Resolver(settings.destination, controllers.read_resolv_conf())
    lookups = LookupCache(resolver, settings.remember, trio.current_time, counts)
    forwarder = Forwarder(settings, tls, lookups, counts, drain)
    admin = Admin(settings, tls, counts)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain_on_signal, signals, drain)
            nursery.start_soon(controllers.watch_controller, resolver, counts)
            nursery.start_soon(admin.serve, await trio.open_tcp_listeners(settings.admin[1], host=settings.admin[0]))
            policies = Resolver(settings.policy_server, controllers.read_resolv_conf())
            nursery.start_soon(controllers.ask_for_policies, settings, policies, counts, certified, admin.arrived)
            if settings.workload_api is not None:
                nursery.start_soon(follow_workload_api, settings.workload_api, settings.server_id, tls, certified)
            elif settings.identity_dir is not None:
                nursery.start_soon(follow_folder, settings.identity_dir, tls, certified)
            async with trio.open_nursery() as accepting:
                accepting.start_soon(_accept, settings, forwarder, admin, certified, nursery)
                await drain.begun.wait()
                accepting.cancel_scope.cancel()
            admin.is_ready = False
            with trio.move_on_after(settings.grace):
                await drain.empty.wait()
            nursery.cancel_scope.cancel()


async def _accept(
    settings: StandinSettings, forwarder: Forwarder, admin: Admin, certified: trio.Event, connections: trio.Nursery
) -> None:
    """Accept connections once certified. They run in a nursery that outlives the listeners."""
    await certified.wait()
    async with trio.open_nursery() as nursery:
        for (host, port), accept in (
            (settings.inbound, forwarder.accept_inbound),
            *((address, forwarder.accept_outbound) for address in settings.outbound),
        ):
            listeners = await trio.open_tcp_listeners(port, host=host)
            nursery.start_soon(partial(trio.serve_listeners, accept, listeners, handler_nursery=connections))
        admin.is_ready = True
        log.info("certified and listening")


async def _drain_on_signal(signals: AsyncIterator[int], drain: Drain) -> None:
    await anext(signals)
    log.info("received a signal to end: draining")
    drain.begin()


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Print the version, read the environment, be the proxy; the exit code."""
    print(GREETING, flush=True)
    try:
        settings = read_environment(environment)
    except ValueError as problem:
        sys.stderr.write(f"Invalid configuration: {problem}\n")
        return EX_USAGE
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    trio.run(run, settings, strict_exception_groups=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
