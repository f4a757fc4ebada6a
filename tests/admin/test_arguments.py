"""The shape of the command line, with a subject of the test's own."""

import argparse
from typing import Any

import pytest

from exclave.admin.arguments import add_common, add_list, add_output, add_subject, add_verb, parse_groups


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tool")
    add_common(top, default=None)
    verbs = add_subject(top.add_subparsers(required=True), "tree", "trees: what grows")
    grow = add_verb(
        verbs, "grow", lambda session, options: 0, "let a tree grow", "tool tree grow", "# slowly\ntool tree grow"
    )
    add_output(grow)
    add_list(verbs, lambda session, options: 0, "trees")
    add_output(add_verb(verbs, "fell", lambda session, options: 0, "fell a tree"), "json")
    return top


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["tree", "grow"], {"namespace": None, "context": None, "kubeconfig": None, "output": None}),
        (["-n", "shop", "tree", "grow"], {"namespace": "shop"}),
        (["tree", "grow", "-n", "shop"], {"namespace": "shop"}),
        (["-n", "a", "tree", "grow", "-n", "b", "--context", "c"], {"namespace": "b", "context": "c"}),
        (["tree", "list", "-A", "-o", "wide"], {"all_namespaces": True, "output": "wide"}),
    ],
)
def test_common_options_may_be_before_or_after_the_verb(typed: list[str], found: dict[str, Any]) -> None:
    options = vars(parser().parse_args(typed))
    assert {key: options[key] for key in found} == found


@pytest.mark.parametrize("typed", [[], ["tree"], ["tree", "fell", "-o", "yaml"], ["bush"]])
def test_an_unknown_command_ends_with_2(typed: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(typed)
    assert ended.value.code == 2


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["tree", "grow", "--help"])
    help_text = capsys.readouterr().out
    assert "Let a tree grow." in help_text
    assert help_text.endswith("examples:\n  tool tree grow\n  # slowly\n  tool tree grow\n")


@pytest.mark.parametrize(
    ("typed", "groups"),
    [
        ([], []),
        (["--as-group", "a", "--as-group", "b"], ["a", "b"]),
        (["--as-group=[]"], []),
        (["--as-group=[a,b]"], ["a", "b"]),
    ],
)
def test_impersonated_groups_are_single_options_or_linkerds_list(typed: list[str], groups: list[str]) -> None:
    assert parse_groups(parser().parse_args([*typed, "tree", "grow"]).as_group) == groups
