"""Telling the demo's story: steps tried one after the other, each within its time, each with its outcome.

Rules: a step that raises has failed, with its words; the story goes on, since later steps may still tell something. A
step's work returns its detail. What is printed is printed at once: whoever watches sees where it stands.
"""

import sys
import traceback
from collections.abc import Awaitable, Callable

import trio

from exclave_sandbox.demo.report import Chapter, Step, tell_chapter, tell_step, tell_trying
from exclave_sandbox.expect import UnexpectedError


class Teller:
    """Collects the steps, and prints them unless `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self.steps: list[Step] = []
        self._quiet = quiet
        self._began = trio.current_time()

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._say(tell_chapter(Chapter(title)))

    async def step(self, title: str, work: Callable[[], Awaitable[str]], limit: float = 30.0) -> bool:
        """Try a step for at most `limit` seconds; whether it passed."""
        began = trio.current_time()
        self._show_trying(title)
        passed, detail = False, f"not done within {limit:.0f} s"
        with trio.move_on_after(limit):
            try:
                detail = await work()
                passed = True
            except Exception as problem:
                detail = _words_of(problem)
        now = trio.current_time()
        step = Step(title, passed, now - self._began, now - began, detail)
        self.steps.append(step)
        self._say(tell_step(step))
        return passed

    def _show_trying(self, title: str) -> None:
        """On a terminal, say what is being tried; the line is written over."""
        if not self._quiet and sys.stdout.isatty():
            sys.stdout.write(tell_trying(title) + "\r")
            sys.stdout.flush()

    def _say(self, text: str) -> None:
        if not self._quiet:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def _words_of(problem: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(problem, "exceptions", ())
    if len(inner) == 1:
        return _words_of(inner[0])
    if isinstance(problem, UnexpectedError):
        return str(problem)
    where = traceback.extract_tb(problem.__traceback__)[-1]
    texts = "; ".join(str(one) or type(one).__name__ for one in inner or (problem,))
    return f"{type(problem).__name__}: {texts}\n({where.name}, line {where.lineno})"
