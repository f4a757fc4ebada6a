"""Progress on a terminal and elsewhere."""

import pytest

from exclave.cli.progress import WIDTH, Progress, bar, progress_text


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(12_000_000, 46_200_000, "12.0 of 46.2 MB (25 %)"), (46_200_000, 46_200_000, "46.2 of 46.2 MB (100 %)"),
     (0, 46_200_000, "0.0 of 46.2 MB (0 %)"), (3_000_000, 0, "3.0 MB"), (9, 3, "0.0 of 0.0 MB (100 %)")],
)  # fmt: skip
def test_progress_is_a_text(done: int, total: int, text: str) -> None:
    assert progress_text(done, total) == text


def test_a_bar_is_never_longer_than_its_width() -> None:
    assert bar(0, 10) == bar(5, 0) == f"[{' ' * WIDTH}]"
    assert bar(10, 10) == bar(20, 10) == f"[{'=' * WIDTH}]"
    assert len(bar(3, 10)) == WIDTH + 2


def test_a_terminal_has_one_line_that_is_drawn_again(capsys: pytest.CaptureFixture[str]) -> None:
    report = Progress(Clock(), is_terminal=True)
    for done in (1_000_000, 2_000_000, 3_000_000):
        report(done, 3_000_000)
    report.close()
    drawn = capsys.readouterr().err
    assert drawn.count("\r") == 2  # the first and the last; the second came too soon
    assert drawn.count("\n") == 1
    assert drawn.endswith("3.0 of 3.0 MB (100 %)\x1b[K\n")


def test_nothing_is_drawn_without_a_byte(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(Clock(), is_terminal=True).close()
    assert capsys.readouterr().err == ""


def test_elsewhere_there_is_a_plain_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    report = Progress(clock, is_terminal=False)
    for second in range(25):
        clock.now = 100.0 + second
        report(second * 1_000_000, 25_000_000)
    report.close()
    assert capsys.readouterr().err == "10.0 of 25.0 MB (40 %)\n20.0 of 25.0 MB (80 %)\n"
