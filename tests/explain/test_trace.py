"""One packet of ours, traced by the kernel; no rule stays behind, whatever happens."""

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

TRACER = str(Path(__file__).with_name("programs") / "trace_connection.py")


async def test_the_kernel_reports_each_chain_and_nothing_is_left_behind() -> None:
    async with open_lab() as lab, open_rules(lab, PLAIN):
        lines = (await lab.vm.must(sys.executable, TRACER)).decode().splitlines()
        assert lines[0].startswith("tracing")
        assert [line for line in lines if line.startswith("exclave ")] == [
            "exclave outbound accept",
            "exclave refusals accept",
            "exclave foreign accept",
        ]
        assert await lab.nft("list", "tables") == "table inet exclave\n"


async def test_a_tracer_that_is_killed_leaves_no_rule_behind() -> None:
    async with open_lab() as lab:
        command = lab.vm.command(sys.executable, TRACER, "wait")
        with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None
            lines = tracer.stdout.readline().split()
            assert lines[0] == b"tracing"
            assert "exclave-trace" in await lab.nft("list", "tables")
            await lab.vm.must("kill", "-KILL", lines[1].decode())  # and not nft, which must end by itself
        with trio.fail_after(20):
            while await lab.nft("list", "tables"):  # noqa: ASYNC110  the kernel does not report it
                await trio.sleep(0.01)


def test_a_socket_belongs_to_the_user_and_group_and_our_own_stay_the_same() -> None:
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
