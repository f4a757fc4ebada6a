"""Listings of the table: small ones, and those that the host's own nft prints."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exclave.redirect.kernel.observe import NOTHING, Observed, parse_listing
from exclave.redirect.rules.ruleset import ruleset_digest

from ..policies import GOLDEN

FILES = Path(__file__).parents[1] / "rules" / "golden"


def rule(chain: str, *expressions: Any, comment: str | None = None, table: str = "exclave") -> dict[str, Any]:
    body = {"family": "inet", "table": table, "chain": chain, "handle": 7, "expr": list(expressions)}
    return {"rule": body | ({"comment": comment} if comment else {})}


def listing(*items: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *items]})


def counter(packets: int) -> dict[str, Any]:
    return {"counter": {"packets": packets, "bytes": packets * 60}}


TABLE = {"table": {"family": "inet", "name": "exclave", "handle": 1}}
OURS = (
    TABLE,
    rule("foreign", counter(1), {"drop": None}, comment="b 0123456789abcdef"),
    rule("foreign", counter(2), {"drop": None}),
    rule("inbound", counter(3), {"dnat": {"addr": "169.254.77.2", "port": 4143}}),
    rule("outbound", {"accept": None}),
    rule("outbound", counter(4), {"dnat": {"addr": "169.254.77.2", "port": 4140}}),
)


def test_instance_digest_and_counts_are_read() -> None:
    observed = parse_listing(listing(*OURS))
    assert (observed.installed, observed.instance, observed.digest) == (True, "b", "0123456789abcdef")
    assert (observed.inbound, observed.outbound, observed.dropped) == (3, 4, 3)


@pytest.mark.parametrize(
    "text",
    ["", " \n", listing(), listing({"table": {"name": "other"}}, rule("foreign", counter(9), table="other"))],
    ids=["empty", "blank", "no table", "another's table"],
)
def test_no_table_of_ours(text: str) -> None:
    assert parse_listing(text) == NOTHING == Observed()


@pytest.mark.parametrize(
    "comment",
    [None, "c 0123", "a", "a b c", "nonsense"],
    ids=["no comment", "no instance", "no digest", "too much", "one word"],
)
def test_a_table_whose_mark_others_have_spoilt_is_of_no_instance(comment: str | None) -> None:
    observed = parse_listing(listing(TABLE, rule("foreign", counter(1), comment=comment)))
    assert observed.installed
    assert observed.instance is None


def test_the_mark_counts_in_its_own_chain_only() -> None:
    assert parse_listing(listing(TABLE, rule("outbound", counter(1), comment="a 0123"))).digest == ""


@pytest.mark.parametrize(
    "text", ["table inet exclave {", "[]", "7", '{"tables": []}', '{"nftables": 7}', '{"nftables": [7]}']
)
def test_text_that_is_not_nft_s_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_listing(text)
    assert str(caught.value) == "nft -j: its JSON was expected"


@pytest.mark.parametrize(
    "items",
    [[{}], [TABLE, {"rule": None}], [TABLE, rule("inbound", None)], [TABLE, rule("inbound", {"counter": {}})]],
    ids=["an empty object", "no rule", "no statement", "a counter of nothing"],
)
def test_json_of_another_shape_is_refused(items: Any) -> None:
    with pytest.raises(ValueError) as caught:
        parse_listing(json.dumps({"nftables": items}))
    assert str(caught.value) == "nft -j list table: another form of its JSON was expected"


def test_a_listing_cut_off_is_of_a_table_that_is_no_longer_ours() -> None:
    """What nft 1.0.6 printed, with status 0, after another program had made our table dormant."""
    cut = '{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"name": "exclave", "handle": 10, "flags": \n'
    observed = parse_listing(cut)
    assert observed.installed
    assert (observed.instance, observed.digest) == (None, "")
    assert observed.fingerprint != parse_listing(listing(*OURS)).fingerprint


def test_the_fingerprint_covers_everything_that_does_not_change_by_itself() -> None:
    def moved(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: 99 if key in ("handle", "packets", "bytes") else moved(value) for key, value in item.items()}
        return [moved(each) for each in item] if isinstance(item, list) else item

    reference = parse_listing(listing(*OURS)).fingerprint
    assert parse_listing(listing(*moved(list(OURS)))).fingerprint == reference
    assert parse_listing(listing(*OURS, {"table": {"name": "other"}})).fingerprint == reference
    others = [OURS[:-1], (*OURS, rule("outbound", {"accept": None})), (*OURS[:1], *OURS[2:], OURS[1])]
    assert reference not in {parse_listing(listing(*other)).fingerprint for other in others}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_listing_of_each_ruleset_has_its_instance_and_digest(name: str) -> None:
    """Loaded twice, so that all handles differ between the two listings."""
    once = f"nft -f {FILES}/{name}.nft && nft -j list table inet exclave"
    done = subprocess.run(["unshare", "--net", "sh", "-c", f"{once} && {once}"], capture_output=True, text=True)
    assert done.stderr == ""
    first, second = (parse_listing(line) for line in done.stdout.splitlines())
    policy = GOLDEN[name][1]
    assert first == second
    assert (first.installed, first.instance, first.digest) == (True, policy.instance, ruleset_digest(policy))
    assert (first.inbound, first.outbound, first.dropped) == (0, 0, 0)
