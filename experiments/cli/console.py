"""Formatting for terminals: tables (in color where supported), percentages and JSON."""

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from core.data.reading import printable

PLAIN_WIDTH = 160


def console() -> Console:
    """A console on standard output; wide where the output is not a terminal."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> Table:
    """A table whose last ``numbers`` columns are right-aligned; square brackets are plain text."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(printable(str(cell)).replace("[", "\\[") for cell in row))
    return made


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def print_json(value: object) -> None:
    """Print a value as indented JSON on standard output."""
    print(json.dumps(value, indent=1, default=str))
