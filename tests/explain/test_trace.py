"""One packet of ours, traced by the kernel; and nothing of that left behind, whatever happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from exclave.errors import Fault, HostError
from exclave.explain.trace import open_attempt, open_tracing, send_first_packet

from ..redirect.lab import open_lab, open_rules
from ..redirect.policies import PLAIN

TRACE = """
import os, sys, trio
from exclave.explain.trace import send_first_packet, listen_for_events, open_attempt, open_tracing, read_events

async def main():
    with open_attempt(4, 4242, 4343) as attempt:
        async with open_tracing(attempt.getsockname()[1]):
            print("tracing", os.getpid(), flush=True)
            if sys.argv[1:] == ["wait"]:
                await trio.sleep_forever()
            with listen_for_events() as channel:
                send_first_packet(attempt, "10.42.0.9", 80)
                for event in read_events(channel):
                    if event.verdict != "continue":
                        print(event.table, event.chain, event.verdict, flush=True)

trio.run(main)
"""


async def test_the_kernel_reports_each_chain_and_nothing_is_left_behind() -> None:
    async with open_lab() as lab, open_rules(lab, PLAIN):
        lines = (await lab.vm.must(sys.executable, "-c", TRACE)).decode().splitlines()
        assert lines[0].startswith("tracing")
        assert [line for line in lines if line.startswith("exclave ")] == [
            "exclave outbound accept",
            "exclave foreign accept",
        ]
        assert await lab.nft("list", "tables") == "table inet exclave\n"


async def test_a_tracer_that_is_killed_leaves_no_rule_behind() -> None:
    async with open_lab() as lab:
        command = lab.vm.command(sys.executable, "-c", TRACE, "wait")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None
            lines = tracer.stdout.readline().split()
            assert lines[0] == b"tracing"
            assert "exclave-trace" in await lab.nft("list", "tables")
            await lab.vm.must("kill", "-KILL", lines[1].decode())  # and not nft, whose end is its own affair
        with trio.fail_after(20):
            while await lab.nft("list", "tables"):  # noqa: ASYNC110  the kernel tells nobody
                await trio.sleep(0.01)


def test_a_socket_is_made_as_of_a_user_and_group_and_we_stay_who_we_are() -> None:
    before = os.geteuid(), os.getegid()
    with open_attempt(4, 4242, 4343) as attempt:
        owner = os.fstat(attempt.fileno())
        assert (owner.st_uid, owner.st_gid) == (4242, 4343)
    assert (os.geteuid(), os.getegid()) == before


def test_an_immediate_error_of_the_kernel_is_returned() -> None:
    with open_attempt(4) as attempt:
        assert send_first_packet(attempt, "255.255.255.255", 80) in (
            "Network is unreachable",
            "Permission denied",
            "Invalid argument",
        )


async def test_an_nft_that_cannot_trace_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError) as refused:
        async with open_tracing(40000):
            pass
    assert refused.value.message == "the program nft cannot be run: No such file or directory"
    (tmp_path / "nft").write_text("#!/bin/sh\necho 'Error: Could not process rule: Operation not supported'\n")
    (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        async with open_tracing(40000):
            pass
    assert refused.value.fault is Fault.NFT_UNUSABLE
    assert refused.value.message == (
        "nft made no rule that traces: Error: Could not process rule: Operation not supported"
    )
    assert refused.value.hint == "--trace needs Linux 5.12 and nftables 0.9.9"
