"""Half-open connections in the real kernel: those from before the rules are deleted, and the next SYN is captured."""

import logging
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest
import trio
import trio.testing

from exclave.kit.netlink.messages import read_body, read_messages, write_attribute
from exclave.redirect.kernel.half_open import HalfOpen, forget_half_open, parse_half_open
from support.needs import need
from support.network_namespace import in_network_namespace

OWN4, FORMER4, ELSEWHERE, OWN6 = "10.96.0.20", "10.96.0.21", "10.96.0.22", "fd00:96::20"
NOBODY4, NOBODY6 = "10.96.0.90", "fd00:96::90"

REMEMBERING = """
table inet remembering {
    chain kept {
        type nat hook prerouting priority -90
        ct state invalid accept
    }
}
"""
"""It makes the kernel track connections without rules of ours, as the keepalive table does."""

RULES = """
table inet rules {
    chain outbound {
        type nat hook output priority -110
        tcp dport 8080 tcp flags & (fin | syn | rst | ack) == syn redirect to :4140
    }
}
"""


DEAF = """
table inet rules {
    chain deaf {
        type filter hook input priority 0
        tcp dport 4140 drop
    }
}
"""
"""A proxy that does not answer."""


def nft(*arguments: str, rules: str = "") -> None:
    subprocess.run(["nft", *arguments], input=rules.encode(), check=True)


def make_links() -> None:
    """Links and neighbours that never answer."""
    commands = (
        "link set lo up",
        "link add v0 type veth peer name v1",
        "link set v0 up",
        "link set v1 up",
        f"address add {OWN4}/16 dev v0",
        f"address add {FORMER4}/32 dev v0",
        f"address add {ELSEWHERE}/32 dev v0",
        f"address add {OWN6}/64 dev v0 nodad",
        f"neighbour add {NOBODY4} lladdr 02:00:00:00:00:99 dev v0",
        f"neighbour add {NOBODY6} lladdr 02:00:00:00:00:99 dev v0",
    )
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)
    nft("-f", "-", rules=REMEMBERING)


