"""`kubectl_complete-exclave`: kubectl runs it when the user presses the tab key after `kubectl exclave`.

The arguments are the words typed so far; the last one may be incomplete. The answer is one word a line, then a colon
and a number: whether file names fit, too. The cluster is not queried: the tab key must not wait for a network.
Source: SetupPluginCompletion in k8s.io/kubectl/pkg/cmd/plugin/plugin_completion.go; ShellCompDirective of cobra.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

FILES, NO_FILES = 0, 4
"""ShellCompDirectiveDefault and ShellCompDirectiveNoFileComp."""


def complete(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], int]:
    """The words that can replace the last one, and the directive."""
    *before, half = words or [""]
    asked: argparse.Action | None = None
    for word in before:
        if asked is not None:
            asked = None  # it is the value of the option before it
        elif word.startswith("-"):
            asked = _awaiting(_options(parser).get(word))
        elif (inner := _commands(parser).get(word)) is not None:
            parser = inner
    if asked is not None:
        return _fitting(asked.choices or (), half), FILES if asked.metavar == "FILE" else NO_FILES
    if half.startswith("-"):
        return _fitting(_options(parser), half), NO_FILES
    return _fitting(_commands(parser), half), NO_FILES


def main() -> int:
    """Answer kubectl."""
    from exclave.admin.arguments import PROGRAM
    from exclave.admin.main import build_parser

    found, directive = complete(build_parser(PROGRAM), sys.argv[1:])
    print(*found, f":{directive}", sep="\n")
    return 0


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:  # argparse has no public way to its own tree; shtab walks it so, too
        if isinstance(action, argparse._SubParsersAction):
            return {name: inner for name, inner in action.choices.items() if not name.startswith("_")}
    return {}


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        name: action
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--") or name in ("-n", "-o", "-A", "-L")
    }


def _awaiting(action: argparse.Action | None) -> argparse.Action | None:
    """The option, if a value has to follow it."""
    return action if action is not None and action.nargs != 0 else None


def _fitting(names: Iterable[str], half: str) -> list[str]:
    return sorted(name for name in names if name.startswith(half))
