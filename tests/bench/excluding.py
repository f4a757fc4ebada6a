"""The cost of exclusions: of each new connection, and of applying them. The peer is one iptables rule each.

Both are measured in one run, in one network namespace: a program that opens connections one after the other to a port
that is captured and where the kernel answers, so that every rule that excludes is asked and none takes it.
"""

import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from tests.bench.figures import heading, note, processes_started, row

from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render_ruleset

COUNTS = (0, 100, 1000, 10000)

ROUNDS, CONNECTIONS = 9, 1000
"""Rounds of each side in turn, and connections a round; the figure is the median of the rounds."""

ONE_BY_ONE = 1000

DESTINATION = ("10.42.0.9", 80)

PROXY = "169.254.77.1"

NOTHING = RedirectPolicy(
    instance="a",
    addresses=("10.77.0.20",),
    inbound_ports=(8080,),
    networks=("10.42.0.0/16",),
    proxy_uid=990,
    families=(4,),
)


def exclusions(count: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """This many ports and networks: for each network nine ports, of which no two are consecutive."""
    networks = tuple(f"10.42.{128 + number // 120}.{number % 120 * 2}/32" for number in range(count // 10))
    return tuple(range(10001, 10001 + 2 * (count - len(networks)), 2)), networks


def ours(count: int) -> Callable[[], None]:
    """Applies our rules."""
    ports, networks = exclusions(count)
    rules = render_ruleset(replace(NOTHING, exempt_outbound_ports=ports, exempt_networks=networks)).encode()
    return lambda: _run(["nft", "-f", "-"], rules)


def theirs(count: int) -> Callable[[], None]:
    """Applies the same as init programs do: one rule for each exclusion, and the redirect at the end."""
    ports, networks = exclusions(count)
    lines = ["*nat", ":REDIRECT_OUT - [0:0]", "-A OUTPUT -p tcp -j REDIRECT_OUT"]
    lines += ["-A REDIRECT_OUT -m owner --uid-owner 990 -j RETURN", "-A REDIRECT_OUT -o lo -j RETURN"]
    lines += [f"-A REDIRECT_OUT -p tcp --dport {port} -j RETURN" for port in (22, *ports)]
    lines += [f"-A REDIRECT_OUT -d {network} -j RETURN" for network in networks]
    lines += [f"-A REDIRECT_OUT -p tcp -d 10.42.0.0/16 -j DNAT --to-destination {PROXY}:4140", "COMMIT", ""]
    rules = "\n".join(lines).encode()
    return lambda: _run(["iptables-nft-restore"], rules)


def one_by_one(count: int) -> float:
    """Seconds to apply the same with one iptables process a rule."""
    ports, networks = exclusions(count)
    began = time.perf_counter()
    for match in (*(["-p", "tcp", "--dport", str(port)] for port in ports), *(["-d", network] for network in networks)):
        _run(["iptables-nft", "-t", "nat", "-A", "OUTPUT", *match, "-j", "RETURN"])
    return time.perf_counter() - began


def _run(command: list[str], text: bytes = b"") -> None:
    subprocess.run(command, input=text, check=True, capture_output=True)


def flush() -> None:
    """No rules."""
    _run(["nft", "flush", "ruleset"])


class Proxy:
    """A listener for captured connections. The kernel accepts them, so no program's speed is measured."""

    def __init__(self) -> None:
        self._server = socket.create_server((PROXY, 4140), backlog=4096)
        self._server.setblocking(False)

    def forget(self) -> None:
        """Drop accepted connections and their conntrack entries."""
        with suppress(BlockingIOError):
            while True:
                self._server.accept()[0].close()
        _run(["conntrack", "-F"])

    def rate(self) -> float:
        """New connections a second, one after the other, each ended by a reset, so that none stays in TIME_WAIT."""
        at_once = struct.pack("ii", 1, 0)
        self.forget()
        began = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.socket() as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                caller.connect(DESTINATION)
        return CONNECTIONS / (time.perf_counter() - began)


def applied(put: Callable[[], None]) -> tuple[float, int]:
    """The median of milliseconds, and the number of started processes."""
    taken = []
    for _ in range(5):
        flush()
        before = processes_started()
        began = time.perf_counter()
        put()
        taken.append(1000 * (time.perf_counter() - began))
        started = processes_started() - before
    return statistics.median(taken), started


def measure(proxy: Proxy, count: int) -> tuple[float, float]:
    """Print the figures for this many exclusions; both rates."""
    (our_time, our_processes), (their_time, their_processes) = applied(ours(count)), applied(theirs(count))
    our_rates, their_rates = [], []
    for _ in range(ROUNDS):
        for put, rates in ((ours(count), our_rates), (theirs(count), their_rates)):
            flush()
            put()
            rates.append(proxy.rate())
    our_rate, their_rate = statistics.median(our_rates), statistics.median(their_rates)
    row(f"{count} exclusions: new connections", our_rate, "/s", their_rate)
    row(f"{count} exclusions: put in place at once", our_time, "ms", their_time)
    row(f"{count} exclusions: processes for that", our_processes, "", their_processes)
    return our_rate, their_rate


def prepare() -> None:
    """A machine with a network behind it, where only the proxy answers."""
    for command in (
        "ip link set lo up",
        "ip link add exclave0 type bridge",
        f"ip address add {PROXY}/32 dev exclave0",
        "ip link set exclave0 up",
        "ip link add eth0 type bridge",
        "ip address add 10.77.0.20/24 dev eth0",
        "ip link set eth0 up",
        "ip route add default dev eth0",
    ):
        _run(command.split())


def main() -> None:
    """Print the figures."""
    heading(f"Excluding (median of {ROUNDS} rounds of {CONNECTIONS} connections, each side in turn)")
    prepare()
    proxy = Proxy()
    rates = {count: measure(proxy, count) for count in COUNTS}
    most = max(COUNTS)
    ours_left, theirs_left = (100 * rates[most][side] / rates[0][side] for side in (0, 1))
    row(f"{most} exclusions: of the rate without, this is left", ours_left, "%", theirs_left)
    our_time, our_processes = applied(ours(ONE_BY_ONE))
    flush()
    before = processes_started()
    their_time = 1000 * one_by_one(ONE_BY_ONE)
    row(f"{ONE_BY_ONE} exclusions: put in place, the peer rule by rule", our_time, "ms", their_time)
    row(f"{ONE_BY_ONE} exclusions: processes for that", our_processes, "", processes_started() - before)
    note("peer: one rule for each exclusion, by iptables-nft: at once with iptables-restore, or one process a rule")


if __name__ == "__main__":
    main()