@contextmanager
def calling(source: str, port: int, destination: str) -> Iterator[socket.socket]:
    """A connection attempt with a port of its own, whose first packet is on its way."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.bind((source, port))
        caller.setblocking(False)
        caller.connect_ex((destination, 8080))
        yield caller


@contextmanager
def captured_log() -> Iterator[list[str]]:
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("exclave.redirect.kernel.half_open"), Collector()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def remembered(*which: str, family: str = "ipv4") -> list[str]:
    """Source ports of the TCP connections that the kernel tracks."""
    command = ["conntrack", "-L", "-p", "tcp", "-f", family, *which]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        next(word.partition("=")[2] for word in line.split() if word.startswith("sport="))
        for line in listed.stdout.splitlines()
    ]


@in_network_namespace()
async def test_a_connection_with_the_same_ports_bypasses_the_rules_until_the_half_open_one_is_deleted() -> None:
    make_links()
    with calling(OWN4, 40001, NOBODY4):
        pass
    nft("-f", "-", rules=RULES)
    with socket.create_server(("127.0.0.1", 4140)) as proxy, calling(OWN4, 40001, NOBODY4):
        assert (remembered(), remembered("--dst-nat")) == (["40001"], [])
        proxy.settimeout(10.0)
        await forget_half_open([])
        captured, _ = proxy.accept()  # its first packet, sent again
        captured.close()
        assert remembered("--dst-nat") == ["40001"]


@in_network_namespace()
async def test_answered_translated_and_foreign_connections_stay() -> None:
    make_links()
    with ExitStack() as stack, captured_log() as lines:
        call = [(OWN4, 40002, NOBODY4), (OWN6, 40003, NOBODY6), (FORMER4, 40004, NOBODY4), (ELSEWHERE, 40005, NOBODY4)]
        for source, port, destination in call:
            stack.enter_context(calling(source, port, destination))
        subprocess.run(["ip", "address", "delete", f"{FORMER4}/32", "dev", "v0"], check=True)
        subprocess.run(["ip", "address", "delete", f"{ELSEWHERE}/32", "dev", "v0"], check=True)
        nft("-f", "-", rules=RULES)
        server = stack.enter_context(socket.create_server((OWN4, 9000)))
        answered = stack.enter_context(socket.create_connection(server.getsockname()))
        nft("-f", "-", rules=DEAF)
        stack.enter_context(calling(OWN4, 40006, NOBODY4))  # translated
        assert remembered(family="ipv6") == ["40003"]
        await forget_half_open([FORMER4])  # as an address in the mesh that is no link's
        assert set(remembered()) == {"40005", "40006", str(answered.getsockname()[1])}
        assert remembered(family="ipv6") == []
        assert lines == ["redirect: half-open connections deleted, since they began without rules: 3"]


@in_network_namespace()
async def test_a_connection_answered_meanwhile_stays() -> None:
    make_links()
    nft("-f", "-", rules=DEAF.replace("4140", "8080"))
    with calling(OWN4, 40007, NOBODY4), calling(OWN4, 40008, OWN4) as slow, socket.create_server((OWN4, 8080)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget_half_open, [])
            await trio.testing.wait_all_tasks_blocked()  # it has listed both, and waits
            assert set(remembered()) == {"40007", "40008"}
            nft("delete", "table", "inet", "rules")
            assert select.select([], [slow], [], 10.0)[1], "its first packet was not sent again"
        assert remembered() == ["40008"]


@in_network_namespace()
async def test_nothing_to_delete_logs_nothing() -> None:
    with captured_log() as lines:
        await forget_half_open([])
        assert lines == []


async def test_a_refusal_by_the_kernel_is_logged_with_its_consequence(caplog: pytest.LogCaptureFixture) -> None:
    need(os.geteuid() == 0, "becoming another user needs root")
    os.seteuid(65534)
    try:
        await forget_half_open([])
    finally:
        os.seteuid(0)
    (line,) = caplog.messages
    assert line.startswith("redirect: connections begun without rules may bypass the mesh for two minutes: ")
    assert "not permitted" in line


NEW, GET, DELETE = 0x100, 0x101, 0x102
TUPLE, STATUS, ID, ZONE = 1, 3, 12, 18
CONFIRMED, ANSWERED, SOURCE_TRANSLATED, DESTINATION_TRANSLATED = 0x8, 0x2, 0x10, 0x20


def entry(source: str, destination: str, status: int = CONFIRMED, protocol: int = 6, zone: bytes = b"") -> bytes:
    """The body of a message as the kernel writes it."""
    version = ip_address(source).version
    first = 1 if version == 4 else 3
    ends = write_attribute(first, ip_address(source).packed) + write_attribute(
        first + 1, ip_address(destination).packed
    )
    ports = write_attribute(1, bytes([protocol])) + write_attribute(2, b"\x9c\x40") + write_attribute(3, b"\x1f\x90")
    parts = write_attribute(1, ends, nested=True) + write_attribute(2, ports, nested=True)
    attributes = [
        write_attribute(TUPLE, parts, nested=True),
        write_attribute(STATUS, status.to_bytes(4, "big")),
        write_attribute(ID, b"\1\2\3\4"),
    ]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return bytes([family, 0, 0, 0]) + b"".join(attributes) + (write_attribute(ZONE, zone) if zone else b"")


def parse(body: bytes, kind: int = NEW) -> list[tuple[str, str]]:
    found = parse_half_open(kind, body)
    return [] if found is None else [(found.source, found.destination)]


def test_an_unanswered_connection_is_read_with_its_addresses() -> None:
    assert parse(entry("10.77.0.20", "10.96.0.90")) == [("10.77.0.20", "10.96.0.90")]
    assert parse(entry("fd00:77::20", "fd00:42::9")) == [("fd00:77::20", "fd00:42::9")]


@pytest.mark.parametrize(
    "body",
    [
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | ANSWERED),
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | SOURCE_TRANSLATED),
        entry("10.77.0.20", "10.96.0.90", CONFIRMED | DESTINATION_TRANSLATED),
        entry("10.77.0.20", "10.96.0.53", protocol=17),
    ],
    ids=["answered", "its source is translated", "its destination is translated", "of another protocol"],
)
def test_any_other_connection_is_skipped(body: bytes) -> None:
    assert parse(body) == []


def test_a_message_of_another_kind_is_skipped() -> None:
    assert parse(entry("10.77.0.20", "10.96.0.90"), GET) == []


def test_a_connection_is_deleted_by_its_tuple_zone_and_id() -> None:
    body = entry("10.77.0.20", "10.96.0.90", zone=b"\0\7")
    found = parse_half_open(NEW, body)
    assert found is not None
    ((kind, sent),) = read_messages(found.delete_message())
    assert (kind, sent[0]) == (DELETE, socket.AF_INET)
    assert read_body(sent) == {key: value for key, value in read_body(body).items() if key in (TUPLE, ZONE, ID)}


def test_a_connection_without_addresses_is_read() -> None:
    body = bytes(4) + write_attribute(TUPLE, write_attribute(2, write_attribute(1, b"\6"), nested=True), nested=True)
    named = write_attribute(TUPLE, read_body(body)[TUPLE], nested=True)
    assert parse_half_open(NEW, body) == HalfOpen("", "", 0, named)


def test_a_message_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="cut off"):
        parse(entry("10.77.0.20", "10.96.0.90")[:-3])
