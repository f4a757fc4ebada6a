"""Which place is free, with the kernel's own sockets in a network namespace of the test's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import json, socket, subprocess, sys
from exclave.errors import HostError
from exclave.proxy.process.slot import choose_slot, find_families

addresses, taken, ours = json.loads(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in addresses:
    options = ["nodad"] if ":" in address else []  # as our link has them: there at once
    subprocess.run(["ip", "address", "add", address, "dev", "lo", *options], check=True)
held = [socket.create_server((host, port)) for host, port in taken]
try:
    slot = choose_slot(ours)
    print(json.dumps([slot, find_families(slot)]))
except HostError as problem:
    print(json.dumps([problem.fault.word, problem.message, problem.hint]))
"""

BOTH = ["169.254.77.1/32", "169.254.77.2/32"]


def ask(addresses: list[str], *taken: tuple[str, int], held: str = "") -> list[object]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ASK, json.dumps([addresses, taken, held])],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "agent"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("port", [4140, 4143, 4191])
def test_one_port_that_is_taken_makes_it_the_other_place(port: int) -> None:
    assert ask(BOTH) == ["a", [4]]
    assert ask(BOTH, ("169.254.77.1", port)) == ["b", [4]]


def test_ports_taken_at_other_addresses_disturb_nobody() -> None:
    assert ask([*BOTH, "10.77.0.20/32"], ("10.77.0.20", 4143), ("127.0.0.1", 4191)) == ["a", [4]]


def test_a_listener_at_every_address_takes_both() -> None:
    assert ask(BOTH, ("0.0.0.0", 4191)) == [
        "taken",
        "the proxy's ports on 169.254.77.1 and 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]


def test_a_place_that_is_held_already_is_not_looked_at() -> None:
    assert ask(BOTH, held="a") == ["b", [4]]
    assert ask(BOTH, ("169.254.77.2", 4143), held="a") == [
        "taken",
        "the proxy's ports on 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]
    assert ask(BOTH, held="ab")[1] == "both places of the private link have a proxy already"


def test_a_link_with_ipv6_serves_both_families() -> None:
    assert ask([*BOTH, "fd77:ec1a:7e::1/128"]) == ["a", [4, 6]]


def test_a_link_without_the_address_is_said() -> None:
    assert ask([]) == [
        "taken",
        "the proxy cannot listen on 169.254.77.1:4143: cannot assign requested address",
        "the link exclave0 should have that address: exclave cleanup, then start again",
    ]
