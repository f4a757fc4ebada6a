"""What has been loaded is reported when it changes."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave import __version__
from exclave.api.member import MemberView
from exclave.daemon.loaded import COMPANY, choose_loaded, report_loaded
from exclave.kit.tasks.latest import Latest
from exclave.member.write_limit import PAUSES
from exclave.proxy.states import InstanceEvent, InstanceState
from support.mesh import make_settings
from support.published_proxy import make_proxy, running


def test_what_is_unknown_stays_out() -> None:
    assert choose_loaded("", "", "", "") == {"agent": __version__}
    assert choose_loaded("ef", "ab", "cd", "v1") == {
        "anchors": "ef",
        "issuer": "ab",
        "settings": "cd",
        "proxy": "v1",
        "agent": __version__,
    }


class MemberClient:
    """As far as telling needs it: a patch shows in the view a moment later."""

    def __init__(self) -> None:
        self.settings = Latest(make_settings())
        self.settings_digest = "d1"
        self.view: Latest[MemberView | None] = Latest(None)
        self.patches: list[dict[str, Any]] = []
        self.beside: dict[str, Any] = {}

    def patch_later(self, fields: dict[str, Any]) -> None:
        self.beside |= fields

    async def patch_spec(self, fields: dict[str, Any]) -> None:
        await trio.sleep(0.1)
        self.patches.append(self.beside | fields)
        self.beside = {}
        before = self.view.value.loaded if self.view.value else {}
        loaded = {key: value for key, value in {**before, **self.patches[-1]["loaded"]}.items() if value is not None}
        self.view.set(MemberView("m", resource_version=str(len(self.patches)), loaded=loaded))


@pytest.mark.parametrize("changes", [1, 3])
async def test_each_change_is_patched_once(changes: int, autojump_clock: trio.testing.MockClock) -> None:
    membership, identity = MemberClient(), SimpleNamespace(svid=Latest[Any](None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_loaded, membership, identity, make_proxy(a=running("anchors-1")))
        await trio.sleep(10)
        assert membership.patches == []  # not before the Member was seen
        membership.view.set(MemberView("m"))
        await trio.sleep(10)
        for number in range(changes):
            identity.svid.set(SimpleNamespace(issuer_sha256=f"issuer-{number}"))
            await trio.sleep(10)
            membership.view.set(MemberView("m", resource_version="other", loaded=membership.patches[-1]["loaded"]))
            await trio.sleep(10)
        nursery.cancel_scope.cancel()
    told = [patch["loaded"].get("issuer") for patch in membership.patches]
    assert told == [None, *(f"issuer-{number}" for number in range(changes))]
    assert membership.patches[0]["loaded"]["anchors"] == "anchors-1"


async def test_it_is_part_of_the_next_patch(autojump_clock: trio.testing.MockClock) -> None:
    membership, identity = MemberClient(), SimpleNamespace(svid=Latest[Any](None))
    membership.view.set(MemberView("m"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_loaded, membership, identity, make_proxy(a=running("anchors-1")))
        await trio.sleep(COMPANY / 2)
        await membership.patch_spec({"serving": True})
        await trio.sleep(10 * COMPANY)
        nursery.cancel_scope.cancel()
    (patch,) = membership.patches
    assert patch["serving"] is True
    assert patch["loaded"]["agent"] == __version__


async def test_what_another_machine_overwrites_is_written_again_with_growing_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    membership, identity = MemberClient(), SimpleNamespace(svid=Latest[Any](None))
    membership.view.set(MemberView("m", loaded={"agent": "other"}))
    times: list[float] = []

    async def overwrite() -> None:
        async for view in membership.view.changes():
            if view is not None and view.loaded != {"agent": "other"}:
                times.append(trio.current_time())
                await trio.sleep(0.1)
                membership.view.set(MemberView("m", resource_version=f"after {len(times)}", loaded={"agent": "other"}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(overwrite)
        nursery.start_soon(report_loaded, membership, identity, make_proxy(a=running("anchors-1")))
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) > 10
    assert all(pause >= PAUSES.pause(number, 0.0) for number, pause in enumerate(pauses))


async def test_anchors_and_version_are_those_of_the_process_that_has_traffic_for_longest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    membership, identity = MemberClient(), SimpleNamespace(svid=Latest[Any](None))
    proxy = make_proxy(a=running("old", version="v1"))
    membership.view.set(MemberView("m"))

    async def reported() -> tuple[str | None, str | None]:
        await trio.sleep(3 * COMPANY)
        assert membership.view.value is not None
        return membership.view.value.loaded.get("anchors"), membership.view.value.loaded.get("proxy")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_loaded, membership, identity, proxy)
        assert await reported() == ("old", "v1")
        membership.settings.set(make_settings(anchors="published, and loaded by nobody yet"))
        proxy.change("b", running("new", InstanceState.STARTING, version=""))
        assert await reported() == ("old", "v1")
        proxy.apply_event("b", InstanceEvent.CERTIFIED)
        proxy.choose("b")
        proxy.apply_event("a", InstanceEvent.RETIRED)
        assert await reported() == ("old", "v1"), "it drains, and its connections go on"
        proxy.change("a", running("old", InstanceState.ABSENT))
        assert await reported() == ("new", None), "a version that is unknown is not reported"
        proxy.change("b", running("new", InstanceState.ABSENT))
        assert await reported() == ("new", None), "as reported last, until the next one runs"
        nursery.cancel_scope.cancel()
    assert len(membership.patches) == 2
