"""The report as Markdown, for a pull request or an appendix."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from analysis.sections.section import (
    Chapter,
    Citation,
    Header,
    Section,
    cited,
    numbered,
)
from analysis.text import (
    Column,
    Kind,
    Linked,
    MeanScore,
    Show,
    Table,
    cell_text,
    closed,
    score_text,
)

MARKS = {"best": "**", "second": "*"}
LEGEND = "Best in bold, second best in italics."


def report_markdown(header: Header, chapters: Sequence[Chapter[Any]]) -> str:
    """Every section that applies: what it says and its tables."""
    works = cited(chapters)
    parts = [f"# {escape_markdown(header.title)}\n"]
    for chapter in chapters:
        sections = [_section(s, works) for s in chapter.visible_in(Show.MARKDOWN)]
        if any(sections):
            parts += [f"## {escape_markdown(chapter.title)}\n"] if chapter.title else []
            parts += [text for text in sections if text]
    return "\n".join(parts)


def _section(section: Section, works: Sequence[Citation]) -> str:
    """A section, "" where there is nothing to show."""
    parts = []
    for listed, sentences in groupby(section.sentences, attrgetter("listed")):
        texts = [escape_markdown(numbered(s, works)) for s in sentences]
        parts.append("".join(f"* {t}\n" for t in texts) if listed else " ".join(texts) + "\n")
    tables = [found for t in section.tables if (found := t.visible_in(Show.MARKDOWN))]
    parts += [_titled(found, section) for found in tables]
    own = [work for work in works if any(work in s.citations for s in section.sentences)]
    if own:
        parts.append("".join(f"{works.index(w) + 1}. {escape_markdown(w.text)}\n" for w in own))
    if not parts:
        return ""
    heading = [f"### {escape_markdown(section.title)}\n"] if section.title else []
    return "\n".join([*heading, *parts])


def _titled(found: Table, section: Section) -> str:
    """A table below its title, where that is not the title of the section, and its notes."""
    notes = [*found.notes]
    notes += [LEGEND] if any(c.kind is Kind.SCORE for c in found.columns) else []
    title = (
        ""
        if found.title == section.title or found.terms
        else f"**{escape_markdown(closed(found.title))}**"
    )
    above = " ".join(filter(None, [title, *map(escape_markdown, notes)]))
    return f"{above}\n\n{table_markdown(found)}" if above else table_markdown(found)


def table_markdown(found: Table) -> str:
    """A pipe table with everything escaped that Markdown would read as markup."""
    titles = [f"{c.group} {c.title}" if c.group else c.title for c in found.columns]
    align = [":--" if c.words else "--:" for c in found.columns]
    rows = [
        [_cell(value, column) for value, column in zip(row, found.columns, strict=True)]
        for row in found.rows
    ]
    lines = [list(map(escape_markdown, titles)), *rows]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join(align) + "|", *text[1:]]) + "\n"


def _cell(value: Any, column: Column[Any]) -> str:
    value = value.value if isinstance(value, Linked) else value
    if isinstance(value, MeanScore):
        mark = MARKS.get(value.mark, "")
        flag = " ⚑" if value.flagged and value.mean is not None else ""
        return f"{mark}{score_text(value)}{mark}{value.standing}{flag}"
    return escape_markdown(cell_text(value, column.kind))


def escape_markdown(text: str) -> str:
    """Text on one line with backslashes before Markdown's markup characters."""
    line = " ".join(text.splitlines())
    return "".join("\\" + c if c in "\\`*_[<|~&$" else c for c in line)
