"""The output of benchmarks: a figure, the figure of a peer, and the ratio. Nothing here passes or fails."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

WIDTH = 58


def heading(title: str) -> None:
    """Begin a table."""
    print(f"\n{title}\n{'':{WIDTH}}{'exclave':>14}{'peer':>14}{'ratio':>9}", flush=True)


def row(what: str, figure: float, unit: str, peer: float | None = None) -> None:
    """One line of a table."""
    line = f"  {what:<{WIDTH - 2}}{_with_unit(figure, unit)}"
    if peer is not None:
        ratio = f"{figure / peer:>9.2f}" if peer else f"{'-':>9}"
        line += _with_unit(peer, unit) + ratio
    print(line, flush=True)


def note(text: str) -> None:
    """A line that explains the peer or a figure."""
    print(f"  ({text})", flush=True)


def _with_unit(figure: float, unit: str) -> str:
    digits = 0 if unit == "" or figure >= 1000 else 1 if figure >= 10 else 2
    return f"{figure:>{14 - len(unit) - 1}.{digits}f} {unit}"


def median_of(count: int, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the median of `count` times."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def processes_started() -> int:
    """The number of processes and threads that this pid namespace has had. Two calls give the number of new ones."""
    return int(Path("/proc/sys/kernel/ns_last_pid").read_text())


def run_apart(module: str, arguments: Iterable[str] = (), python: str = sys.executable) -> int:
    """Run a benchmark's module in network, mount and pid namespaces of its own; its exit status."""
    apart = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--")
    top = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(top), str(top / "tests")])}
    return subprocess.call([*apart, python, "-m", module, *arguments], cwd=top, env=environment)
