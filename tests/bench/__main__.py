"""`./tests/run --bench [PART…]`: prints the figures, part by part."""

import os
import sys
from pathlib import Path

from tests.bench.figures import run_apart

TOP = Path(__file__).resolve().parents[2]
NEWEST = str(TOP / ".venv/bin/python")
DEBIAN_12 = str(TOP / ".venv-debian12/bin/python")

REAL_PROXY = os.environ.get("EXCLAVE_LINKERD2_PROXY")

PARTS = {
    "away": [
        ("tests.bench.away", [], NEWEST),
        *([("tests.bench.away", [REAL_PROXY], NEWEST)] if REAL_PROXY else []),
    ],
    "joining": [("tests.bench.joining", [], NEWEST)],
    "resident": [
        ("tests.bench.resident", ["the newest libraries"], NEWEST),
        ("tests.bench.resident", ["Debian 12's libraries"], DEBIAN_12),
    ],
    "redirecting": [("tests.bench.redirecting", [], NEWEST)],
    "excluding": [("tests.bench.excluding", [], NEWEST)],
    "flushing": [("tests.bench.flushing", [], NEWEST)],
    "renewing": [("tests.bench.renewing", [], NEWEST)],
    "restarting": [("tests.bench.restarting", [], NEWEST)],
    "swapping": [("tests.bench.swapping", [], NEWEST)],
    "storm": [("tests.bench.storm", [], NEWEST)],
    "steady": [("tests.bench.steady", [], NEWEST)],
    "thousand": [("tests.bench.thousand", [], NEWEST)],
}


def main() -> int:
    """Run the parts that are named, or all; the exit code."""
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return max(run_apart(*run) for part in wanted for run in PARTS[part])


if __name__ == "__main__":
    sys.exit(main())
