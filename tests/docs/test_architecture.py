"""agent/docs/architecture.md against the code: every path is there, and the rooms are in their order."""

import re

import pytest

from architecture.allowed import LAYERS
from architecture.tree import SOURCE, TOP

from .markdown import FOLDER, Document, first_spans, read_document

ARCHITECTURE = read_document("architecture.md")
LONGEST = 130
"""Lines. It has to be one page."""


def named_paths(document: Document) -> set[str]:
    """Folders and modules in code spans."""
    return {span for span in document.spans if re.fullmatch(r"[a-z_0-9]+(/[a-z_0-9]+)*(\.py|/)?", span) and "/" in span}


def test_every_path_exists() -> None:
    names = named_paths(ARCHITECTURE)
    assert len(names) > 50
    missing = {name for name in names if not any((root / name).exists() for root in (SOURCE / "exclave", SOURCE, TOP))}
    assert missing == set()


def test_every_loose_module_that_is_named_exists() -> None:
    modules = {span for span in ARCHITECTURE.spans if re.fullmatch(r"[a-z_]+\.py", span)}
    assert {name for name in modules if not (SOURCE / "exclave" / name).is_file()} == set()


def test_the_rooms_stand_in_the_order_that_imports_obey() -> None:
    rows = ARCHITECTURE.section("Rooms, from the lowest to the highest").rows
    named = [room for rooms in first_spans(rows) for room in rooms]
    assert named == [room for room in LAYERS if room != "__main__"]


def test_it_is_one_page() -> None:
    assert len(ARCHITECTURE.text.splitlines()) <= LONGEST


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.md")))
def test_links_between_the_documents_lead_somewhere(name: str) -> None:
    text = read_document(name).text
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", text):
        found = FOLDER / target if target else FOLDER / name
        assert found.exists(), target
        titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in slugs, f"{target}#{anchor}"
