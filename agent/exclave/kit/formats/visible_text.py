"""Text of others, such as a machine's condition or a server's answer, made safe to show on a terminal. Pure.

A control character could move the cursor and overwrite what was printed. A line break, or spaces up to the edge of the
terminal, could forge a row. Characters without a picture could hide or reorder text.
"""

import re
from collections.abc import Iterable

# Printable for Python, but without a picture: Default_Ignorable_Code_Point in DerivedCoreProperties.txt of Unicode, as
# far as str.isprintable() is true, and the blank pattern of Braille.
_BLANK = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef"
)
_BLANKS = re.compile(f"[{_BLANK}]")
WIDTH_OF_GAP = 3  # so many spaces in a row separate two columns of our tables

_SPACES = re.compile(f" {{{WIDTH_OF_GAP},}}")


class VisibleText(str):
    """Text that is shown as it is: from `visible`, or composed of such texts by code that lays out lines.

    An f-string, a slice or a join makes a plain `str` of it again, which `visible` then checks again.
    """

    __slots__ = ()


def visible(text: str) -> VisibleText:
    r"""A text on one line, in which each character is visible: others become `\n`, `\x1b` or `\u202e`.

    Of three and more spaces in a row, all but the first become `\x20`. VisibleText stays as it is.
    """
    if isinstance(text, VisibleText):
        return text
    if not is_visible(text):
        text = "".join(one if is_visible(one) else _escape(one) for one in text)
    return VisibleText(_SPACES.sub(lambda found: " " + r"\x20" * (len(found[0]) - 1), text))


def is_visible(text: str) -> bool:
    """True if each character has a picture or is a space."""
    return text.isprintable() and _BLANKS.search(text) is None


def join_lines(lines: Iterable[str]) -> VisibleText:
    """Lines below each other. A line break inside of one becomes visible."""
    return VisibleText("\n".join(map(visible, lines)))


def with_head(head: str, text: str) -> VisibleText:
    """Our own label or indentation, which may have many spaces, and a text after it."""
    return VisibleText(head + visible(text))


def paragraph(text: str) -> list[VisibleText]:
    """The lines of a text. All after the first get four more spaces, so none of them passes for a line of ours."""
    first, *more = text.split("\n")
    return [visible(first), *map(_continuation, more)]


def _continuation(line: str) -> VisibleText:
    text = line.lstrip(" ")
    return with_head(" " * (4 + len(line) - len(text)), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
