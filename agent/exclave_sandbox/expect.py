"""Comparing what is found with what is expected, waiting until it is so, and snapshots of a machine."""

import difflib
import re
import sys
from collections.abc import Awaitable, Callable, Mapping

import trio


class UnexpectedError(Exception):
    """Something else was found than expected; the text has both."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raise UnexpectedError unless they are equal."""
    if found != wanted:
        raise UnexpectedError(f"{what}: {wanted} was expected, found {found}")


async def eventually(
    what: str, read: Callable[[], Awaitable[object]], accept: Callable[[object], bool], every: float = 0.05
) -> object:
    """Read until the value is acceptable, and return it. When cancelled, write the last value to standard error."""
    value: object = None
    try:
        while True:
            value = await read()
            if accept(value):
                return value
            await trio.sleep(every)
    except trio.Cancelled:
        sys.stderr.write(f"waited for {what}; last value: {str(value)[:2000]}\n")
        raise


SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "nftables": ("nft", "--stateless", "list", "ruleset"),
    "links": ("ip", "-details", "link", "show"),
    "addresses": ("ip", "address", "show"),
    "routes": ("ip", "route", "show", "table", "all"),
    "rules": ("ip", "rule", "show"),
    "routes of IPv6": ("ip", "-6", "route", "show", "table", "all"),
    "rules of IPv6": ("ip", "-6", "rule", "show"),
}
"""The commands whose output makes a snapshot of a network namespace."""

FILES = (
    "find", "/etc", "/var/lib", "/run", "/usr/lib/exclave", "-xdev", "-name", "*exclave*",
    "-printf", "%p %M %u:%g %s\\n",
)  # fmt: skip
"""Files of exclave on a whole host, with mode, owner and size."""

_CHANGING = re.compile(
    r"(valid_lft|preferred_lft) \S+|expires \d+sec|# handle \d+|(hello|tcn|topology_change|gc)_timer +\S+"
)


def steady(text: str) -> str:
    """`text` without the parts that change by themselves."""
    return _CHANGING.sub("", text)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Added (+) and removed (-) lines, each with its subject."""
    lines = []
    for subject in sorted(set(before) | set(after)):
        diff = difflib.unified_diff(
            steady(before.get(subject, "")).splitlines(), steady(after.get(subject, "")).splitlines(), lineterm="", n=0
        )
        lines += [f"{subject}: {line}" for line in diff if not line.startswith(("---", "+++", "@@"))]
    return lines
