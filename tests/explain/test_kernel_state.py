"""What is read from the kernel, in a network namespace."""

from pathlib import Path

import pytest
import trio

from exclave.errors import Fault, HostError
from exclave.explain.kernel_state import (
    is_listening,
    read_addresses,
    read_kernel_table,
    read_other_nat_chains,
)
from support.network_namespace import in_network_namespace

from ..redirect.lab import doors_inside, open_lab, open_rules
from ..redirect.policies import PLAIN


async def test_the_table_is_read_with_its_texts_and_its_absence_is_no_failure() -> None:
    async with open_lab() as lab:
        assert await read_kernel_table() is None
        async with open_rules(lab, PLAIN):
            found = await read_kernel_table()
            assert found is not None
            assert 'meta skuid 990 accept comment "the proxy\'s own connections"' in found.texts.values()
            assert {rule.handle for chain in found.table.chains for rule in chain.rules} == set(found.texts)


async def test_a_table_that_is_replaced_meanwhile_is_read_again() -> None:
    async with open_lab() as lab, open_rules(lab, PLAIN):

        async def remake() -> None:
            while True:
                await lab.load(PLAIN)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remake)
            for _ in range(5):
                try:
                    found = await read_kernel_table()
                except HostError as problem:
                    assert problem.message == "the table changes at every reading"
                    continue
                assert found is not None
                dnats = [text for text in found.texts.values() if "dnat" in text]
                assert len(dnats) == 2
                assert {rule.handle for chain in found.table.chains for rule in chain.rules} == set(found.texts)
            nursery.cancel_scope.cancel()


@in_network_namespace("203.0.113.9/32", "169.254.77.3/32", "2001:db8::9/128")
async def test_addresses_that_others_can_reach_are_read() -> None:
    assert read_addresses() == ("203.0.113.9", "2001:db8::9")


async def test_chains_of_others_are_read() -> None:
    nat = "add table ip theirs; add chain ip theirs late { type nat hook output priority 5; }"
    async with open_lab() as lab:
        await lab.nft(nat + "; add chain ip theirs early { type nat hook output priority -100; }")
        await lab.nft(
            "add table inet exclave-guard; add chain inet exclave-guard n { type nat hook output priority 9; }"
        )
        await lab.nft("add chain ip theirs f { type filter hook output priority 0; }")
        assert await read_other_nat_chains("output") == ("ip theirs early", "ip theirs late")
        assert await read_other_nat_chains("prerouting") == ()


async def test_a_listener_is_found_at_its_own_address_only() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        assert await is_listening("127.0.0.1", port)
        assert not await is_listening("127.0.0.2", port)
    assert not await is_listening("127.0.0.1", port)


async def test_a_missing_capability_is_reported() -> None:
    async with open_lab() as lab:
        with doors_inside(
            lab.vm, lab.network.scratch, prefix="setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
        ):
            for ask in (read_kernel_table(), read_other_nat_chains("output")):
                with pytest.raises(HostError) as refused:
                    await ask
                assert (refused.value.fault, refused.value.message) == (
                    Fault.NO_PRIVILEGE,
                    "reading nftables is not permitted",
                )


UNUSABLE = {
    "nft is missing": (None, "the program nft cannot be run: No such file or directory"),
    "nft fails": (
        "echo 'Error: cache initialization failed' >&2; exit 1",
        "nft lists no rules: Error: cache initialization failed",
    ),
    "nft was built without JSON": (
        "echo 'table inet exclave { # handle 1'",
        "nft -j: its JSON was expected",
    ),
}


@pytest.mark.parametrize(("script", "message"), UNUSABLE.values(), ids=UNUSABLE)
async def test_an_unusable_nft_is_reported(
    script: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nft").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nft").chmod(0o755)
    with pytest.raises(HostError) as refused:
        await read_kernel_table()
    assert (refused.value.fault, refused.value.message) == (Fault.NFT_UNUSABLE, message)
