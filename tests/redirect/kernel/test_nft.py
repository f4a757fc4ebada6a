"""Runs of nft, and every way in which nft may be unusable."""

from pathlib import Path

import pytest
import trio
import trio.testing

from exclave.ending import EndingSwitch
from exclave.errors import Fault, HostError
from exclave.kit.tasks.latest import Latest
from exclave.redirect.kernel.nft import drain_table, load_rules, observe_table, remove_table
from exclave.redirect.kernel.observe import NOTHING
from exclave.redirect.reconciler import open_redirect
from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render_ruleset

from ..lab import doors_inside, open_lab
from ..policies import PLAIN


async def open_and_close() -> None:
    async with open_redirect(Latest[RedirectPolicy | None](PLAIN), Path("/nowhere"), EndingSwitch()):
        pass


async def test_the_table_is_read_drained_and_removed_as_often_as_one_likes() -> None:
    async with open_lab() as lab:
        assert await observe_table() == NOTHING
        await drain_table()
        assert await lab.nft("list", "tables") == ""  # without a table there is nothing to drain
        await load_rules(render_ruleset(PLAIN))
        assert (await observe_table()).instance == "a"
        for _ in range(2):
            await drain_table()
            assert (await observe_table()).is_draining
        for _ in range(2):
            await remove_table()
            assert await observe_table() == NOTHING
        assert await lab.nft("list", "tables") == ""


async def test_a_missing_capability_is_reported() -> None:
    async with open_lab() as lab:
        unprivileged = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
        with doors_inside(lab.vm, lab.network.scratch, prefix=unprivileged):
            for attempt in (open_and_close, drain_table, remove_table):
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
        "nft -j: its JSON was expected",
        "exclave needs nftables 0.9.3 or newer, with JSON",
    ),
}


@pytest.mark.parametrize(("script", "message", "hint"), UNUSABLE.values(), ids=UNUSABLE)
async def test_an_unusable_nft_is_reported_at_the_start(
    script: str | None, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nft").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        await open_and_close()
    assert (refused.value.fault, refused.value.message, refused.value.hint) == (Fault.NFT_UNUSABLE, message, hint)


async def test_an_nft_that_hangs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "nft").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        await open_and_close()
    assert refused.value.message == "the program nft did not end within 30 s"
