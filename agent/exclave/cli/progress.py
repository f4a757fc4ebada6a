"""Progress of a download: one line that is drawn again on a terminal, a plain line now and then elsewhere."""

from collections.abc import Callable

from exclave.kit.host.output import print_err, redraw

ON_TERMINAL, ELSEWHERE = 0.2, 10.0  # seconds between two reports
WIDTH = 30  # characters of the bar
MB = 1e6


class Progress:
    """Prints the progress of one download. Call it with the bytes that are there, and their number at the end.

    `clock`: seconds of a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float], *, is_terminal: bool) -> None:
        self._clock = clock
        self._is_terminal = is_terminal
        self._next = clock() + (0.0 if is_terminal else ELSEWHERE)
        self._is_drawn = False

    def __call__(self, done: int, total: int) -> None:
        """Report, unless the last report was a moment ago."""
        now = self._clock()
        if now < self._next and not (self._is_drawn and done == total):
            return
        self._next = now + (ON_TERMINAL if self._is_terminal else ELSEWHERE)
        if self._is_terminal:
            redraw(f"{bar(done, total)} {progress_text(done, total)}")
            self._is_drawn = True
        else:
            print_err(progress_text(done, total))

    def close(self) -> None:
        """End the line that is being drawn."""
        if self._is_drawn:
            print_err("")


def progress_text(done: int, total: int) -> str:
    """For instance `12.0 of 46.2 MB (25 %)`."""
    if total <= 0:
        return f"{done / MB:.1f} MB"
    return f"{done / MB:.1f} of {total / MB:.1f} MB ({min(100, 100 * done // total)} %)"


def bar(done: int, total: int) -> str:
    """For instance `[=====     ]`; an empty one if the total is unknown."""
    full = min(WIDTH, WIDTH * done // total) if total > 0 else 0
    return f"[{'=' * full}{' ' * (WIDTH - full)}]"
