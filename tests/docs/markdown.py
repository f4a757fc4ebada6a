"""The documents of agent/docs as the tests read them: sections, tables, code spans."""

import re
from dataclasses import dataclass

from architecture.tree import TOP

FOLDER = TOP / "agent" / "docs"

Row = tuple[str, ...]
"""The cells of one row of a table, without the blanks around them."""


@dataclass(frozen=True)
class Document:
    """Markdown text, whole or one section of it."""

    text: str

    def section(self, title: str) -> "Document":
        """The text below a heading, with the sections below it."""
        found = re.search(rf"^(#+) {re.escape(title)}\n", self.text, re.MULTILINE)
        assert found is not None, f"there is no section {title!r}"
        return Document(re.split(rf"^#{{1,{len(found[1])}}} ", self.text[found.end() :], flags=re.MULTILINE)[0])

    def between(self, first: str, last: str = "") -> "Document":
        """The text after the first words and before the last ones; "" is the beginning, or the end."""
        assert first in self.text and last in self.text, f"{first!r} or {last!r} is not there any more"
        text = self.text.split(first, 1)[1] if first else self.text
        return Document(text.split(last, 1)[0] if last else text)

    @property
    def spans(self) -> list[str]:
        """All texts in backticks, in order."""
        return _spans(self.text)

    @property
    def names(self) -> set[str]:
        """Every name in a code span: `exclave join --again` has exclave, join and --again."""
        return {name for span in self.spans for name in re.split(r"[^\w.*<>/-]+", span) if name} | set(self.spans)

    @property
    def rows(self) -> list[Row]:
        """The rows of all tables, without their titles."""
        lines = [line for line in self.text.splitlines() if line.startswith("|")]
        rules = [number for number, line in enumerate(lines) if set(line) <= set("|-: ")]
        titles = {number - 1 for number in rules}
        return [_cells(line) for number, line in enumerate(lines) if number not in titles and number not in rules]


def read_document(name: str) -> Document:
    """A document of agent/docs."""
    return Document((FOLDER / name).read_text(encoding="utf-8"))


def first_spans(rows: list[Row], column: int = 0) -> list[list[str]]:
    """The code spans of one column, row by row; an empty cell of the first column repeats the one above it."""
    found: list[list[str]] = []
    for row in rows:
        found.append(found[-1] if not row[0] and column == 0 and found else _spans(row[column]))
    return found


def all_spans(rows: list[Row], column: int = 0) -> set[str]:
    """The code spans of one column, all rows together."""
    return {span for spans in first_spans(rows, column) for span in spans}


def _spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def _cells(line: str) -> Row:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
