"""Tests that need root or real servers are marked without anybody's doing."""

import functools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from plugin.markers import WORDS, mentioned_words
from support.admin import Admin
from support.network_namespace import in_network_namespace

COMMAND = ["unshare", "--net", "true"]


@contextmanager
def apart() -> Iterator[None]:
    subprocess.run(COMMAND, check=True)
    yield


@functools.cache
def once() -> None:
    with apart():
        pass


class Lab:
    def open(self) -> None:
        once()


def by_a_helper() -> None:
    with apart():
        pass


def by_a_method_of_a_class() -> None:
    Lab().open()


def inside_of_a_function() -> None:
    def program() -> list[str]:
        return ["nsenter", "--net"]

    program()


@in_network_namespace()
async def by_a_decorator() -> None:
    pass


def by_an_admin() -> None:
    Admin.rows  # noqa: B018


def by_nothing() -> None:
    raise AssertionError("a text may say that unshare needs root")


@pytest.mark.parametrize(
    ("function", "markers"),
    [
        (by_a_helper, {"root"}),
        (by_a_method_of_a_class, {"root"}),
        (inside_of_a_function, {"root"}),
        (by_a_decorator, {"root"}),
        (by_an_admin, {"peers"}),
        (by_nothing, set()),
    ],
)
def test_what_a_test_mentions_marks_it(function: Callable[[], object], markers: set[str]) -> None:
    words = mentioned_words([function])
    assert {marker for marker, sought in WORDS.items() if not sought.isdisjoint(words)} == markers
