"""The private link `exclave0`, where proxies and DNS stub listen. It opens before them and closes after them.

While it is open, it is restored whenever others change it: networkd, NetworkManager, a restart of the network. A link
of that name without our hardware address, or our IP addresses on other links, are foreign and not changed.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from exclave.ending import Ending, EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.formats.json_text import parse_json
from exclave.kit.host.command import Finished, check_permitted, run_tool
from exclave.kit.host.procfs import describe_process, is_ipv6_disabled
from exclave.kit.netlink.messages import ROUTE, split_datagram
from exclave.kit.netlink.subscription import open_subscription
from exclave.kit.tasks.backoff import FIGHT, pause_after
from exclave.kit.tasks.latest import Latest, open_any_change
from exclave.kit.tasks.nursery import open_bare_nursery, shielded
from exclave.kit.tasks.supervise import supervise
from exclave.link.events import GROUPS, author_of, is_about_link
from exclave.link.layout import LINK
from exclave.link.plan import (
    MARK,
    Links,
    check_free,
    find_damage,
    has_other_ipv6,
    link_addresses,
    missing_addresses,
    names_of_ours,
    superfluous_addresses,
)
from exclave.milestones import Starting, Withdrawing, log_milestone

log = logging.getLogger(__name__)

KINDS = ("dummy", "bridge")  # kinds of link to try, in this order; if both fail, the addresses are on lo

REMOVAL_TIME = 100.0  # seconds for three runs of ip, each with at most 30 s and its end

POLL_INTERVAL = 5.0  # seconds between two readings without reported changes, or while the link cannot be restored

CHECK_INTERVAL = 60.0  # seconds between two readings while the kernel reports changes; each one starts a program

IPV4, EVERY = link_addresses(with_ipv6=False), link_addresses(with_ipv6=True)


class PrivateLink:
    """The link as made. `device`: `exclave0`, or `lo` if no link can be made.

    `problem`: why it is not whole; `repairs`: number of foreign changes undone.
    """

    def __init__(self) -> None:
        self.device = LINK
        self.problem: Latest[HostError | None] = Latest(None)
        self.repairs = 0
        self.changes = Latest(0)
        self.is_listening = Latest(False)
        self._author = ""
        self._has_ipv6 = False  # as of the last repair
        self._had_ipv6 = False
        self._repaired: deque[float] = deque(maxlen=FIGHT)

    def receive(self, datagram: bytes) -> None:
        """Count a change if a datagram reports one of our link."""
        try:
            about = [message for message in split_datagram(datagram) if is_about_link(message)]
        except ValueError:
            self.miss()
            return
        for message in about:
            if (pid := author_of(message)) is not None:
                self._author = describe_process(pid) or self._author  # it may have ended
        if about:
            self.miss()

    def miss(self) -> None:
        """Count a change: messages may have been missed."""
        self.changes.set(self.changes.value + 1)

    async def attach(self, links: Links) -> None:
        """Make the link, or add what is missing. Raises HostError."""
        there = LINK in names_of_ours(links)
        self.device = LINK if there else await _make()
        lines = missing_addresses(links, self.device, IPV4)
        if self.device == LINK:
            lines.append(f"link set {LINK} up")
        _must(await _batch(lines))
        before, self._has_ipv6 = self._has_ipv6, await self._attach_ipv6(links)
        if self._has_ipv6 and self._had_ipv6 and not before:
            log.info("redirect: %s has its IPv6 addresses again", self.device)
        self._had_ipv6 = self._had_ipv6 or self._has_ipv6

    async def _attach_ipv6(self, links: Links) -> bool:
        missing = [line for line in missing_addresses(links, self.device, EVERY) if " nodad" in line]
        added = await _batch(missing)
        if added.status != 0 and (self._has_ipv6 or not self._had_ipv6):
            log.info("redirect: %s does not accept IPv6 addresses and has none: %s", self.device, added.errors)
        return added.status == 0

    async def repair(self) -> None:
        """Restore what others have changed. Raises HostError."""
        began = trio.current_time()
        author, self._author = self._author, ""  # before our own changes
        links = await _links()
        check_free(links, EVERY)
        expected = EVERY if self._has_ipv6 else IPV4
        damage = find_damage(links, self.device, expected)
        if damage.text:
            self._repaired.append(began)
            if damage.lines:
                _must(await _batch(damage.lines))
                links = await _links()
        if damage.text or not self._has_ipv6:
            await self.attach(links)
        if self._had_ipv6 and not self._has_ipv6 and has_other_ipv6(links):
            await self._make_again()
        if damage.text:
            self.repairs += 1
            by = f" (by {author})" if author else ""
            spent = 1000 * (trio.current_time() - began)
            log.warning("redirect: the private link %s%s; it is restored after %.0f ms", damage.text, by, spent)
        if (problem := self._fight(damage.text, author)) is not None:
            raise problem
        self.problem.set(None)

    async def _make_again(self) -> None:
        """Make a new link where IPv6 was disabled for this link alone. Raises HostError."""
        if self.device == LINK and not pause_after(self._repaired, trio.current_time()) and not is_ipv6_disabled():
            _must(await run_tool("ip", "link", "delete", LINK))
            await self.attach(await _links())
        if not self._has_ipv6:
            text = f"IPv6 is disabled on the private link {self.device}, so connections over IPv6 fail"
            raise HostError(Fault.NFT_UNUSABLE, text, f"sysctl -w net.ipv6.conf.{self.device}.disable_ipv6=0")

    def _fight(self, damage: str, author: str) -> HostError | None:
        if not pause_after(self._repaired, trio.current_time()):
            return None
        if not damage:
            return self.problem.value  # it may go on
        by = f", by {author}" if author else ""
        text = f"another program undoes each repair of the private link, which {damage}{by}"
        hint = f"leave {LINK} alone in networkd, NetworkManager and scripts; ip monitor link address shows the changes"
        return HostError(Fault.OCCUPIED, text, hint)

    async def run(self) -> None:
        """Repair the link whenever it changes, until cancelled; never raises HostError."""
        async with open_any_change(self.changes, self.is_listening) as change:
            while True:
                try:
                    await self.repair()
                except HostError as problem:
                    self._report(problem)
                await trio.sleep(pause_after(self._repaired, trio.current_time()))
                is_calm = self.is_listening.value and self.problem.value is None
                await change.wait(CHECK_INTERVAL if is_calm else POLL_INTERVAL)

    def _report(self, problem: HostError) -> None:
        if problem.message != getattr(self.problem.value, "message", None):
            log.error("redirect: %s (%s)", problem.message, problem.hint)
        self.problem.set(problem)


@asynccontextmanager
async def open_link(endings: EndingSwitch) -> AsyncIterator[PrivateLink]:
    """Provide the link with all addresses while open, and restore it when others change it.

    Raises HostError without privilege, or if name or addresses are in use.
    """
    link = PrivateLink()
    async with open_subscription("link's monitor", ROUTE, GROUPS, link.receive, link.miss) as link.is_listening:
        links = await _links()
        check_free(links, EVERY)
        lines = find_damage(links, LINK, ()).lines  # of an earlier agent's link
        if lines:
            _must(await _batch(lines))
            links = await _links()
        await link.attach(links)
        log_milestone(Starting.LINK)
        try:
            async with open_bare_nursery() as nursery:
                nursery.start_soon(supervise, "private link", link.run)
                yield link
                nursery.cancel_scope.cancel()
        finally:
            if endings.value is not Ending.HAND_OVER:
                with shielded(REMOVAL_TIME):
                    await remove_link()


async def check_link() -> None:
    """Raise HostError if ip cannot be used, or others have the link's name or one of its addresses."""
    check_free(await _links(), EVERY)


