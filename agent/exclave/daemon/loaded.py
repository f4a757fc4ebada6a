"""Reports in `spec.loaded` of the Member what agent and proxy of this machine really run with (`rotation status`)."""

from math import inf

import trio

from exclave import __version__
from exclave.api.member import MemberView
from exclave.identity.rotator import Identity
from exclave.kit.tasks.latest import open_any_change
from exclave.member.client import MemberClient
from exclave.member.write_limit import WriteLimit
from exclave.proxy.published import PublishedProxy

COMPANY = 5.0  # seconds to wait for another patch that these fields can join: after a boot, `serving` follows soon


def choose_loaded(anchors: str, issuer: str, settings: str, proxy: str) -> dict[str, str]:
    """The fields of `spec.loaded`: three digests, and the proxy's version; unknown ones are left out."""
    fields = {"anchors": anchors, "issuer": issuer, "settings": settings, "proxy": proxy, "agent": __version__}
    return {key: value for key, value in fields.items() if value}


async def report_loaded(membership: MemberClient, identity: Identity, proxy: PublishedProxy) -> None:
    """Patch `spec.loaded` whenever it differs, until cancelled. Raises ApiRefusal."""
    writes = WriteLimit()
    sources = (membership.view, membership.settings, identity.svid, proxy.instances, proxy.chosen)
    async with open_any_change(*sources) as change:
        while True:
            pause, view, svid = 0.0, membership.view.value, identity.svid.value
            if view is not None:
                anchors, version = _of_proxy(proxy, view)
                issuer = svid.issuer_sha256 if svid else ""
                wanted = choose_loaded(anchors, issuer, membership.settings_digest or "", version)
                if dict(view.loaded) != wanted:
                    pause = writes.pause(wanted, trio.current_time())
                    if pause == 0:
                        await _patch_loaded(membership, view, wanted)
                        writes.observe_write(wanted, trio.current_time())
            await change.wait(pause or inf)


def _of_proxy(proxy: PublishedProxy, view: MemberView) -> tuple[str, str]:
    """Anchors and version of the process that has been serving for longest; without one, as reported last."""
    running = proxy.oldest
    if running is None:
        return view.loaded.get("anchors", ""), view.loaded.get("proxy", "")
    return running.anchors, running.version  # a process reads its anchors once: newer ones are loaded by a swap


async def _patch_loaded(membership: MemberClient, previous: MemberView, wanted: dict[str, str]) -> None:
    # A merge patch removes a field only by null.
    membership.patch_later({"loaded": {**dict.fromkeys(set(previous.loaded) - set(wanted)), **wanted}})
    with trio.move_on_after(COMPANY):
        await membership.view.wait_for(lambda view: view is not None and dict(view.loaded) == wanted)
        return
    await membership.patch_spec({})
    await membership.view.wait_for(lambda view: view is not previous)
