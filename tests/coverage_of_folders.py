"""Runs tests and prints which part of the lines of each folder of agent/ they ran: `./tests/run --coverage [FOLDER …]`.

Programs that the tests start are followed, too, but for those that are killed or run with `-S`. Without arguments all
tests run that need no real servers. Ends with pytest's exit status.
"""

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import coverage

TOP = Path(__file__).resolve().parents[1]
AGENT = TOP / "agent"


def folder_of(path: Path) -> str:
    """`exclave/redirect/rules` of agent/exclave/redirect/rules/ruleset.py."""
    return str(path.relative_to(AGENT).parent)


def rows_of(lines: dict[Path, tuple[int, int]]) -> list[tuple[str, int, int]]:
    """Folder, lines, lines that ran; in the order of names, with a last row for all. `lines`: both by file."""
    folders: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, counted in lines.items():
        for name in (folder_of(path), "all"):
            for index in (0, 1):
                folders[name][index] += counted[index]
    rows = [(name, lines, ran) for name, (lines, ran) in folders.items() if lines]
    return sorted(rows, key=lambda row: (row[0] == "all", row[0]))


def read_lines() -> dict[Path, tuple[int, int]]:
    """How many lines each file of agent/ has that can run, and how many ran."""
    found = coverage.Coverage()
    found.combine()
    files = {Path(name) for name in found.get_data().measured_files()} | set(AGENT.rglob("*.py"))
    counted = {}
    for path in sorted(path for path in files if path.is_relative_to(AGENT)):
        _, statements, _, missing, _ = found.analysis2(str(path))
        counted[path] = (len(statements), len(statements) - len(missing))
    return counted


def main() -> int:
    """Run the tests, print the table."""
    arguments = sys.argv[1:] or ["-n", "2", "-m", "not peers"]
    shutil.rmtree(TOP / ".coverage", ignore_errors=True)
    (TOP / ".coverage").mkdir()
    done = subprocess.run([sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q", *arguments], cwd=TOP)
    print(f"\n{'folder of agent/':34}{'lines':>7}{'ran':>7}{'part':>7}")
    for name, lines, ran in rows_of(read_lines()):
        print(f"{name:34}{lines:7}{ran:7}{ran / lines:7.0%}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
