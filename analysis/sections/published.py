"""Published results: as context for a study's own, and as tables for a terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from analysis.read.published import (
    AVERAGE,
    METRICS,
    TABLES,
    PublishedRow,
    known_dataset,
    load_published,
)
from analysis.read.results import Results
from analysis.sections.analysis import Analysis
from analysis.sections.section import Section, Topic
from analysis.text import Column, Kind, Show, Table, counted, label, table

CONTEXT_NOTE = (
    "Results of other authors with other code, taken from the named sources. They are context "
    "only: they enter no mean, no ranking and no test, and are never the baseline of a comparison. "
    "Accuracy is in percent, as printed; budgets are those of the settings that the authors "
    "released."
)
TITLES: Mapping[str, str] = {
    "base_to_new": "Base-to-new",
    "cross_dataset": "Cross-dataset: trained on ImageNet",
    "domain_generalization": "Domain generalization: trained on ImageNet",
    "few_shot": "Base-to-new at several numbers of shots",
}
ZERO_SHOT = "CLIP (zero-shot)"
ZERO_SHOT_NAMES = ("ZeroShot", "zero shot", "CLIP")
JOINING_WORDS = {"on", "with", "and"}


def published_tables(rows: Sequence[PublishedRow], *, metric: str = "") -> list[Table]:
    """One table per protocol, in the order of the rows: never ranked, since regimes and budgets
    differ. A "!" marks what ``footnotes`` flags.
    """
    numbers = _source_numbers(rows)
    made = []
    for name, published in TABLES.items():
        here = [r for r in rows if r.table == name]
        metrics = [m for m in published.metrics if metric in ("", m)]
        columns: list[Column[PublishedRow]] = [
            Column("method", "method", Kind.NAME, lambda r: r.method),
            Column("dataset", "dataset", Kind.TEXT, lambda r: r.dataset),
            Column("source", "source", Kind.TEXT, partial(_short_source, numbers)),
            Column("backbone", "backbone", Kind.TEXT, lambda r: r.backbone),
            Column("shots", "shots", Kind.COUNT, lambda r: r.shots),
            Column("regime", "regime", Kind.TEXT, lambda r: r.regime),
            Column("budget", "budget", Kind.TEXT, lambda r: r.budget),
            *(Column(m, label(m), Kind.POINTS, partial(_figure, m)) for m in metrics),
            Column("flag", "", Kind.TEXT, lambda r: "!" if r.flags else ""),
        ]
        if all(r.dataset == AVERAGE for r in here):
            columns = [c for c in columns if c.key != "dataset"]
        made.append(table(name, TITLES[name], tuple(columns), here))
    return [found for found in made if found.rows]


def footnotes(rows: Sequence[PublishedRow]) -> list[str]:
    """The flags, the numbered sources, and how the results may be used."""
    flags = [f"! {r.method}, {r.dataset}, {r.origin}: {text}" for r in rows for text in r.flags]
    return [*flags, *_sources(_source_numbers(rows)), CONTEXT_NOTE]


def _figure(metric: str, row: PublishedRow) -> float | None:
    found: float | None = getattr(row, metric)
    return found


def _short_source(numbers: Mapping[str, int], row: PublishedRow) -> str:
    short = re.split(r" \(| = |[,;]", row.source, maxsplit=1)[0]
    return f"{short} [{numbers[row.source]}]"


def _source_numbers(rows: Sequence[PublishedRow]) -> dict[str, int]:
    return {s: i for i, s in enumerate(dict.fromkeys(r.source for r in rows), start=1)}


def _sources(numbers: Mapping[str, int]) -> list[str]:
    return [f"[{number}] {source}" for source, number in numbers.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLine:
    """A published method of one source on the datasets of the study.

    ``here`` names the study's variants of the same name; ``figures`` are fractions by dataset of
    the study and metric, None where the source has none.
    """

    row: PublishedRow
    here: tuple[str, ...]
    figures: Mapping[tuple[str, str], float | None]
    flags: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What applies to the line as a whole."""
        here = (f"here: {', '.join(self.here)}",) if self.here else ()
        return (*here, *self.flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedContext:
    """Published rows as context for a study; ``numbers`` are those of the sources."""

    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: tuple[PublishedLine, ...]
    numbers: Mapping[str, int]


def published_context(results: Results) -> PublishedContext | None:
    """Published lines of the study's protocol on its datasets, variants' namesakes first; None
    where there are none.

    Without a stated protocol, only base and new identify what was measured: an accuracy alone
    could belong to any protocol.
    """
    names = _published_names(results.datasets)
    metrics = tuple(m for m in METRICS if m in results.metrics)
    stated = {s.protocol.replace("-", "_") for s in results.settings.values() if s.protocol}
    rows = [
        r
        for r in load_published()
        if r.protocol in (stated or {"base_to_new"})
        and r.dataset in names.values()
        and any(getattr(r, metric) is not None for metric in metrics)
    ]
    if not rows:
        return None
    found = {r.dataset for r in rows}
    names = {d: name for d, name in names.items() if name in found}
    series: dict[object, dict[str, PublishedRow]] = {}
    for row in rows:
        series.setdefault(row.series, {})[row.dataset] = row
    lines = [_line(results, cells, names, metrics) for cells in series.values()]
    lines.sort(key=lambda line: not line.here)
    return PublishedContext(
        datasets=tuple(names),
        metrics=metrics,
        lines=tuple(lines),
        numbers=_source_numbers([line.row for line in lines]),
    )


def _published_names(datasets: Sequence[str]) -> dict[str, str]:
    """The published dataset that each one seems to be, by its last name, "" for others. Of several
    different ones with that last name, only the benchmark itself can be it.
    """
    names = {d: known_dataset(re.split(r"/| to ", d)[-1]) for d in datasets}
    whole = {d: d.rpartition(" to ")[2] for d in datasets}
    claims: dict[str, set[str]] = {}
    for dataset, name in names.items():
        claims.setdefault(name, set()).add(whole[dataset])
    return {d: n if len(claims[n]) == 1 or whole[d] == n else "" for d, n in names.items()}


def _line(
    results: Results,
    cells: Mapping[str, PublishedRow],
    names: Mapping[str, str],
    metrics: Sequence[str],
) -> PublishedLine:
    row = next(iter(cells.values()))
    return PublishedLine(
        row=row,
        here=_here(results, row),
        figures={
            (d, m): getattr(cells[name], m) if name in cells else None
            for d, name in names.items()
            for m in metrics
        },
        flags=tuple(f"{d}: {text}" for d, r in cells.items() for text in r.flags),
    )


def _here(results: Results, row: PublishedRow) -> tuple[str, ...]:
    """Variants that carry the name of a published method, with their regime where it differs.

    A name is a set of words ("CoOp+TextRefiner" is "TextRefiner (CoOp)"); a variant's base method
    may stand in its factors instead.
    """
    wanted = [_words(row.method)]
    wanted += map(_words, ZERO_SHOT_NAMES if row.method == ZERO_SHOT else ())
    found = []
    for variant in results.variants:
        base = results.factors.get(variant, {}).get("experiment.method", "")
        names = (_words(variant), _words(f"{variant} {base}"))
        if any(name in wanted for name in names):
            setting = results.settings.get(variant)
            regime = setting.regime if setting else ""
            differs = regime and results.seeded(variant) and regime != row.regime
            found.append(f"{variant} ({regime})" if differs else variant)
    return tuple(found)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower())) - JOINING_WORDS


