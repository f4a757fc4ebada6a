"""Which slot is free, with real sockets in a network namespace of the test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("programs") / "choose_slot.py"

BOTH = ["169.254.77.1/32", "169.254.77.2/32"]


def chosen(addresses: list[str], *listened: tuple[str, int], used: str = "") -> list[object]:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(PROGRAM), json.dumps([addresses, listened, used])],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "agent"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("port", [4140, 4143, 4191])
def test_a_slot_with_a_used_port_is_passed_over(port: int) -> None:
    assert chosen(BOTH) == ["a", [4]]
    assert chosen(BOTH, ("169.254.77.1", port)) == ["b", [4]]


def test_ports_at_other_addresses_do_not_matter() -> None:
    assert chosen([*BOTH, "10.77.0.20/32"], ("10.77.0.20", 4143), ("127.0.0.1", 4191)) == ["a", [4]]


def test_a_listener_at_every_address_uses_both_slots() -> None:
    assert chosen(BOTH, ("0.0.0.0", 4191)) == [
        "taken",
        "the proxy's ports on 169.254.77.1 and 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]


def test_a_slot_of_our_own_process_is_passed_over() -> None:
    assert chosen(BOTH, used="a") == ["b", [4]]
    assert chosen(BOTH, ("169.254.77.2", 4143), used="a") == [
        "taken",
        "the proxy's ports on 169.254.77.2 are taken by processes that are not ours",
        "see whose they are, and end them: ss -ltnp 'sport = :4191'",
    ]
    assert chosen(BOTH, used="ab")[1] == "both instances of the proxy run already"


def test_a_link_with_ipv6_serves_both_families() -> None:
    assert chosen([*BOTH, "fd77:ec1a:7e::1/128"]) == ["a", [4, 6]]


def test_a_link_without_the_address_is_reported() -> None:
    assert chosen([]) == [
        "taken",
        "the proxy cannot listen on 169.254.77.1:4143: cannot assign requested address",
        "the link exclave0 should have that address: exclave cleanup, then start again",
    ]
