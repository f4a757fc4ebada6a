"""Text of others on a terminal: each character is visible, and no text passes for a line or a column of ours."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.kit.formats.visible_text import VisibleText, is_visible, join_lines, paragraph, visible, with_head

TABLE = [
    pytest.param("web-k7q2x-1 is ready: 80 %, ±3 → «né» 日本 🙂", None, id="ordinary text of any language"),
    pytest.param(r"a\x1b and C:\n", None, id="a backslash that was written as such"),
    pytest.param("a  b", None, id="two spaces"),
    pytest.param("a\nNAME   READY", r"a\nNAME \x20\x20READY", id="a line feed, and spaces like those of a table"),
    pytest.param("a\r\x0b\x0cb", r"a\r\x0b\x0cb", id="other breaks of lines"),
    pytest.param("a\tb", r"a\tb", id="a tab"),
    pytest.param("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07", id="escapes that clear and rename a terminal"),
    pytest.param("\x9b31m\x85", r"\x9b31m\x85", id="C1 controls, which terminals of 8 bits obey"),
    pytest.param("\x00\x08\x7f", r"\x00\x08\x7f", id="NUL, backspace, DEL"),
    pytest.param("a\u202egnp.exe\u2066\u200f", r"a\u202egnp.exe\u2066\u200f", id="marks that turn the direction"),
    pytest.param("a\u200bb\u200d\u2060\ufeff", r"a\u200bb\u200d\u2060\ufeff", id="characters without a width"),
    pytest.param("a\u2028b\u2029", r"a\u2028b\u2029", id="separators of lines and paragraphs"),
    pytest.param("a\xa0\u3000\u2003b", r"a\xa0\u3000\u2003b", id="spaces that are no space"),
    pytest.param("a\u3164\u115f\u2800b", r"a\u3164\u115f\u2800b", id="letters without a picture"),
    pytest.param("a\ufe0f\u034f\U000e0101", r"a\ufe0f\u034f\U000e0101", id="selectors and joiners"),
    pytest.param("\U000e0041\U000e007f", r"\U000e0041\U000e007f", id="tags, which hide ASCII"),
    pytest.param("a\ud800b\udcff", r"a\ud800b\udcff", id="half of a surrogate pair, which no encoding has"),
    pytest.param("\ue000\U0010ffff", r"\ue000\U0010ffff", id="private and unassigned characters"),
]


@pytest.mark.parametrize(("text", "shown"), TABLE)
def test_each_character_is_shown(text: str, shown: str | None) -> None:
    assert visible(text) == (text if shown is None else shown)


def test_every_control_and_format_character_is_escaped() -> None:
    hidden = [chr(one) for one in range(0x110000) if unicodedata.category(chr(one)) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert len(hidden) > 2_000
    assert [one for one in hidden if not visible(one).isascii() or not visible(one).isprintable()] == []


@given(st.text(st.characters(categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Zs", "L", "M", "S", "P"))))
def test_no_text_is_more_than_one_line_or_hides_anything(text: str) -> None:
    shown = visible(text)
    assert is_visible(shown)
    assert shown.splitlines() in ([], [shown])
    assert "   " not in shown
    assert visible(str(shown)) == shown


def test_what_was_laid_out_stays_and_what_is_made_of_it_is_checked_again() -> None:
    laid_out = VisibleText("NAME   AGE\nweb    5m")
    assert visible(laid_out) is laid_out
    assert visible(f"{laid_out}") == r"NAME \x20\x20AGE\nweb \x20\x20\x205m"


def test_lines_and_heads() -> None:
    assert join_lines(["a\nb", with_head("    ", "c\td")]) == "a\\nb\n    c\\td"


def test_only_the_first_line_of_a_paragraph_is_not_indented() -> None:
    assert paragraph("exclave: no\n  to do: \x1b[m\nexclave: yes") == [
        "exclave: no",
        r"      to do: \x1b[m",
        "    exclave: yes",
    ]
