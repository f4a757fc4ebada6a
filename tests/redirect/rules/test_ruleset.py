"""Rulesets as files under golden/, so that reviewers read rules; and what nft says of them."""

import re
import subprocess
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from exclave.redirect.rules.policy import RedirectPolicy
from exclave.redirect.rules.ruleset import render, render_removal, ruleset_digest
from exclave_sandbox.stage.namespaces import open_network

from ..policies import GOLDEN, PLAIN

FILES = Path(__file__).with_name("golden")


@pytest.mark.parametrize(("name", "why", "policy"), [(name, *row) for name, row in GOLDEN.items()], ids=GOLDEN)
def test_a_policy_renders_the_reviewed_ruleset(name: str, why: str, policy: RedirectPolicy) -> None:
    assert (FILES / f"{name}.nft").read_text() == f"# {why}\n{render(policy)}"


def test_every_golden_file_is_of_a_policy() -> None:
    assert {path.stem for path in FILES.iterdir()} == {*GOLDEN, "holding"}


@pytest.mark.parametrize("name", GOLDEN)
def test_nft_loads_it_repeatedly(name: str) -> None:
    load = ["unshare", "--net", "sh", "-c", 'nft -f "$0" && nft -f "$0" && nft list tables', FILES / f"{name}.nft"]
    done = subprocess.run(load, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "table inet exclave\n", "")


def test_the_digest_differs_between_rules_and_is_in_them() -> None:
    digests = [ruleset_digest(policy) for name, (_, policy) in GOLDEN.items() if name != "outbound-open"]
    assert len(set(digests)) == len(digests)
    assert ruleset_digest(GOLDEN["outbound-open"][1]) == ruleset_digest(GOLDEN["inbound-only"][1])
    assert f'comment "a {ruleset_digest(PLAIN)}"' in render(PLAIN)


def test_policies_with_the_same_rules_have_the_same_digest() -> None:
    again = replace(PLAIN, ssh_ports=(22,), exempt_inbound_ports=(4143,), networks=("10.42.0.0/17", "10.42.128.0/17"))
    assert ruleset_digest(again) == ruleset_digest(PLAIN)


async def test_removal_works_from_cold_and_leaves_others_alone() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        await machine.must("nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }")
        before = await machine.must("nft", "list", "ruleset")
        for _ in range(2):
            assert (await machine.run("nft", "-f", "-", stdin=render_removal().encode())).errors == ""
        assert (await machine.run("nft", "-f", "-", stdin=render(PLAIN).encode())).errors == ""
        assert (await machine.must("nft", "list", "ruleset")) != before
        assert (await machine.run("nft", "-f", "-", stdin=render_removal().encode())).errors == ""
        assert await machine.must("nft", "list", "ruleset") == before


SO_MANY = replace(
    PLAIN,
    exempt_inbound_ports=tuple(range(10000, 30000, 2)),
    exempt_outbound_ports=tuple(range(10001, 30000, 2)),
    exempt_networks=tuple(str(network) for network in IPv4Network("10.42.0.0/16").subnets(new_prefix=27))[::2][:1000],
)
"""Ten thousand ports of which no two follow each other, in each direction, and a thousand networks."""


def test_ten_thousand_exclusions_are_as_many_rules_as_one() -> None:
    one = replace(PLAIN, exempt_inbound_ports=(1,), exempt_outbound_ports=(2,), exempt_networks=("10.42.0.0/27",))
    assert len(SO_MANY.exempt_inbound_ports) == len(SO_MANY.exempt_outbound_ports) == 10000
    assert len(SO_MANY.exempt_networks) == 1000
    assert render(SO_MANY).count("\n") == render(one).count("\n")


async def test_ten_thousand_exclusions_are_loaded_and_read_back_whole() -> None:
    async with open_network() as network:
        machine = await network.add("vm")
        assert (await machine.run("nft", "-f", "-", stdin=render(SO_MANY).encode())).errors == ""
        listed = (await machine.must("nft", "list", "set", "inet", "exclave", "passed_inbound_ports")).decode()
        assert len(re.findall(r"\d+", listed.partition("elements")[2])) == 10000


def test_a_policy_that_is_asked_about_again_costs_no_rendering() -> None:
    """Its digest is compared at every look, also where there are ten thousand exclusions."""
    ruleset_digest(SO_MANY)
    assert ruleset_digest.cache_info().currsize
    hits = ruleset_digest.cache_info().hits
    assert ruleset_digest(replace(SO_MANY)) == ruleset_digest(SO_MANY)
    assert ruleset_digest.cache_info().hits == hits + 2
