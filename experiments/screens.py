"""What the commands print: rich tables on a terminal, the same text without colour elsewhere."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

CONFIGS_DIR = Path(__file__).parent / "configs"
PLAIN_WIDTH = 160


def console(*, error: bool = False) -> Console:
    """A console on standard output, or on standard error; wide where it is not a terminal."""
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: int = 0
) -> Table:
    """A table; the last ``numbers`` columns are flush right."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def escape(cell: object) -> str:
    """Text of a cell; square brackets in it are text, not markup."""
    return str(cell).replace("[", "\\[")


def config_path(name: str) -> Path:
    """A configuration file: a path, or the name of a shipped one with or without ``.gin``."""
    given = Path(name)
    for path in (given, CONFIGS_DIR / name, CONFIGS_DIR / f"{name}.gin"):
        if path.is_file():
            return path
    raise ValueError(
        f"configuration {name!r} is neither a file nor one of the shipped ones: "
        f"{', '.join(config_names())}"
    )


def config_names() -> list[str]:
    """Names of the shipped configurations, without ``.gin``."""
    found = CONFIGS_DIR.rglob("*.gin")
    return sorted(str(path.relative_to(CONFIGS_DIR).with_suffix("")) for path in found)


def config_rows() -> list[dict[str, str]]:
    """Each shipped configuration with its first comment line."""
    rows = []
    for name in config_names():
        first = (CONFIGS_DIR / f"{name}.gin").read_text().splitlines()[0]
        rows.append({"name": name, "summary": first.removeprefix("#").strip()})
    return rows


def percent(value: float | None) -> str:
    """A fraction as percent with two digits, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def plan_table(title: str, summary: Any) -> Table:
    """The rows of a dry run: a line a variant."""
    rows = [dict(row) for row in summary.rows]
    columns = list(rows[0])
    return table(title, columns, [[row[c] for c in columns] for row in rows], numbers=3)


def mapping_rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """A mapping as rows of two columns."""
    return [(key, str(value)) for key, value in values.items()]
