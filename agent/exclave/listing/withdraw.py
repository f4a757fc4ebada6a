"""The first half of walking back: pods hear first, everything else goes afterwards.

Rules: Ready=False, then `serving`=false, then wait until the ports are gone from the ExternalWorkload, all within
`PATIENCE` seconds; whatever the cluster does, the walk goes on after that and says so. Then `drain` seconds, so that
every pod has heard. A member that was evicted writes nothing, and waits all the same: the controller withdraws its
ports. Rules and proxies go after this has returned.
"""

import logging

import trio

from exclave.ending import Ending
from exclave.errors import ApiRefusal
from exclave.listing.ready import LEAVING, STOPPED
from exclave.member.client import MemberClient
from exclave.member.state import Standing
from exclave.milestones import Withdrawing, tell

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for the cluster to hear and to withdraw the ports."""

FIRST_SIGHT = 5.0
"""Seconds of these for seeing the own Member at all."""


async def walk_back(membership: MemberClient, ending: Ending, drain: float) -> None:
    """Withdraw this machine from the mesh, unless it hands over. `drain` is seconds.

    If no port was listed, nothing is waited for.
    """
    if ending is Ending.HAND_OVER:
        return
    was_listed = True
    with trio.move_on_after(PATIENCE) as patience:
        if membership.view.value is None:
            with trio.move_on_after(FIRST_SIGHT):
                await membership.view.wait_for(lambda view: view is not None)
        evicted, view = membership.standing.value is Standing.EVICTED, membership.view.value
        was_listed = not evicted if view is None else view.serving or bool(view.workload_ports)
        heard = evicted or await _withdraw(membership, LEAVING if ending is Ending.LEAVE else STOPPED)
        if was_listed and heard:
            await membership.view.wait_for(lambda _: _is_withdrawn(membership))
            tell(Withdrawing.UNLISTED)
    if patience.cancelled_caught:
        log.warning("the ports were not withdrawn within %g s: going on without the cluster's word", PATIENCE)
    if was_listed:
        log.info("draining for %g s", drain)
        await trio.sleep(drain)
        tell(Withdrawing.DRAINED)


def _is_withdrawn(membership: MemberClient) -> bool:
    view = membership.view.value
    if view is None:  # gone with its ports, or never seen
        return membership.standing.value is Standing.EVICTED
    return not view.workload_ports


async def _withdraw(membership: MemberClient, reason: str) -> bool:
    """Say that this machine goes; False if the cluster does not listen to us."""
    view = membership.view.value
    try:
        if view is None or view.workload_uid is not None:
            await membership.set_ready(False, reason, "this machine is going")
            tell(Withdrawing.NOT_READY)
        if view is None or view.serving:
            await membership.patch_spec({"serving": False, "dataPath": "down"})
            tell(Withdrawing.NOT_SERVING)
    except ApiRefusal as refusal:
        log.warning("going on without the cluster's word: %s", refusal)
        return False
    return True
