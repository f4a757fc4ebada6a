"""Our table read back: what nft prints of every golden ruleset, and what is no listing of one."""

import json
import subprocess
from pathlib import Path

import pytest

from exclave.explain.table import RuleTexts, parse_rule_texts, parse_table

from ..redirect.policies import GOLDEN

FILES = Path(__file__).parents[1] / "redirect" / "rules" / "golden"


@pytest.mark.parametrize("name", GOLDEN)
def test_a_loaded_ruleset_is_parsed_completely(name: str) -> None:
    """Every chain, rule and element; and each rule with its own text."""
    file = FILES / f"{name}.nft"
    script = f"nft -f {file} && nft -j list table inet exclave && nft -a list table inet exclave"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    listing, _, texts_listing = done.stdout.partition("\n")
    table, rule_texts = parse_table(listing), parse_rule_texts(texts_listing)
    assert table is not None
    assert (table.handle, rule_texts.is_dormant) == (rule_texts.handle, False)
    texts = rule_texts.rules
    rules = [rule for chain in table.chains for rule in chain.rules]
    source = file.read_text()
    assert {rule.handle for rule in rules} == set(texts)
    without_comment = ("counter drop", "ct state invalid accept")
    assert len(rules) == sum(
        line.count('comment "') or line.endswith(without_comment) for line in map(str.strip, source.splitlines())
    )
    for rule in rules:
        assert not rule.comment or f'comment "{rule.comment}"' in texts[rule.handle]
        assert not rule.comment or f'comment "{rule.comment}"' in source
    assert {chain.name for chain in table.chains} == {
        line.split()[1] for line in source.splitlines() if line.startswith("    chain ")
    }
    for set_name, elements in table.sets.items():
        written = source.split(f"set {set_name} {{")[1].split("\n    }")[0].partition("elements = {")[2]
        assert len(elements) == (written.count(",") + 1 if written else 0)  # the armed set gets its element later


def listing(*items: dict[str, object]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *items]})


def test_a_listing_without_our_table_is_none() -> None:
    assert parse_table(listing()) is None
    assert parse_table(listing({"table": {"family": "inet", "name": "other", "handle": 1}})) is None


def test_a_dormant_table_is_found_in_the_text() -> None:
    texts = parse_rule_texts("table inet exclave { # handle 3\n\tflags dormant\n\n\tchain c { # handle 1\n\t}\n}\n")
    assert texts == RuleTexts(3, {}, is_dormant=True)


@pytest.mark.parametrize("text", ["", "table inet exclave {", "[]", "7", '{"tables": []}', '{"nftables": [7]}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_table(text)
    assert str(caught.value) == "nft -j: its JSON was expected"


def test_a_listing_without_handles_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        parse_rule_texts("table inet exclave {\n}\n")
    assert str(caught.value) == "nft -a list table: a listing with handles was expected"
