"""The table of `./tests/run --coverage`."""

from architecture.tree import SOURCE
from coverage_of_folders import rows_of


def test_files_are_summed_up_by_folder_and_all_come_last() -> None:
    lines = {
        SOURCE / "exclave/redirect/rules/ruleset.py": (10, 9),
        SOURCE / "exclave/redirect/rules/policy.py": (10, 1),
        SOURCE / "exclave/errors.py": (5, 5),
    }
    assert rows_of(lines) == [("exclave", 5, 5), ("exclave/redirect/rules", 20, 10), ("all", 25, 15)]
