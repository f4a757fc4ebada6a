"""Distributes tests among processes (`pytest -n 2`) in shares. A process runs one share after the other.

A file is a share, because its tests may have expensive fixtures in common. All tests against one real server are one
share, because each process starts its own servers. The longest shares begin first. A process gets its next share during
the last two tests of the one before, so shares of one or two long tests are followed by short ones.
"""

import re
from collections.abc import Iterable
from typing import TypeVar

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = (
    # Against real servers.
    "peers/test_story.py",
    "peers/test_installing.py",
    "peers/test_faults.py",
    "peers/test_rotation.py",
    "a server of 1.37",
    "a server of 1.30",
    # Everything else. Tests that mostly wait begin beside tests that mostly compute.
    "crash/test_matrix.py",
    "sandbox/demo/test_main.py",
    "controller/test_replica.py",
    "controller/test_run.py",
    "swap/test_swap.py",
    "swap/test_killed.py",
    "uninstall/test_uninstall.py",
    "proxy/test_instance.py",
    "redirect/test_reconciler.py",
    "redirect/rules/test_ruleset.py",
    "redirect/test_cleaning.py",
    "redirect/test_keepalive.py",
    "redirect/test_others.py",
    "packaging/test_containerfile.py",
    "packaging/test_release.py",
)
"""The longest shares, the longest first. All others follow in the order of their names."""

_OF_SERVER = re.compile(r"/peers/test_(?!installing|rotation)\w+\.py::.*\[(?:.*-)?(sandbox|1\.\d\d)\]$")
"""A test that has the fixture `server`, by its name and the server's."""

Item = TypeVar("Item")


def share_of(name: str) -> str:
    """The share that a test belongs to, by its name for pytest."""
    found = _OF_SERVER.search(f"/{name}")
    return f"a server of {found[1]}" if found else name.partition("::")[0].rpartition("tests/")[2]


def longest_first(items: Iterable[tuple[str, Item]]) -> list[Item]:
    """Pairs of a test's name and its item: the items in the order in which they begin."""
    ranks = {share: rank for rank, share in enumerate(FIRST)}
    return [item for _, item in sorted(items, key=lambda pair: ranks.get(share_of(pair[0]), len(ranks)))]


class ShareScheduler(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """xdist's scheduler, with these shares."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # the order of the items is meant
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
