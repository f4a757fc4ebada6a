"""The stub as resolvers meet it: dnspython's, the C library's, dig's."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.resolver
import pytest
import trio
import trio.testing

from exclave.api.settings import Settings, render_settings
from exclave.dns.server import MAX_CONNECTIONS, PORT, DnsStub, open_dns
from exclave.dns.zone import control_plane_services, respond
from exclave.errors import Fault, HostError
from exclave.kit.tasks.latest import Latest
from exclave_sandbox.stage.namespaces import Machine, open_network
from support.faults import failing_once
from support.needs import need

from .test_zone import DESTINATION, POLICY, make_settings

HERE = "127.77.0.53"
SOURCE = Path(__file__).resolve().parents[2] / "agent"
STUB = str(Path(__file__).with_name("programs") / "stub.py")


def resolver(*addresses: str) -> dns.resolver.Resolver:
    made = dns.resolver.Resolver(configure=False)
    made.nameservers = list(addresses)
    made.lifetime = 5.0
    return made


async def resolve(name: str, kind: str) -> list[str]:
    answer = await trio.to_thread.run_sync(lambda: resolver(HERE).resolve(name, kind))
    return sorted(map(str, answer))


async def exchange(over: object, query: dns.message.Message) -> dns.message.Message:
    return await trio.to_thread.run_sync(lambda: over(query, HERE, timeout=5))  # type: ignore[operator]


async def test_dnspythons_resolver_finds_the_control_plane() -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())) as stub:
        assert await resolve(DESTINATION, "SRV") == [
            f"0 100 8086 10-42-0-5.{DESTINATION}",
            f"0 100 8086 10-42-1-7.{DESTINATION}",
        ]
        assert await resolve(DESTINATION, "A") == ["10.42.0.5", "10.42.1.7"]
        with pytest.raises(dns.resolver.NoAnswer):
            await resolve(POLICY, "AAAA")
        with pytest.raises(dns.resolver.NXDOMAIN):
            await resolve(f"10-42-0-9.{DESTINATION}", "A")
        with pytest.raises(dns.resolver.NoNameservers):
            await resolve("example.com.", "A")
        assert stub.answers == {"NOERROR": 3, "NXDOMAIN": 1, "REFUSED": 1}


async def test_a_long_answer_is_fetched_over_tcp() -> None:
    settings = make_settings(destination=tuple(f"10.42.0.{n}" for n in range(1, 101)))
    async with open_dns(HERE, Latest[Settings | None](settings)):
        query = dns.message.make_query(DESTINATION, "SRV")
        assert (await exchange(dns.query.udp, query)).answer == []
        whole = await exchange(dns.query.tcp, query)
        assert sum(map(len, whole.answer)) == 100
        assert len(await resolve(DESTINATION, "SRV")) == 100


async def test_new_settings_are_answered_by_at_once_and_useless_ones_never(caplog: pytest.LogCaptureFixture) -> None:
    settings = Latest[Settings | None](None)
    async with open_dns(HERE, settings):
        reply = await exchange(dns.query.udp, dns.message.make_query(DESTINATION, "A"))
        assert reply.rcode() == dns.rcode.SERVFAIL
        for newest, expected in (
            (make_settings(destination=("10.42.0.5",)), ["10.42.0.5"]),
            (make_settings(destination=("10.42.0.6",)), ["10.42.0.6"]),
            (make_settings(destination=("nowhere",)), ["10.42.0.6"]),
            (None, ["10.42.0.6"]),
        ):
            settings.set(newest)
            await trio.testing.wait_all_tasks_blocked()
            assert await resolve(DESTINATION, "A") == expected
    assert [record.message for record in caplog.records] == [
        "dns: the settings' control plane cannot be used, the last good one stays in use: "
        "'nowhere' does not appear to be an IPv4 or IPv6 address"
    ]


async def test_junk_over_udp_changes_nothing() -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for junk in (b"", b"\0", b"\xff" * 40, os.urandom(512)):
                sock.sendto(junk, (HERE, PORT))
        assert await resolve(POLICY, "A") == ["10.42.0.5"]


async def test_it_listens_on_its_own_address_only() -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())):
        async with open_dns("127.77.0.54", Latest[Settings | None](make_settings())):
            assert await resolve(POLICY, "A") == ["10.42.0.5"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.77.0.54", PORT))


async def test_more_connections_than_two_proxies_need_are_closed() -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())):
        streams = [await trio.open_tcp_stream(HERE, PORT) for _ in range(MAX_CONNECTIONS + 1)]
        assert await streams[-1].receive_some() == b""
        for stream in streams:
            await stream.aclose()
        assert await resolve(POLICY, "A") == ["10.42.0.5"]


async def test_a_port_in_use_is_an_error_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, PORT))
        with pytest.raises(HostError) as refused:
            async with open_dns(HERE, Latest[Settings | None](None)):
                pass
    assert refused.value.fault is Fault.OCCUPIED
    assert refused.value.message == "cannot listen on UDP port 53 of 127.77.0.53: Address already in use"
    assert refused.value.hint == "see who does: ss --listening --numeric --processes --udp --tcp 'sport = :53'"


async def test_a_missing_address_is_an_error_at_once() -> None:
    with pytest.raises(HostError) as refused:
        async with open_dns("192.0.2.53", Latest[Settings | None](None)):
            pass
    assert refused.value.fault is Fault.OCCUPIED
    assert refused.value.message == "cannot listen on UDP port 53 of 192.0.2.53: Cannot assign requested address"


async def test_without_the_right_to_low_ports_the_error_has_a_hint() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        unprivileged = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
        environment = f"PYTHONPATH={SOURCE}"
        stub = [sys.executable, STUB, "127.0.0.1", render_settings(make_settings())]
        done = await machine.run("env", environment, *unprivileged, *stub)
    assert done.errors.splitlines()[-1] == (
        "exclave.errors.HostError: listening on UDP port 53 of 127.0.0.1 is not permitted"
    )


def framed(query: dns.message.Message) -> bytes:
    wire = query.to_wire()
    return len(wire).to_bytes(2, "big") + wire


@pytest.fixture
def known() -> DnsStub:
    stub = DnsStub(HERE)
    stub.load(make_settings())
    return stub


async def test_queries_of_one_connection_are_answered_in_order_however_they_are_cut(known: DnsStub) -> None:
    queries = [dns.message.make_query(name, "A") for name in (DESTINATION, POLICY, DESTINATION)]
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.converse, theirs)
        for byte in b"".join(map(framed, queries)):
            await ours.send_all(bytes([byte]))
        received = b""
        for query in queries:
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                received += await ours.receive_some()
            length = int.from_bytes(received[:2], "big")
            assert dns.message.from_wire(received[2 : 2 + length]).id == query.id
            received = received[2 + length :]
        await ours.aclose()


async def test_a_silent_connection_is_closed(known: DnsStub, autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(b"\0")
    with pytest.raises(trio.TooSlowError):
        await known.converse(theirs)
    assert trio.current_time() == 10.0


async def test_a_connection_ends_with_what_deserves_no_reply(known: DnsStub) -> None:
    for junk in (b"\0\0", b"\0\1x", b"\0\5ab"):
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(junk)
        await ours.send_eof()
        await known.converse(theirs)


@asynccontextmanager
async def stub_in_a_machine(tmp_path: Path, settings: Settings) -> AsyncIterator[Machine]:
    """A machine whose C library asks the stub at 169.254.77.3 and nobody else."""
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("nameserver 169.254.77.3\noptions timeout:2 attempts:1\n")
    async with open_network() as network:
        machine = await network.add("vm", "10.77.0.20/24")
        await machine.add_address("169.254.77.3/32", "lo")
        await machine.share(configuration, Path("/etc/resolv.conf").resolve())
        arguments = ["env", f"PYTHONPATH={SOURCE}", sys.executable, STUB, "169.254.77.3"]
        running = subprocess.Popen(
            machine.command(*arguments, render_settings(settings)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            assert running.stdout.readline() == b"up\n", running.stderr.read().decode()
            yield machine
        finally:
            running.kill()
            running.wait()
            running.stdout.close()
            running.stderr.close()


async def test_the_c_librarys_resolver_finds_the_control_plane(tmp_path: Path) -> None:
    async with stub_in_a_machine(tmp_path, make_settings(destination=("10.42.0.5", "fd00:42::5"))) as machine:
        found = await machine.must("getent", "ahosts", DESTINATION)
        assert {line.split()[0] for line in found.splitlines()} == {b"10.42.0.5", b"fd00:42::5"}
        assert (await machine.run("getent", "ahosts", "example.com.")).status == 2


async def test_dig_agrees(tmp_path: Path) -> None:
    need(shutil.which("dig") is not None, "needs dig (Debian package bind9-dnsutils)")
    settings = make_settings(destination=tuple(f"10.42.0.{n}" for n in range(1, 61)))
    async with stub_in_a_machine(tmp_path, settings) as machine:
        targets = (await machine.must("dig", "+short", DESTINATION, "SRV")).splitlines()
        assert len(targets) == 60
        assert b"0 100 8086 10-42-0-1." + DESTINATION.encode() in targets
        over_udp = (await machine.must("dig", "+ignore", "+noedns", DESTINATION, "SRV")).decode()
        assert "flags: qr aa tc rd; QUERY: 1, ANSWER: 0" in over_udp
        for arguments, status in (
            (["example.com.", "A"], "REFUSED"),
            ([f"x.{DESTINATION}", "A"], "NXDOMAIN"),
            ([POLICY, "MX"], "NOERROR"),
            ([POLICY, "A", "+edns=1", "+noednsneg"], "BADVERS"),
            ([POLICY, "A", "+opcode=STATUS"], "NOTIMP"),
        ):
            told = (await machine.must("dig", "+noignore", *arguments)).decode()
            assert f"status: {status}" in told, told
            assert "Warning" not in told.replace("WARNING: recursion requested but not available", "")


# What falls over comes back.


async def resolved_again(over: object) -> None:
    """Ask until there is an answer."""
    query = dns.message.make_query(DESTINATION, "A")
    with trio.fail_after(20):
        while True:
            try:
                reply = await trio.to_thread.run_sync(lambda: over(query, HERE, timeout=1))  # type: ignore[operator]
            except (dns.exception.Timeout, OSError):
                continue
            assert sorted(str(record) for record in reply.answer[0]) == ["10.42.0.5", "10.42.1.7"]
            return


async def test_a_fault_in_an_answer_costs_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())):
        calls = failing_once(monkeypatch, "exclave.dns.server.respond", respond)
        await resolved_again(dns.query.udp)
        assert len(calls) == 2


def break_listener(place: tuple[str, int]) -> None:
    """Shut down this process's socket that listens at an address and port."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and found.getsockname() == place:
                    found.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            continue
    raise AssertionError(f"nobody listens at {place}")


async def test_a_socket_that_breaks_is_bound_anew() -> None:
    async with open_dns(HERE, Latest[Settings | None](make_settings())):
        break_listener((HERE, PORT))
        await resolved_again(dns.query.tcp)
        await resolved_again(dns.query.udp)


async def test_settings_that_make_it_fail_are_loaded_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Latest[Settings | None](None)
    async with open_dns(HERE, settings):
        failing_once(monkeypatch, "exclave.dns.server.control_plane_services", control_plane_services)
        settings.set(make_settings())
        with trio.fail_after(20):
            while not (await exchange(dns.query.udp, dns.message.make_query(DESTINATION, "A"))).answer:
                pass
