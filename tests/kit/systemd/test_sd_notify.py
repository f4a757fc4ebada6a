"""Telling systemd, or whoever listens in its place."""

import errno
import os
import socket
import time
from contextlib import suppress
from math import inf
from pathlib import Path

import pytest

from exclave.errors import Fault, HostError
from exclave.kit.systemd.sd_notify import MAX_STATUS, failure, notify, reloading, status, stopping, watchdog_time


@pytest.fixture
def listener() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def test_a_line_arrives_at_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    with listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_a_line_arrives_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    name = f"exclave-test-{os.getpid()}"
    with listener:
        listener.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1"


def test_without_systemd_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert notify("READY=1")


def test_a_listener_that_does_not_read_never_blocks_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    with listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sent = [notify("WATCHDOG=1") for _ in range(2_000)]
        assert sent[0]
        assert not sent[-1]


def read_all(listener: socket.socket) -> list[str]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(listener.recv(1000).decode())
    return found


def test_what_a_full_queue_refuses_is_sent_later_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    """Without READY=1, systemd would end an agent that works."""
    with listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        while notify("WATCHDOG=1"):
            pass
        for words in (("READY=1",), ("STATUS=starting",), ("RELOADING=1", "MONOTONIC_USEC=7"), ("STATUS=ready",)):
            assert not notify(*words)
        assert set(read_all(listener)) == {"WATCHDOG=1"}
        assert notify("WATCHDOG=1")
        assert read_all(listener) == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=7", "STATUS=ready", "WATCHDOG=1"]
        assert notify()
        assert read_all(listener) == []


# What is sent.


def test_a_reload_begins_at_a_monotonic_time_in_microseconds() -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    word, begun = reloading()
    name, _, number = begun.partition("=")
    assert (word, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before - 1e-6 <= int(number) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_a_stop_asks_for_its_time_in_microseconds() -> None:
    assert stopping(90.5) == ("STOPPING=1", "EXTEND_TIMEOUT_USEC=90500000")


def test_a_status_is_one_line_of_a_bounded_length() -> None:
    assert status("a\nb\nc") == "STATUS=a; b; c"
    assert status("a\x1b[2J\rREADY=1\ud800") == r"STATUS=a\x1b[2J; READY=1\ud800"
    assert status("config.toml:\n  a: 7\n  b: 8") == "STATUS=config.toml: a: 7; b: 8"
    assert status("x" * MAX_STATUS) == "STATUS=" + "x" * MAX_STATUS
    assert status("x" * (MAX_STATUS + 1)) == "STATUS=" + "x" * (MAX_STATUS - 1) + "…"


def test_a_failure_is_shown_with_what_to_do_and_the_kernels_error_number() -> None:
    full = HostError(Fault.DISK, "cannot write /x", "free some space")
    assert failure(full) == ("STATUS=cannot write /x; to do: free some space",)
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert failure(full) == ("STATUS=cannot write /x; to do: free some space", f"ERRNO={errno.ENOSPC}")


def test_the_text_of_an_unexpected_failure_is_not_shown() -> None:
    assert failure(ValueError("a secret")) == ("STATUS=ended by an unexpected error: this is a bug in exclave",)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, inf),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, inf),
        ({"WATCHDOG_USEC": "0"}, inf),
        ({"WATCHDOG_USEC": "soon"}, inf),
    ],
)
def test_the_watchdogs_time_is_for_the_process_that_systemd_names(environment: dict[str, str], seconds: float) -> None:
    assert watchdog_time(environment, 7) == seconds
