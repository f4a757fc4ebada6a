"""The demo's report: each step with its time and outcome, printed when it ends.

A step that raises, or takes too long, has failed; the next one is tried all the same. The detail of a passed step holds
measured figures, that of a failed one the expected and the found value.
"""

import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import trio

from exclave_sandbox.expect import UnexpectedError


@dataclass(frozen=True)
class StepResult:
    """One step that was tried. `at` and `took` are seconds: since the demo began, and of the step itself."""

    title: str
    passed: bool
    at: float
    took: float
    detail: str


class Reporter:
    """Collects the steps, and prints them unless `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self.steps: list[StepResult] = []
        self._quiet = quiet
        self._began = trio.current_time()

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._print(f"\n{title}\n")

    async def step(self, title: str, work: Callable[[], Awaitable[str]], limit: float = 30.0) -> bool:
        """Try a step for at most `limit` seconds; whether it passed. `work` returns the detail."""
        began = trio.current_time()
        if sys.stdout.isatty():
            self._print(render_running(title) + "\r")  # overwritten by the result
        passed, detail = False, f"not done within {limit:.0f} s"
        with trio.move_on_after(limit):
            try:
                detail = await work()
                passed = True
            except Exception as problem:
                detail = _problem_text(problem)
        now = trio.current_time()
        self.steps.append(StepResult(title, passed, now - self._began, now - began, detail))
        self._print(render_step(self.steps[-1]) + "\n")
        return passed

    def _print(self, text: str) -> None:
        if not self._quiet:
            sys.stdout.write(text)
            sys.stdout.flush()


def _problem_text(problem: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(problem, "exceptions", ())
    if len(inner) == 1:
        return _problem_text(inner[0])
    if isinstance(problem, UnexpectedError):
        return str(problem)
    where = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem}\n({where.name}, line {where.lineno})"


def render_step(step: StepResult) -> str:
    """A step as text: its title, and its detail below."""
    mark = "ok  " if step.passed else "FAIL"
    lines = [f"  {step.at:6.1f} s  {mark}  {step.title}", *(f"{'':18}{line}" for line in step.detail.splitlines())]
    return "\n".join(line.rstrip() for line in lines)


def render_running(title: str) -> str:
    """The line of a step that is being tried."""
    return f"  {'...':>6} s        {title}"


def render_total(steps: Sequence[StepResult]) -> str:
    """The last line."""
    passed = sum(step.passed for step in steps)
    return f"{passed} passed, {len(steps) - passed} failed"


def as_json(steps: Sequence[StepResult]) -> dict[str, Any]:
    """All steps and their counts, for programs."""
    passed = sum(step.passed for step in steps)
    return {"steps": [asdict(step) for step in steps], "passed": passed, "failed": len(steps) - passed}


def exit_status(steps: Sequence[StepResult]) -> int:
    """0 if every step passed, else 1; also 1 without any step."""
    return 0 if steps and all(step.passed for step in steps) else 1
