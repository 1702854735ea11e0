"""Formatting for terminals: tables, in color where there is one; percent; JSON."""

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 160


def console() -> Console:
    """A console on standard output; wide where that is not a terminal."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> Table:
    """A table; the last ``numbers`` columns are flush right. Square brackets are plain text."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    return made


def percent(value: float | None) -> str:
    """A fraction as percent with two digits, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def print_json(value: object) -> None:
    """A value as indented JSON on standard output."""
    print(json.dumps(value, indent=1, default=str))
