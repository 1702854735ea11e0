"""The report in a terminal: what it found, the averages, and the comparisons behind it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis.sections.section import Chapter, Header
from analysis.text import Kind, Show, Table, cell_text

MAX_ROWS = 50
MARKS = {
    "better": "+",
    "worse": "-",
    "equivalent": "=",
    "undecided": "?",
    "flag": "⚑",
    "note": "!",
}


def report_lines(header: Header, chapters: Sequence[Chapter[Any]], page: Path) -> list[str]:
    """The report as lines: findings first, the page to open last."""
    lines = [f"{header.product.removeprefix('RefineLab ').capitalize()}: {header.title}", ""]
    for chapter in chapters:
        for section in chapter.visible_in(Show.TERMINAL):
            lines += [f"{MARKS[s.kind]} {s.text}" for s in section.sentences if s.kind in MARKS]
            for table in section.tables:
                found = table.visible_in(Show.TERMINAL)
                if found is not None:
                    lines += ["", *table_lines(found)]
    return [*lines, "", f"Page: {page}"]


def table_lines(found: Table) -> Iterator[str]:
    """A table as aligned text, its notes on rows below it."""
    kept = [i for i, c in enumerate(found.columns) if c.kind is not Kind.NOTE]
    columns = [found.columns[i] for i in kept]
    titles = tuple(f"{c.group} {c.title}".strip() for c in columns)
    texts = [
        titles,
        *(tuple(" ".join(row[i].splitlines()) for i in kept) for row in found.texts()[:MAX_ROWS]),
    ]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    lines = [
        "  ".join(
            text.ljust(width) if column.words else text.rjust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in texts
    ]
    yield from (found.title, lines[0], "-" * len(lines[0]), *lines[1:])
    if len(found.rows) > MAX_ROWS:
        yield f"  and {len(found.rows) - MAX_ROWS} more rows on the page"
    yield from row_notes(found)


def row_notes(found: Table) -> Iterator[str]:
    """The notes on single rows, after their names."""
    notes = [i for i, c in enumerate(found.columns) if c.kind is Kind.NOTE]
    for row in found.rows:
        if text := "; ".join(filter(None, (cell_text(row[i], Kind.NOTE) for i in notes))):
            yield f"  {cell_text(row[0], found.columns[0].kind)}: {text}"


def rich_table(found: Table) -> RichTable:
    """A table for a console, numbers to the right; names are not read as markup."""
    made = RichTable(title=found.title, title_justify="left", header_style="bold")
    for column in found.columns:
        justify: Literal["left", "right"] = "left" if column.words else "right"
        made.add_column(column.title, justify=justify, overflow="fold")
    for row in found.texts():
        made.add_row(*map(escape, row))
    return made


def print_lines(lines: Sequence[str], console: Console) -> None:
    """Print to a rich console: wide tables are not wrapped, names are not read as markup."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
