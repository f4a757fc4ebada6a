"""Figures that tests measure. They are printed at the end of the run; no test fails by them."""

FIGURES: list[str] = []


def add_figure(line: str) -> None:
    """Print this line at the end of the run."""
    FIGURES.append(line)