def _figure_of(key: tuple[str, str], line: PublishedLine) -> float | None:
    return line.figures[key]


def _context_table(found: PublishedContext) -> Table:
    columns: list[Column[PublishedLine]] = [
        Column("method", "Method", Kind.NAME, lambda line: line.row.method, Show.PAGE),
        Column("notes", "Notes", Kind.NOTE, lambda line: line.notes, Show.PAGE, optional=True),
        Column(
            "source",
            "Source",
            Kind.TEXT,
            lambda line: _short_source(found.numbers, line.row),
            Show.PAGE,
        ),
        Column("regime", "Regime", Kind.TEXT, lambda line: line.row.regime, Show.PAGE),
        Column("shots", "Shots", Kind.COUNT, lambda line: line.row.shots, Show.PAGE),
        Column("budget", "Budget", Kind.TEXT, lambda line: line.row.budget, Show.PAGE),
        Column("backbone", "Backbone", Kind.TEXT, lambda line: line.row.backbone, Show.PAGE),
        *(
            Column(m, label(m), Kind.POINTS, partial(_figure_of, (d, m)), Show.PAGE, group=d)
            for d in found.datasets
            for m in found.metrics
        ),
    ]
    lines, datasets = counted(len(found.lines), "published row"), len(found.datasets)
    return table(
        "published",
        "Published context",
        tuple(columns),
        found.lines,
        notes=[CONTEXT_NOTE, *_sources(found.numbers)],
        folded=True,
        summary=f"{lines} on {counted(datasets, 'dataset')} of this study",
    )


def _sections(analysis: Analysis) -> Sequence[Section]:
    found = published_context(analysis.results)
    if found is None:
        reason = "no published result matches the protocol and a dataset of this study"
        return [Section(key="published", reason=reason)]
    return [Section(key="published", tables=(_context_table(found),))]


TOPIC = Topic(key="published", build=_sections, show=Show.PAGE)
