"""How the tests are shared out among processes (`pytest -n 2`), which one process works through in their order.

Rules: a file is a share, since its tests may share what is dear to make; tests against one of the real servers are one
share, whatever their file, since each process that has some starts a server of its own. The longest shares are begun
first, so that no process is left with one when all others have ended. A process is given its next share while it works
on the last two tests of the one before, so shares of one or two long tests are followed by short ones.
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
    # Everything else; what mostly waits is begun beside what mostly works.
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
)
"""What takes longest, the longest first; all others follow in the order of their names."""

_OF_SERVER = re.compile(r"/peers/test_(?!installing|rotation)\w+\.py::.*\[(?:.*-)?(sandbox|1\.\d\d)\]$")
"""A test that has the fixture `server`, by its name and the server's."""

Item = TypeVar("Item")


def share_of(name: str) -> str:
    """The share that a test belongs to, by its name for pytest."""
    found = _OF_SERVER.search(f"/{name}")
    return f"a server of {found[1]}" if found else name.partition("::")[0].rpartition("tests/")[2]


def longest_first(items: Iterable[tuple[str, Item]]) -> list[Item]:
    """Whatever has a test's name, in the order in which it is begun."""
    ranks = {share: rank for rank, share in enumerate(FIRST)}
    return [item for _, item in sorted(items, key=lambda pair: ranks.get(share_of(pair[0]), len(ranks)))]


class ShareScheduler(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """xdist's scheduler, with these shares."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False  # the order of the items is meant
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
