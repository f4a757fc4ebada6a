"""tests/run leaves some tests out of the run with Debian 12's libraries. Each of their names must exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_every_name_that_is_left_out_exists() -> None:
    lists = re.findall(r'^left_out="(.*)"', (TESTS / "run").read_text(), flags=re.MULTILINE)
    names = [name for words in lists for name in words.split() if name != "$left_out"]
    assert "crash" in names
    assert [name for name in names if not (TESTS / name).exists()] == []
