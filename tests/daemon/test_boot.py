"""The boot order and its reverse, as a golden file, with doors that only note that they open and close."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from exclave.config import Config, Paths, ProxyConfig
from exclave.daemon import boot as daemon
from exclave.daemon.parts import Parts
from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.tasks.latest import Latest
from exclave.member.state import Standing
from exclave.proxy.process.binary import ProxyUser
from exclave.redirect.kernel.observe import NOTHING, Observed
from support.mesh import RECORD, SERVERS, make_settings, mesh

GOLDEN = Path(__file__).parent / "golden" / "boot.txt"

LOWER = ("member_cluster", "member", "identity", "workload_api", "private_table", "link", "source_routing", "table")
ORDER = (
    *LOWER,
    "keepalive",
    "dns",
    "proxy",
    "data_path",
    "confirm",
    "steering",
    "redirect",
    "firewall",
    "swap",
    "listing",
)


class Boot:
    """The doors of one boot. What they yield is as much of each part as the boot itself looks at."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trace: list[str] = []
        self.given: dict[str, tuple[Any, ...]] = {}
        self.fails: str | None = None
        self.config = Config(Paths(folder, folder), proxy=ProxyConfig(user="nobody"))
        self.parts = Parts(EndingSwitch(), RECORD)
        self.rules_seen: list[str | None] = []
        self.trusted: list[str] = []  # CAs of the API server
        self.member = SimpleNamespace(
            standing=Latest(Standing.MEMBER),
            needs_walk_back=Latest(False),
            settings=Latest(None),
            captured=Latest(()),
            mark_leaving=lambda: self.trace.append("  noted on disk: told to leave"),
        )
        self.identity = SimpleNamespace(svid=Latest(None))
        self.proxy = SimpleNamespace(observe_rules=self.rules_seen.append)
        self.data_path = SimpleNamespace(rules=Latest(True), link=Latest(True))
        self.link = SimpleNamespace(problem=Latest(None))
        self.routing = SimpleNamespace(problem=Latest(None))
        self.redirect = SimpleNamespace(observed=Latest(NOTHING), problem=Latest(None))
        yields = {
            "member_cluster": SimpleNamespace(server_addresses=SERVERS, trust=self.trusted.append),
            "member": self.member,
            "identity": self.identity,
            "workload_api": SimpleNamespace(path=folder / "workload.sock"),
            "link": self.link,
            "source_routing": self.routing,
            "dns": SimpleNamespace(address="169.254.77.3"),
            "proxy": self.proxy,
            "data_path": self.data_path,
            "confirm": SimpleNamespace(),
            "steering": SimpleNamespace(policy=Latest(None), trial=Latest(None)),
            "redirect": self.redirect,
        }
        for name in ORDER:
            monkeypatch.setattr(daemon, f"open_{name}", self._door(name, yields.get(name, SimpleNamespace())))
        monkeypatch.setattr(daemon, "report_loaded", self._report_loaded)
        monkeypatch.setattr(daemon, "find_active", self._find_active)
        monkeypatch.setattr(daemon, "find_proxy_user", self._find_proxy_user)
        monkeypatch.setattr(daemon, "find_armed", self._find_armed)
        monkeypatch.setattr(daemon, "notify", lambda word: self.trace.append(f"  told systemd: {word}"))

    def _door(self, name: str, part: Any) -> Callable[..., AbstractAsyncContextManager[Any]]:
        @asynccontextmanager
        async def door(*given: Any) -> AsyncIterator[Any]:
            if self.fails == name:
                raise HostError(Fault.OCCUPIED, f"{name} cannot open", "")
            self.given[name] = given
            self.trace.append(f"open {name}")
            try:
                yield part
            finally:
                self.trace.append(f"close {name} ({self.parts.endings.value.value})")

        return door

    async def _find_proxy_user(self, name: str) -> ProxyUser:
        return ProxyUser(name, 65534, 65534)

    async def _find_active(self) -> str:
        return "b"

    async def _report_loaded(self, *_: object) -> None:
        await trio.sleep_forever()

    async def _find_armed(self) -> float:
        await trio.lowlevel.checkpoint()
        return 41.0

    async def serve(self) -> None:
        await daemon.serve(self.parts, self.config, lambda: 0.0)

    async def serve_until(self, happens: Callable[[], None]) -> None:
        """Boot, let something happen, and wait for the end that it means."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.serve)
            await trio.testing.wait_all_tasks_blocked()
            happens()


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    return Boot(tmp_path, monkeypatch)


async def test_parts_open_in_the_order_of_the_golden_file_and_close_in_its_reverse(boot: Boot) -> None:
    await boot.serve_until(lambda: boot.parts.endings.ask_nowait(Ending.LEAVE))
    assert boot.trace == GOLDEN.read_text().splitlines()[1:]
    opened = [line.split()[1] for line in boot.trace if line.startswith("open")]
    closed = [line.split()[1] for line in boot.trace if line.startswith("close")]
    assert tuple(opened) == ORDER
    assert closed == opened[::-1]


async def test_each_part_is_set_once_it_is_open(boot: Boot) -> None:
    def look() -> None:
        unset = [field.name for field in fields(Parts) if getattr(boot.parts, field.name) is None]
        assert unset == ["ending", "host_error"]  # neither is a part
        assert boot.parts.ending is None
        boot.parts.endings.ask_nowait(Ending.STOP)

    await boot.serve_until(look)
    assert boot.parts.ending is Ending.STOP


@pytest.mark.parametrize("name", ORDER)
async def test_where_a_door_does_not_open_the_ones_before_it_hand_over(boot: Boot, name: str) -> None:
    boot.fails = name
    with pytest.raises(HostError) as caught:
        await boot.serve()
    assert caught.value.message == f"{name} cannot open"
    before = ORDER[: ORDER.index(name)]
    assert boot.trace == [f"open {each}" for each in before] + [f"close {each} (hand-over)" for each in before[::-1]]


ENDS: dict[str, tuple[Callable[[Boot], None], Ending]] = {
    "an eviction is left for good": (lambda boot: boot.member.standing.set(Standing.EVICTED), Ending.LEAVE),
    "an address of another family starts again": (lambda boot: boot.member.needs_walk_back.set(True), Ending.STOP),
}


@pytest.mark.parametrize(("happens", "ending"), ENDS.values(), ids=ENDS)
async def test_what_ends_a_boot_from_inside(boot: Boot, happens: Callable[[Boot], None], ending: Ending) -> None:
    await boot.serve_until(lambda: happens(boot))
    assert boot.parts.ending is ending
    assert f"close listing ({ending.value})" in boot.trace
    assert "  noted on disk: told to leave" not in boot.trace  # that is for whom somebody has told so


async def test_the_credential_that_is_refused_ends_nothing(boot: Boot) -> None:
    def happens() -> None:
        boot.member.standing.set(Standing.ORPHANED)
        boot.parts.endings.ask_nowait(Ending.HAND_OVER)

    await boot.serve_until(happens)
    assert boot.parts.ending is Ending.HAND_OVER


async def test_the_proxy_learns_from_the_kernel_which_instance_is_active(boot: Boot) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boot.serve)
        for instance in ("a", "b", None):
            boot.redirect.observed.set(Observed(True, instance))
            await trio.testing.wait_all_tasks_blocked()
        boot.parts.endings.ask_nowait(Ending.STOP)
    assert boot.rules_seen == ["a", "b", None]


@pytest.mark.parametrize(("door", "name"), [("redirect", "rules"), ("routing", "rules"), ("link", "link")])
async def test_rules_or_a_link_that_cannot_be_kept_count_as_lost(boot: Boot, door: str, name: str) -> None:
    part = getattr(boot, door)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(boot.serve)
        for problem, stand in ((HostError(Fault.NFT_UNUSABLE, "no NAT", ""), False), (None, True)):
            part.problem.set(problem)
            await trio.testing.wait_all_tasks_blocked()
            assert getattr(boot.data_path, name).value is stand
        boot.parts.endings.ask_nowait(Ending.STOP)


async def test_the_proxy_gets_the_instance_of_an_earlier_agents_rules(boot: Boot) -> None:
    await boot.serve_until(lambda: boot.parts.endings.ask_nowait(Ending.STOP))
    assert boot.given["proxy"][6] == "b"


async def test_rules_that_are_not_confirmed_go_on_with_the_time_that_the_kernel_has_left(boot: Boot) -> None:
    await boot.serve_until(lambda: boot.parts.endings.ask_nowait(Ending.STOP))
    assert boot.given["confirm"] == (boot.config.paths.state, boot.member, 41.0)


async def test_the_workload_api_serves_only_the_proxy_with_the_newest_anchors(boot: Boot) -> None:
    await boot.serve_until(lambda: boot.parts.endings.ask_nowait(Ending.STOP))
    path, svid, anchors, uids = boot.given["workload_api"]
    assert (path, svid) == (boot.config.paths.runtime / "workload.sock", boot.identity.svid)
    assert uids == frozenset({65534})
    assert anchors() == ()
    boot.member.settings.set(make_settings(mesh().anchor.pem))
    assert len(anchors()) == 1
