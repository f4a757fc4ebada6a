"""Figures that tests have measured: nothing depends on them, and they are printed at the end of the run."""

FIGURES: list[str] = []


def tell(figure: str) -> None:
    """Have a line printed at the end."""
    FIGURES.append(figure)
