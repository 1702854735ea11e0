"""The page of a report: one HTML file without scripts, requests or outside files."""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.figures.drawing import to_svg
from analysis.figures.figure import Figure
from analysis.sections.section import (
    FINDINGS,
    Chapter,
    Citation,
    Header,
    Section,
    Sentence,
    cited,
    numbered,
)
from analysis.stats import Estimate
from analysis.text import (
    NO_VALUE,
    Column,
    Effect,
    Kind,
    Linked,
    MeanScore,
    Name,
    Ruling,
    Show,
    Table,
    cell_text,
    points,
)

CHIPS = ("better", "worse", "equivalent")
MIN_SPAN = 3
"""From this many cells without a value on, the end of a row holds the remark of the row instead."""
CELL_CLASSES = {
    Kind.VERDICT: "chips",
    Kind.RULING: "chips ruling",
    Kind.EFFECT: "drawn",
    Kind.CODE: "text mono",
}


def render_page(header: Header, chapters: Sequence[Chapter[Any]]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    works, ids = cited(chapters), Counter[str]()
    shown = [(c, [_section(s, works, ids) for s in c.visible_in(Show.PAGE)]) for c in chapters]
    visible = [(c, [s for s in sections if s.visible]) for c, sections in shown]
    return environment.get_template("page.html").render(
        header=header,
        chapters=[(c, sections) for c, sections in visible if sections and not c.detail],
        details=[(c, sections) for c, sections in visible if sections and c.detail],
        findings=FINDINGS,
    )


class PageSection(NamedTuple):
    """What the page shows of a section, with its sentences grouped by how they are shown."""

    id: str
    section: Section
    said: list[tuple[str, list[tuple[str, str]]]]
    references: list[tuple[int, Citation]]
    figures: list["PageFigure"]
    tables: list["PageTable"]

    @property
    def visible(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.said or self.figures or self.tables)


def _section(section: Section, works: Sequence[Citation], ids: Counter[str]) -> PageSection:
    ids[section.key] += 1
    number = ids[section.key]
    said = [
        (way, [(s.kind, numbered(s, works)) for s in group])
        for way, group in itertools.groupby(section.sentences, _way)
    ]
    own = {work for sentence in section.sentences for work in sentence.citations}
    return PageSection(
        id=f"section-{section.key}" + (f"-{number}" if number > 1 else ""),
        section=section,
        said=said,
        references=[(i, work) for i, work in enumerate(works, 1) if work in own],
        figures=[_figure(figure) for figure in section.figures],
        tables=[page_table(f) for t in section.tables if (f := t.visible_in(Show.PAGE))],
    )


def _way(sentence: Sentence) -> str:
    """How a sentence is shown: as a finding, or as its kind says."""
    return "finding" if sentence.kind in FINDINGS else sentence.kind


class PageFigure(NamedTuple):
    """A figure as inline SVG: whole, as panels side by side, or either, depending on the width."""

    figure: Figure
    whole: Markup
    panels: list[Markup]


def _figure(figure: Figure) -> PageFigure:
    panels = [
        Markup(to_svg(panel, prefix=f"p-{figure.name}-{i}"))
        for i, panel in enumerate(figure.panels)
    ]
    whole = Markup()
    if not panels or figure.shared_rows:
        whole = Markup(to_svg(figure, prefix=f"f-{figure.name}"))
    return PageFigure(figure, whole, panels)


class PageCell(NamedTuple):
    """The content of a cell, its classes, how many columns it spans, the head that it repeats where
    the columns of a narrow screen have none, and for a head what its column means.
    """

    content: Markup
    classes: str
    columns: int = 1
    head: str = ""
    hint: str = ""


class PageTable(NamedTuple):
    """A table as markup: groups of columns, heads, and rows that begin with their name. The key of
    what is drawn in its cells stands below it.
    """

    table: Table
    groups: list[PageCell]
    heads: list[PageCell]
    rows: list[list[PageCell]]
    legend: bool
    key_below: bool


def page_table(found: Table) -> PageTable:
    """A table with the notes on rows below the names of the rows."""
    notes = [i for i, c in enumerate(found.columns) if c.kind is Kind.NOTE]
    kept = [i for i in range(len(found.columns)) if i not in notes]
    columns = [found.columns[i] for i in kept]
    edges = _edges(columns)
    heads = [
        PageCell(escape(column.title), _classes(column, edge) if n else "name", hint=column.help)
        for n, (column, edge) in enumerate(zip(columns, edges, strict=True))
    ]
    rows = []
    for row in found.rows:
        small = [(found.columns[i], row[i]) for i in notes if row[i]]
        rows.append(_row([row[i] for i in kept], columns, edges, small))
    return PageTable(
        table=found,
        groups=_groups(columns) if any(c.group for c in columns) else [],
        heads=heads,
        rows=rows,
        key_below=any(c.kind is Kind.EFFECT for c in columns),
        legend=any(c.kind is Kind.SCORE and c.group for c in columns),
    )


def _edges(columns: Sequence[Column[Any]]) -> list[bool]:
    """Whether a column is the first of its group."""
    before = ["", *(column.group for column in columns)]
    return [bool(c.group) and c.group != b for c, b in zip(columns, before, strict=False)]


def _groups(columns: Sequence[Column[Any]]) -> list[PageCell]:
    made = []
    for group, members in itertools.groupby(columns, lambda column: column.group):
        made.append(PageCell(escape(group), "group edge" if group else "", len(list(members))))
    return made


def _classes(column: Column[Any], edge: bool) -> str:
    own = CELL_CLASSES.get(column.kind, "text" if column.words else "")
    return f"{own} edge".strip() if edge else own


def _row(
    values: Sequence[Any],
    columns: Sequence[Column[Any]],
    edges: Sequence[bool],
    notes: Sequence[tuple[Column[Any], Any]],
) -> list[PageCell]:
    """The cells; the remark of the row takes the place of missing values at its end."""
    end = len(values)
    while end > 1 and values[end - 1] is None:
        end -= 1
    remark = Markup()
    if notes and len(values) - end >= MIN_SPAN:
        *notes, (_, last) = notes
        remark = escape(cell_text(last, Kind.NOTE))
    else:
        end = len(values)
    cells = [
        PageCell(cell_markup(value, column.kind), _classes(column, edge), head=_head(column))
        for value, column, edge in zip(values[:end], columns, edges, strict=False)
    ]
    name = cells[0].content + Markup().join(_note(column, value) for column, value in notes)
    cells[0] = PageCell(name, "mono" if columns[0].kind is Kind.CODE else "")
    return [*cells, *([PageCell(remark, "text soft", len(values) - end)] if remark else [])]


def _head(column: Column[Any]) -> str:
    return column.title if column.kind in (Kind.RULING, Kind.TALLY, Kind.RATIO) else ""


def _note(column: Column[Any], value: Any) -> Markup:
    """Small lines below the name of the row; remarks are set apart from facts."""
    kind = "" if column.key in ("changes", "notes") else "remark"
    lines = [value] if isinstance(value, str) else value
    return Markup().join(
        Markup('<small class="{}">{}</small>').format(kind, line) for line in lines
    )


def cell_markup(value: Any, kind: Kind) -> Markup:
    """One cell as markup."""
    if value is None:
        return Markup("–")
    special: Mapping[type, Callable[[Any, Kind], Markup]] = {
        Linked: _linked,
        Name: _name,
        MeanScore: _score,
        Estimate: _estimate,
        Effect: _effect,
        Ruling: _ruling,
    }
    if write := special.get(type(value)):
        return write(value, kind)
    if kind is Kind.VERDICT:
        return _chip(value)
    if kind is Kind.CODE:
        return Markup("<code>{}</code>").format(value) if value else Markup()
    return number_markup(value, kind)


def number_markup(value: Any, kind: Kind) -> Markup:
    """A value of a kind with typographic minus signs where it is a number."""
    text = cell_text(value, kind)
    if text == NO_VALUE and not isinstance(value, str):
        return Markup("–")
    return escape(text if isinstance(value, str) else text.replace("-", "−"))


def _linked(value: Linked, kind: Kind) -> Markup:
    if isinstance(value.value, MeanScore):
        return _score(value.value, kind, target=value.target)
    inner = cell_markup(value.value, kind)
    style = {Kind.CODE: "mono", Kind.DIFFERENCE: "number effect"}.get(kind, "number")
    return Markup('<a class="{}" href="{}">{}</a>').format(style, value.target, inner)


def _name(value: Name, kind: Kind) -> Markup:
    ids = Markup().join(Markup('<span id="{}"></span>').format(i) for i in value.ids)
    tags = Markup().join(Markup(' <span class="tag">{}</span>').format(t) for t in value.tags)
    if value.warning:
        tags += Markup(' <span class="tag flag">⚑ {}</span>').format(value.warning)
    return ids + escape(value.text) + tags


def _score(score: MeanScore, kind: Kind, *, target: str = "") -> Markup:
    """The mean with its marks, and in small print what qualifies it."""
    if score.mean is None:
        return Markup("–")
    text = Markup('<span class="{}">{}</span>').format(score.mark, points(score.mean))
    if target:
        number = Markup('<a class="number {}" href="{}">{}</a>')
        text = number.format(score.mark, target, points(score.mean))
    if score.standing:
        text += Markup('<span class="standing">{}</span>').format(score.standing)
    if score.flagged:
        text += Markup('<span class="flag">⚑</span>')
    if score.half_width is not None:
        text += Markup('<small class="width">±{}</small>').format(points(score.half_width))
    if score.partial:
        text += Markup(" <small>n={}</small>").format(score.n)
    return text


def _estimate(found: Estimate, kind: Kind) -> Markup:
    if found.value is None:
        return Markup("–")
    number = number_markup(found._replace(interval=None), kind)
    if found.interval is None:
        return number
    ends = {Kind.ESTIMATE: Kind.INTERVAL, Kind.NUMBER_ESTIMATE: Kind.NUMBER_INTERVAL}[kind]
    return number + Markup(" <small>{}</small>").format(number_markup(found.interval, ends))


EFFECT_WIDTH, EFFECT_HEIGHT = 220, 26
"""Of the drawing of an effect, in its own units: it scales with the column."""


def _effect(found: Effect, kind: Kind) -> Markup:
    """A mean difference as a dot, with a thick bar and a thin line for the intervals."""

    def x(value: float) -> float:
        share = max(-1.0, min(1.0, value / found.extent))
        return round(EFFECT_WIDTH * (1 + 0.96 * share) / 2, 1)

    def span(low: float, high: float, height: float, style: str) -> Markup:
        shape = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
        top = (EFFECT_HEIGHT - height) / 2
        return shape.format(style, x(low), top, round(x(high) - x(low), 1), height)

    drawn = span(-found.rope, found.rope, EFFECT_HEIGHT, "region")
    drawn += Markup('<line class="zero" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(
        x(0.0), EFFECT_HEIGHT
    )
    if found.like:
        drawn += span(*found.like, 2, "like")
    if found.these:
        drawn += span(*found.these, 10, "these")
    dot = Markup('<circle cx="{}" cy="{}" r="4.5"/>').format(x(found.value), EFFECT_HEIGHT / 2)
    number = number_markup(found, kind)
    return Markup(
        '<span class="effect-cell {}"><svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        "<b>{}</b></span>"
    ).format(found.word, EFFECT_WIDTH, EFFECT_HEIGHT, number, drawn + dot, number)


def _ruling(found: Ruling, kind: Kind) -> Markup:
    """The verdict, and below it the interval."""
    if found.interval is None:
        return _chip(found.word)
    ends = number_markup(found.interval, Kind.INTERVAL)
    return _chip(found.word) + Markup(" <small>{}</small>").format(ends)


def _chip(word: str) -> Markup:
    style = word if word in CHIPS else ""
    chip = Markup('<span class="chip {}">{} {}</span>')
    return chip.format(style, FINDINGS.get(word, "–"), word)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return (
        (re.compile(r"(?<=[ \[(])-(?=\d)"), "−"),
        (re.compile(r"(\[[^\[\], ]+,) (?=[^\[\], ]+\])"), "\\1\u00a0"),
        (re.compile(r"p ([<=]) (?=\d)"), "p\u00a0\\1\u00a0"),
    )


def typeset(text: str) -> str:
    """Typographic minus signs before numbers, and no line break inside an interval or a p.

    Names keep their hyphens.
    """
    for pattern, replacement in _patterns():
        text = pattern.sub(replacement, text)
    return text
