"""A status on a terminal. The only module that knows rich; the daemon never imports it, and pipes get plain lines."""

import sys
from collections.abc import Sequence


def show_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print labelled lines: as a table on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        for label, text in lines:
            print(f"{label + ':':<12} {text}")
        return
    from rich.console import Console  # here: it takes longer to import than everything else together
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for label, text in lines:
        table.add_row(Text(label, style=_STYLES.get(label, "dim")), Text(text))
    Console().print(table)


_STYLES = {"state": "bold", "problem": "bold red", "to do": "yellow", "waiting": "yellow"}
