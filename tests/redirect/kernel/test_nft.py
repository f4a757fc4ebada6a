"""nft at work for us, and every way in which it may not serve."""

from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.ending import EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.tasks.latest import Latest
from exclave.redirect.kernel.nft import hold_table, load_rules, look, remove_table
from exclave.redirect.kernel.observe import NOTHING
from exclave.redirect.reconciler import open_redirect
from exclave.redirect.rules.drain_ruleset import render_kept
from exclave.redirect.rules.policy import RedirectPolicy

from ..lab import doors_inside, open_lab
from ..policies import PLAIN


async def open_and_close() -> None:
    async with open_redirect(Latest[RedirectPolicy | None](PLAIN), Path("/nowhere"), EndingSwitch()):
        pass


async def test_a_table_is_looked_at_held_and_removed_as_often_as_one_likes() -> None:
    async with open_lab() as lab:
        assert await look() == NOTHING
        await hold_table()
        assert await lab.nft("list", "tables") == ""  # nothing there is nothing to hold
        await load_rules(render_kept(PLAIN))
        assert (await look()).instance == "a"
        for _ in range(2):
            await hold_table()
            assert (await look()).is_holding
        for _ in range(2):
            await remove_table()
            assert await look() == NOTHING
        assert await lab.nft("list", "tables") == ""


async def test_without_the_capability_it_says_so() -> None:
    async with open_lab() as lab:
        unprivileged = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
        with doors_inside(lab.vm, lab.network.scratch, prefix=unprivileged):
            for attempt in (open_and_close, hold_table, remove_table):
                with pytest.raises(HostError) as refused:
                    await attempt()
                assert refused.value.fault is Fault.NO_PRIVILEGE
                assert refused.value.message == "changing nftables is not permitted"
                assert refused.value.hint == "run as root, with the capability NET_ADMIN"


UNUSABLE = {
    "nft is missing": (
        None,
        "the program nft cannot be run: No such file or directory",
        "install it: apt install nftables",
    ),
    "the kernel has no NAT": (
        '[ "$1" = -j ] && echo "Error: No such file or directory" >&2 || '
        'echo "/dev/stdin:19:11-17: Error: Could not process rule: Operation not supported" >&2; exit 1',
        "nft refused the rules: /dev/stdin:19:11-17: Error: Could not process rule: Operation not supported",
        "the kernel needs nf_tables with NAT (modules nft_chain_nat, nf_conntrack)",
    ),
    "nft was built without JSON": (
        'echo "table inet exclave {"',
        "nft -j list table: its JSON was expected",
        "exclave needs nftables 0.9.3 or newer, with JSON",
    ),
}


@pytest.mark.parametrize(("script", "message", "hint"), UNUSABLE.values(), ids=UNUSABLE)
async def test_an_nft_that_does_not_serve_is_told_at_the_start(
    script: str | None, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nft").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        await open_and_close()
    assert (refused.value.fault, refused.value.message, refused.value.hint) == (Fault.NFT_UNUSABLE, message, hint)


async def test_an_nft_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "nft").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        await open_and_close()
    assert refused.value.message == "the program nft did not end within 30 s"
