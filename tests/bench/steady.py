"""The requests of members to the API server in an hour without changes, counted one by one.

The real heartbeats, watches and renewals of an agent, without a data path, the real controller, and a real API server.
The hour runs ten times as fast as a real one, for machines and controller alike; the API server's own does not, so that
its bookmarks come seldom. Certificates live an hour here, and are renewed once or twice: what a renewal costs is
counted, and what it costs a day at other lifetimes follows from that. Peer: the same, reckoned by hand.
"""

import logging
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import trio
import trio.testing
from tests.bench.figures import heading, note, row

from exclave.api.join_token import encode_token
from exclave.api.names import CONTROLLER
from exclave.cluster.client import Cluster, open_cluster
from exclave.cluster.endpoint import Access
from exclave.cluster.member_cluster import open_member_cluster
from exclave.config import Config, MemberConfig, Paths
from exclave.controller.policy.liveness import interval_for
from exclave.controller.run import Locations, open_controller
from exclave.ending import EndingSwitch
from exclave.identity.rotator import Identity, open_identity
from exclave.join import join as steps
from exclave.member.client import open_member
from peers.conftest import Server, run_kubernetes
from support.mesh_cluster import RunningApiServer, furnished

RATE = 10.0
HOUR = 3600.0
MEMBERS = 12
RENEWAL_A_DAY = 24 / (24 * 0.575)
"""Renewals a day of a certificate that lives 24 h, at 57.5 % of its life in the middle."""


class Clock:
    """A wall clock that runs with trio's."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._began, self._clock = time.time(), clock

    def hurry(self) -> None:
        """From now on, run faster."""
        self._clock.rate = RATE

    def now(self) -> float:
        """Epoch seconds."""
        return self._began + self._clock.current_time()


async def measure(server: Server, folder: Path, clock: Clock) -> tuple[Counter[str], int, Counter[str], float]:
    """The requests of members, those for renewals, those of the controller, and the hours that passed."""
    api = RunningApiServer(Access((server.url,), server.ca), server.admin_token, folder, None)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        cluster = await enter(furnished(api, controlled=False, lifetime="1h"))
        token = await cluster.token_of("exclave", CONTROLLER)
        controller = await enter(open_cluster(api.access, lambda: token))
        await enter(open_controller(controller, Locations(), clock.now))
        line = encode_token(await cluster.join_token(uses=MEMBERS))
        members: list[Cluster] = []
        identities: list[Identity] = []
        for number in range(MEMBERS):
            config = Config(
                Paths(folder / f"{number}/state", folder / f"{number}/run"), MemberConfig(f"10.77.0.{number + 1}")
            )
            steps.read_machine_hash = machine(number)
            record = await steps.join(line, config, clock.now, lambda _: None)
            endings, state = EndingSwitch(), config.paths.state
            own = await enter(
                open_member_cluster(record.access, state, record.accounts_namespace, record.account, endings, clock.now)
            )
            member = await enter(open_member(record, config, own, endings, clock.now))
            identities.append(await enter(open_identity(state, member, endings, clock.now)))
            members.append(own)
        before, asked = sum((verbs(one) for one in members), Counter[str]()), verbs(controller)
        clock.hurry()
        renewed, began = sum(one.renewals["ok"] for one in identities), trio.current_time()
        await trio.sleep(HOUR)
        hours = (trio.current_time() - began) / HOUR
        return (
            sum((verbs(one) for one in members), Counter[str]()) - before,
            sum(one.renewals["ok"] for one in identities) - renewed,
            verbs(controller) - asked,
            hours,
        )


def machine(number: int) -> object:
    """The function that reads this machine's id."""

    async def read_hash() -> str:
        return f"{number:016x}"

    return read_hash


def verbs(cluster: Cluster) -> Counter[str]:
    """The requests to a cluster, by verb."""
    found: Counter[str] = Counter()
    for (verb, _), count in cluster.counts.items():
        found[verb] += count
    return found


def main() -> None:
    """Print the figures."""
    logging.basicConfig(level=logging.ERROR)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as made, run_kubernetes("1.37", Path(made)) as server:
        clock = trio.testing.MockClock(rate=1.0)  # as fast as the real one, until all have joined
        asked, renewals, controller, hours = trio.run(
            measure, server, Path(made), Clock(clock), clock=clock, strict_exception_groups=True
        )
    heading(f"An hour in which nothing happens, of {MEMBERS} members: requests of each (peer: reckoned)")
    a_member = MEMBERS * hours
    heartbeats = asked["patch"] - renewals  # each renewal is one patch of the own Member
    row("heartbeats, every 10 s", heartbeats / a_member, "", 360)
    row("watches opened anew, every 4 to 8 minutes", asked["watch"] / a_member, "", 10)
    row("renewals of a certificate that lives an hour", renewals / a_member, "", HOUR / 3600 / 0.575)
    for verb, count in sorted(asked.items()):
        if verb not in ("patch", "watch"):
            row(f"  {verb}", count / a_member, "")
    row("all of a member's", asked.total() / a_member, "")
    for verb, count in sorted(controller.items()):
        row(f"  the controller's for each: {verb}", count / a_member, "")
    row("all, the controller's included", (asked.total() + controller.total()) / a_member, "")
    steady = (asked.total() - renewals) / a_member + RENEWAL_A_DAY / 24
    row("extrapolated: a member's, with certificates of 24 h", steady, "")
    for fleet in (500, 1000, 10000):
        interval = interval_for(fleet)
        what = f"extrapolated: the same in a fleet of {fleet}, every {interval:.0f} s"
        row(what, steady - heartbeats / a_member + HOUR / interval, "")
    note("between two heartbeats lie ten seconds and an answer, and ten times as long an answer as it really took")
    note("nothing else is asked by a member while all is well; a credential of 30 days is renewed twice a month")
    note("the API server's bookmarks come once a real minute, which is ten here: a stream that has brought one")
    note("is taken for dead after 150 s, so that some watches more are opened here than in a real hour")


if __name__ == "__main__":
    main()
