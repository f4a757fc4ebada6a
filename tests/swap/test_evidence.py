"""What metrics, the kernel's tables and a trial connection prove. The texts are shaped like the real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.errors import HostError
from exclave.swap import evidence
from exclave.swap.evidence import (
    TRIAL_TIMEOUT,
    count_clients,
    count_policies,
    count_sockets,
    is_accepted,
    try_connection,
    wanted_policies,
)

POLICY = 'addr="linkerd-policy.linkerd.svc.cluster.local:8090",tls="true",server_id="linkerd-destination.x"'
DESTINATION = POLICY.replace("policy.linkerd", "dst-headless.linkerd").replace("8090", "8086")

STARTED = f"""\
# HELP control_response_latency_ms Elapsed times between a request's headers being received and its response
# TYPE control_response_latency_ms histogram
control_response_latency_ms_bucket{{{POLICY},status_code="200",le="1"}} 2
control_response_latency_ms_count{{{POLICY},status_code="200"}} 2
control_response_latency_ms_sum{{{POLICY},status_code="200"}} 3
control_response_latency_ms_count{{{DESTINATION},status_code="200"}} 7
"""
FAILED = f'control_response_total{{{POLICY},status_code="200",classification="failure",grpc_status="5",error=""}} 1\n'


def test_policies_are_streams_of_the_policy_controller_that_have_brought_something() -> None:
    assert count_policies(STARTED) == 2


def test_a_stream_that_ended_as_a_failure_brought_none() -> None:
    assert count_policies(STARTED + FAILED) == 1
    assert count_policies(STARTED + FAILED.replace('"failure"', '"success"')) == 1  # as NotFound is counted
    assert count_policies(STARTED + FAILED.replace('"failure"', '"success"').replace('"5"', '"0"')) == 2


def test_answers_of_another_status_bring_none() -> None:
    assert count_policies(STARTED.replace('"200"', '"503"')) == 0


def test_nothing_was_asked_yet() -> None:
    assert count_policies("") == 0


@pytest.mark.parametrize(("ports", "count"), [((), 1), ((8080,), 2), ((8080, 5432), 3), ((4191,), 1)])
def test_a_proxy_asks_for_each_port_and_for_its_admin_port(ports: tuple[int, ...], count: int) -> None:
    assert wanted_policies(ports) == count


OPEN = """\
# TYPE tcp_open_connections gauge
tcp_open_connections{direction="inbound",peer="src",target_addr="10.77.0.20:8080",tls="true",client_id="x"} 2
tcp_open_connections{direction="outbound",peer="src",target_addr="10.42.0.9:8080",tls="no_identity"} 1
tcp_open_connections{direction="inbound",peer="src",target_addr="169.254.77.1:4191",tls="no_identity"} 3
tcp_open_connections{direction="outbound",peer="dst",target_addr="10.42.0.9:8080",tls="true"} 5
tcp_open_total{direction="inbound",peer="src",target_addr="10.77.0.20:8080",tls="true"} 900
"""


def test_clients_are_those_whose_connections_are_open_and_no_visitors_of_the_admin_server() -> None:
    assert count_clients(OPEN) == 3
    assert count_clients("") == 0


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
HERE, THERE = "014DFEA9", "1E004D0A"  # 169.254.77.1, 10.77.0.30
OURS = (frozenset({"169.254.77.1", "fd77:ec1a:7e::1"}), frozenset({4140, 4143}))


def line(state: str, inode: int, *, place: str = f"{HERE}:102F") -> str:
    return (
        f"   0: {place} {THERE}:C0DE {state} 00000000:00000000 00:00000000 00000000 65534 0 {inode} 1 0 20 4 30 10 -1\n"
    )


STATES: dict[str, tuple[str, int, int]] = {
    "established": ("01", 77, 1),
    "established, and not accepted yet": ("01", 0, 1),
    "the handshake is under way": ("03", 0, 1),
    "the other side has closed": ("08", 77, 1),
    "our side has closed": ("05", 77, 1),
    "our side has closed and no process has it": ("05", 0, 0),
    "it is over": ("06", 0, 0),
    "a listener": ("0A", 77, 0),
}


@pytest.mark.parametrize(("state", "inode", "count"), STATES.values(), ids=STATES)
def test_a_socket_counts_while_bytes_may_move(state: str, inode: int, count: int) -> None:
    assert count_sockets(HEAD + line(state, inode), *OURS) == count


PLACES = {
    "the port for what comes in": (f"{HERE}:102F", 1),
    "the port for what goes out": (f"{HERE}:102C", 1),
    "the admin port": (f"{HERE}:105F", 0),
    "the other instance": ("024DFEA9:102F", 0),
    "IPv6": ("1AEC77FD00007E000000000001000000:102C", 1),
    "IPv4 in an IPv6 socket": (f"0000000000000000FFFF0000{HERE}:102F", 1),
    "another address": ("14004D0A:1F90", 0),
}


@pytest.mark.parametrize(("place", "count"), PLACES.values(), ids=PLACES)
def test_a_socket_counts_where_traffic_comes_in(place: str, count: int) -> None:
    assert count_sockets(HEAD + line("01", 77, place=place), *OURS) == count


def test_an_empty_table_counts_nothing() -> None:
    assert count_sockets("", *OURS) == count_sockets(HEAD, *OURS) == 0


PROGRAM = Path(__file__).with_name("programs") / "try_connection.py"
LISTENER = ("169.254.77.2", 4140)  # where the new proxy accepts outbound connections


def result_of(pid: int | str) -> str:
    """The result of a trial by way of process `pid`; 0 is the program's own process, "hidden" one of another user."""
    command = ["unshare", "--net", sys.executable, str(PROGRAM), str(pid)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "agent")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_trial_connection_of_the_right_process_succeeds() -> None:
    assert result_of(0) == "proven"  # without rules, the connection's own socket is the one that arrives


