"""Reports in `spec.loaded` of the Member which of the mesh's settings this machine has loaded (`rotation status`)."""

import hashlib
from math import inf

import trio

from exclave import __version__
from exclave.api.member import MemberView
from exclave.identity.rotator import Identity
from exclave.kit.tasks.latest import open_any_change
from exclave.member.client import MemberClient
from exclave.member.write_limit import WriteLimit

COMPANY = 5.0  # seconds to wait for another patch that these fields can join: after a boot, `serving` follows soon


def choose_loaded(anchors: str, issuer_sha256: str, settings_digest: str, proxy: str) -> dict[str, str]:
    """The fields of `spec.loaded`: `anchors` is PEM, `proxy` a version; unknown ones are left out."""
    fields = {
        "anchors": hashlib.sha256(anchors.encode()).hexdigest() if anchors else "",
        "issuer": issuer_sha256,
        "settings": settings_digest,
        "proxy": proxy,
        "agent": __version__,
    }
    return {key: value for key, value in fields.items() if value}


async def report_loaded(membership: MemberClient, identity: Identity) -> None:
    """Patch `spec.loaded` whenever it differs, until cancelled. Raises ApiRefusal.

    The anchors are those of the settings at the call: a process of the proxy reads its anchors only once.
    """
    settings = membership.settings.value
    anchors = settings.anchors if settings else ""
    proxy = settings.linkerd.proxy_version if settings else ""
    writes = WriteLimit()
    async with open_any_change(membership.view, membership.settings, identity.svid) as change:
        while True:
            pause, view, svid = 0.0, membership.view.value, identity.svid.value
            issuer = svid.issuer_sha256 if svid else ""
            wanted = choose_loaded(anchors, issuer, membership.settings_digest or "", proxy)
            if view is not None and dict(view.loaded) != wanted:
                pause = writes.pause(wanted, trio.current_time())
                if pause == 0:
                    await _patch_loaded(membership, view, wanted)
                    writes.observe_write(wanted, trio.current_time())
            await change.wait(pause or inf)


async def _patch_loaded(membership: MemberClient, previous: MemberView, wanted: dict[str, str]) -> None:
    membership.patch_later({"loaded": wanted})
    with trio.move_on_after(COMPANY):
        await membership.view.wait_for(lambda view: view is not None and dict(view.loaded) == wanted)
        return
    await membership.patch_spec({})
    await membership.view.wait_for(lambda view: view is not previous)
