"""The tests that are begun first are there."""

from architecture.tree import TOP
from plugin.xdist_scheduler import FIRST


def test_every_file_that_is_begun_first_exists() -> None:
    assert [name for name in FIRST if name.endswith(".py") and not (TOP / "tests" / name).exists()] == []
