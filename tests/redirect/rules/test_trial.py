"""A trial's chain, as it stands in a ruleset; `golden/trial.nft` shows it whole."""

from dataclasses import replace

import pytest

from exclave.redirect.rules.ruleset import render
from exclave.redirect.rules.trial import trial_chain

from ..lab import as_proxies, open_lab
from ..policies import PLAIN, PROXY

WHY = 'comment "a swap tries this instance before it has traffic"'


def test_each_family_has_its_rule() -> None:
    assert trial_chain("b", (4, 6)) == [
        "chain trial {",
        "    type nat hook output priority -111; policy accept;",
        f"    meta skuid 0 ip daddr 169.254.77.4 meta l4proto tcp dnat ip to 169.254.77.2:4140 {WHY}",
        f"    meta skuid 0 ip6 daddr fd77:ec1a:7e::4 meta l4proto tcp dnat ip6 to [fd77:ec1a:7e::2]:4140 {WHY}",
        "}",
    ]


def test_an_instance_on_trial_is_one_of_ours() -> None:
    with pytest.raises(ValueError, match="instance: a or b was expected, found 'c'"):
        replace(PLAIN, trial="c")  # type: ignore[arg-type]


async def test_only_roots_connections_to_the_trial_address_go_to_the_instance_on_trial() -> None:
    async with open_lab() as lab:
        for number in (1, 2, 4):
            await lab.vm.must("ip", "address", "add", f"169.254.77.{number}/32", "dev", "lo")
            await lab.vm.must("ip", "address", "add", f"fd77:ec1a:7e::{number}/128", "dev", "lo", "nodad")
        as_proxies(lab, "a", "b")
        lab.listen(lab.vm, "trial", "169.254.77.4/5000")
        lab.listen(lab.peer, "cluster", "10.42.0.9/5000")
        done = await lab.vm.run("nft", "-f", "-", stdin=render(replace(PLAIN, trial="b", families=(4, 6))).encode())
        assert done.errors == ""
        for address in ("169.254.77.4", "fd77:ec1a:7e::4"):
            tried = await lab.call(lab.vm, address, 5000)
            assert (tried.who, tried.original) == ("proxy b", (address, 5000))
        assert (await lab.call(lab.vm, "169.254.77.4", 5000, uid=PROXY)).who == "trial"  # else it would go in circles
        assert (await lab.call(lab.vm, "169.254.77.4", 5000, uid=1234)).who == "trial"
        assert (await lab.call(lab.vm, "10.42.0.9", 5000)).who == "proxy a"