def test_a_trial_connection_of_another_process_is_refused() -> None:
    result = result_of(os.getpid())
    assert result.startswith("a trial connection to 169.254.77.4 arrived from 169.254.77.4:")
    assert result.endswith(", which is not a socket of the new proxy")


@pytest.mark.skipif(os.geteuid() != 0, reason="runs a program without the right to inspect other users' processes")
def test_a_process_that_hides_its_sockets_is_recognised_by_its_listener() -> None:
    # Without rules, no proxy has accepted the connection.
    assert result_of("hidden") == "a trial connection to 169.254.77.4 was not accepted by the new proxy"


ACCEPTED = {
    "by the new proxy": (("169.254.77.2", 4140), ("169.254.77.4", 40000), True),
    "by the other instance": (("169.254.77.1", 4140), ("169.254.77.4", 40000), False),
    "from another client": (("169.254.77.2", 4140), ("169.254.77.4", 40001), False),
}


@pytest.mark.parametrize(("listener", "client", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_connection_is_recognised_by_both_its_ends(
    listener: tuple[str, int], client: tuple[str, int], expected: bool
) -> None:
    ends = "024DFEA9:102C 044DFEA9:9C40"
    row = f"   0: {ends} 01 00000000:00000000 00:00000000 00000000 997 0 77 1 0 20 4 30 10 -1\n"
    assert is_accepted(["", HEAD + row], listener, client) is expected


async def test_a_missing_trial_address_is_reported() -> None:
    with pytest.raises(HostError, match=r"a trial connection to 192.0.2.1 broke: "):
        await try_connection("192.0.2.1", os.getpid(), LISTENER)


async def test_a_trial_connection_that_does_not_arrive_is_reported_in_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(address: str, pid: int, listener: tuple[str, int]) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(evidence, "_try", silent)
    with pytest.raises(HostError) as caught:
        await try_connection("169.254.77.4", os.getpid(), LISTENER)
    assert trio.current_time() == pytest.approx(TRIAL_TIMEOUT)
    assert caught.value.message == "a trial connection to 169.254.77.4 did not arrive within 10 s"
