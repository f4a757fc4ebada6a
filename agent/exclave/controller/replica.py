"""One process of the controller. Composition root."""

import contextlib
import logging
import signal
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from exclave.api.names import ELECTION
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.controller.cluster_state import ClusterState
from exclave.controller.leader.lead import Candidate, open_candidate
from exclave.controller.run import TICK, Controller, Locations, open_controller, read_ca_file
from exclave.controller.server_clock import ServerClock
from exclave.controller.telemetry.metrics import MemberStates, Metric, controller_metrics, open_health
from exclave.errors import ClusterError
from exclave.kit.tasks.nursery import open_bare_nursery
from exclave.kit.tasks.supervise import supervise
from exclave.kit.tasks.wall_clock import Now

log = logging.getLogger(__name__)


async def run_controller(
    access: Access, token_file: Path, locations: Locations, me: str, listen: tuple[str, int] | None, now: Now
) -> None:
    """Take part in the election, and run a Controller while elected. `me` is this replica's own name.

    `token_file` is read for each request, since Kubernetes rotates the token. `listen`: address and port of health and
    metrics, None for neither. SIGTERM and SIGINT end it in order, and the Lease is released.
    """
    async with open_bare_nursery() as nursery, AsyncExitStack() as stack:
        await nursery.start(_end_on_signal, nursery.cancel_scope)
        enter = stack.enter_async_context
        cluster = await enter(open_cluster(access, lambda: token_file.read_text().strip(), now))
        by_server = ServerClock(now, lambda: cluster.skew)
        candidate = await enter(open_candidate(cluster, locations.namespace, ELECTION, me, by_server))
        if locations.ca_file is not None:
            nursery.start_soon(supervise, "CA of the API server", partial(_follow_ca, cluster, locations.ca_file))
        replica = Replica(cluster, candidate)
        if listen is not None:
            await enter(open_health(*listen, replica.metrics, replica.fault))
        while True:
            log.info("controller %s: waits to lead", me)
            await candidate.leads.wait_for(bool)
            await replica.lead(locations, by_server)


async def _follow_ca(cluster: Cluster, path: Path) -> None:
    """Trust what the kubelet writes there, also after a rotation."""
    while True:
        await trio.sleep(TICK)
        with contextlib.suppress(OSError, ValueError, ClusterError):  # the last good CAs stay
            cluster.trust(await read_ca_file(path))


async def _end_on_signal(scope: trio.CancelScope, *, task_status: "trio.TaskStatus[None]") -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("%s: the controller ends", signal.Signals(number).name)
            scope.cancel()


class Replica:
    """It stands by, or leads and runs a Controller, which it discards with all state when it leads no longer."""

    def __init__(self, cluster: Cluster, candidate: Candidate) -> None:
        self._cluster = cluster
        self._candidate = candidate
        self._controller: Controller | None = None
        self._states = MemberStates()

    def metrics(self) -> list[Metric]:
        """The metrics of this replica, also while it stands by."""
        controller = self._controller
        state = controller.state if controller is not None else ClusterState("", "")
        return controller_metrics(
            leads=controller is not None,
            members=self._states.count(state.members.objects),
            groups=len(state.groups.objects),
            refused_groups=state.refused_groups,
            transitions=controller.counts if controller is not None else Counter(),
            requests=self._cluster.counts,
            issuer_ends=state.issuer.not_after if state.issuer is not None else None,
            policies_installed=state.admission_fault is None,
            heartbeat=state.heartbeat,
        )

    def fault(self) -> str | None:
        """Why this replica is not ready, for a person: a watch that loops."""
        loop = self._cluster.looping.value
        return f"the watch of {loop}" if loop is not None else None

    async def lead(self, locations: Locations, now: Now) -> None:
        """Run a Controller until another replica leads."""
        try:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(supervise, "controller", partial(self._control, locations, now))
                await self._candidate.leads.wait_for(lambda leads: not leads)
                log.warning("controller: another one leads now")
                nursery.cancel_scope.cancel()
        finally:
            self._controller = None

    async def _control(self, locations: Locations, now: Now) -> None:
        async with open_controller(self._candidate.fenced, locations, now) as self._controller:
            log.info("controller: ready")
            await trio.sleep_forever()
