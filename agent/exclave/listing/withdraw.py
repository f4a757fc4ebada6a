"""The first half of walking back: the machine is withdrawn from the cluster before rules and proxies go.

Order: Ready=False, `serving`=false, wait until the ports are withdrawn, then wait `drain` seconds for the pods.
"""

import logging

import trio

from exclave.ending import Ending
from exclave.errors import ApiRefusal
from exclave.listing.ready import LEAVING, STOPPED
from exclave.member.client import MemberClient
from exclave.member.state import Standing
from exclave.milestones import Withdrawing, log_milestone

log = logging.getLogger(__name__)

WITHDRAW_TIMEOUT = 30.0
"""Seconds for the cluster to withdraw the ports. After that the walk goes on, whatever the cluster does."""

FIRST_VIEW = 5.0
"""Seconds of these for the first read of the own Member."""


async def walk_back(membership: MemberClient, ending: Ending, drain: float) -> None:
    """Withdraw this machine from the mesh, unless it hands over. `drain`: seconds; none if no port was listed."""
    if ending is Ending.HAND_OVER:
        return
    was_listed = True
    with trio.move_on_after(WITHDRAW_TIMEOUT) as limit:
        if membership.view.value is None:
            with trio.move_on_after(FIRST_VIEW):
                await membership.view.wait_for(lambda view: view is not None)
        evicted, view = membership.standing.value is Standing.EVICTED, membership.view.value
        was_listed = not evicted if view is None else view.serving or bool(view.workload_ports)
        # The controller withdraws an evicted member; it writes nothing itself and waits all the same.
        accepted = evicted or await _withdraw(membership, LEAVING if ending is Ending.LEAVE else STOPPED)
        if was_listed and accepted:
            await membership.view.wait_for(lambda _: _is_withdrawn(membership))
            log_milestone(Withdrawing.UNLISTED)
    if limit.cancelled_caught:
        log.warning("the ports were not withdrawn within %g s: going on without the cluster", WITHDRAW_TIMEOUT)
    if was_listed:
        log.info("draining for %g s", drain)
        await trio.sleep(drain)
        log_milestone(Withdrawing.DRAINED)


def _is_withdrawn(membership: MemberClient) -> bool:
    view = membership.view.value
    if view is None:  # gone with its ports, or never seen
        return membership.standing.value is Standing.EVICTED
    return not view.workload_ports


async def _withdraw(membership: MemberClient, reason: str) -> bool:
    """Write that this machine goes; False if the cluster refuses that."""
    view = membership.view.value
    try:
        if view is None or view.workload_uid is not None:
            await membership.set_ready(False, reason, "this machine is going")
            log_milestone(Withdrawing.NOT_READY)
        if view is None or view.serving:
            await membership.patch_spec({"serving": False, "dataPath": "down"})
            log_milestone(Withdrawing.NOT_SERVING)
    except ApiRefusal as refusal:
        log.warning("going on without the cluster: %s", refusal)
        return False
    return True