async def find_link() -> list[str]:
    """The devices that have our addresses: our link, lo or none. Raises HostError."""
    links = await _links()
    found = names_of_ours(links)
    return [*found, "lo"] if superfluous_addresses(links, EVERY) else found


async def remove_link() -> None:
    """Remove our link, and our addresses on lo. Needs no agent, may be repeated. Raises HostError."""
    links = await _links()
    for name in names_of_ours(links):
        _must(await run_tool("ip", "link", "delete", name))
    left = superfluous_addresses(links, EVERY)
    if left:
        _must(await _batch(left))
    log_milestone(Withdrawing.LINK)


async def _make() -> str:
    """Make the link, of the first kind that this kernel has; returns the device for the addresses."""
    for kind in KINDS:
        made = await run_tool("ip", "link", "add", LINK, "address", MARK, "type", kind)
        if made.status == 0:
            # It fails without IPv6, where it is not needed.
            await run_tool("ip", "link", "set", LINK, "addrgenmode", "none")
            return LINK
        if "not permitted" in made.errors:
            _must(made)
    return "lo"


async def _links() -> Links:
    listed = await run_tool("ip", "-json", "address", "show")
    check_permitted(listed, "listing links")
    try:
        links: Links = parse_json(listed.output)
    except ValueError:
        text, hint = f"ip lists no addresses as JSON: {listed.first_error}", "install iproute2: apt install iproute2"
        raise HostError(Fault.NFT_UNUSABLE, text, hint) from None
    return links


async def _batch(lines: Sequence[str]) -> Finished:
    return await run_tool("ip", "-batch", "-", stdin="\n".join([*lines, ""]).encode())


def _must(done: Finished) -> None:
    if done.status == 0:
        return
    check_permitted(done, f"making the link {LINK}")
    raise HostError(Fault.OCCUPIED, f"cannot set up the link {LINK}: {done.errors}", "exclave cleanup, then try again")
