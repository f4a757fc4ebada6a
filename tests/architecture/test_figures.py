"""What `./tests/run --figures` counts."""

import ast

import pytest

from figures import (
    PRIVATE_WORDS,
    Figure,
    comment_lines,
    docstring_lines,
    folders,
    identifiers,
    imports,
    libraries_of,
    loads,
    words_of,
)

SAMPLE = '''"""A text
of two lines."""

LIMIT = 3  # a comment
"""A text about it."""


class Teller:
    """A text."""

    told: bool = False
    KEPT = "no comment: # this"

    def look(self, taken: int, *, say: str) -> None:
        local = taken
        self.news = local
'''


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("_find_sshd", ["find", "sshd"]),
        ("FindSSHServer", ["find", "ssh", "server"]),
        ("SEEN_BY_2", ["seen", "by"]),
        ("keepalive_table", ["keepalive", "table"]),
        ("known_hosts", ["knownhosts"]),
        ("render2json", ["render", "json"]),
    ],
)
def test_an_identifier_is_taken_apart(identifier: str, words: list[str]) -> None:
    assert words_of(identifier) == words


def test_identifiers_are_classes_functions_parameters_and_attributes() -> None:
    found = set(identifiers(ast.parse(SAMPLE)))
    assert found == {"Teller", "told", "KEPT", "look", "self", "taken", "say", "news"}
    private = {name for name in found if PRIVATE_WORDS.intersection(words_of(name))}
    assert private == found - {"self"}


def test_comments_and_docstrings_are_counted_by_line() -> None:
    assert comment_lines(SAMPLE) == 1
    assert docstring_lines(SAMPLE) == 4


def test_a_figure_beyond_its_limit_is_marked() -> None:
    assert list(Figure("circles (0)", 1, over=True, details=["a ↔ b"]).lines()) == [
        f"! {'circles (0)':44}1",
        "      a ↔ b",
    ]
    assert next(Figure("circles (0)", 0).lines()).startswith("  ")


def test_layers_and_folders_are_within_their_limits() -> None:
    assert [line for figure in (*folders(), *imports()) if figure.over for line in figure.lines()] == []


def test_the_rules_load_no_library() -> None:
    rules, cluster = "exclave.redirect.rules.ruleset", "exclave.cluster.client"
    found = libraries_of([rules, cluster])
    assert found[rules] == []
    assert {"trio", "httpx"} <= set(found[cluster])


def test_pure_modules_load_neither_trio_nor_httpx() -> None:
    assert [line for figure in loads() if figure.over for line in figure.lines()] == []
