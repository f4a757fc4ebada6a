"""The demo's story as values: steps with times and outcomes, and how they are told. Pure.

Rules: a step passes or fails, never in between; its `detail` holds the figures that were measured, and a failed
step tells what was expected and what was met. The last line is `N passed, N failed`; the exit status says the same.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step that was tried. `at` and `took` are seconds since the story began, and of the step itself."""

    title: str
    passed: bool
    at: float
    took: float
    detail: str


@dataclass(frozen=True)
class Chapter:
    """A heading between steps."""

    title: str


def tell_chapter(chapter: Chapter) -> str:
    """A heading as text."""
    return f"\n{chapter.title}"


def tell_step(step: Step) -> str:
    """A step as text: its title, and what was seen below it."""
    mark = "ok  " if step.passed else "FAIL"
    told = [f"  {step.at:6.1f} s  {mark}  {step.title}", *(f"{'':18}{line}" for line in step.detail.splitlines())]
    return "\n".join(line.rstrip() for line in told)


def tell_trying(title: str) -> str:
    """The line that stands while a step is tried."""
    return f"  {'...':>6} s        {title}"


def tell_end(steps: list[Step]) -> str:
    """The last line."""
    passed = sum(step.passed for step in steps)
    return f"{passed} passed, {len(steps) - passed} failed"


def as_json(steps: list[Step]) -> dict[str, Any]:
    """The whole story for programs."""
    return {
        "steps": [asdict(step) for step in steps],
        "passed": sum(step.passed for step in steps),
        "failed": sum(not step.passed for step in steps),
    }


def exit_status(steps: list[Step]) -> int:
    """0 if every step passed, else 1."""
    return 0 if steps and all(step.passed for step in steps) else 1
