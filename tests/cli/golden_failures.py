"""Failures as people read them, word for word in golden/failures.txt: one paragraph each.

[code word] what was done
exclave: what was met
  to do: what to do
"""

from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "golden" / "failures.txt"


def golden_failures() -> dict[str, str]:
    """Each paragraph's text by its first line; the file's own opening is left out."""
    paragraphs = FILE.read_text().strip().split("\n\n")[1:]
    return {first: text for first, _, text in (paragraph.partition("\n") for paragraph in paragraphs)}


def shown_failure(shown: str, **places: object) -> str:
    """The failure at the end of what a command has shown, with `places` that differ from run to run by their names."""
    before, mark, failure = shown.rpartition("exclave: ")
    assert mark and (not before or before.endswith("\n")), shown
    text = mark + failure.rstrip("\n")
    for name, place in places.items():
        text = text.replace(str(place), name)
    return text
