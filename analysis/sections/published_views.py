"""Published figures as tables for a terminal, and as the box of context in a report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.read.published import (
    AVERAGE,
    METRICS,
    TABLES,
    PublishedRow,
    known_dataset,
    load_published,
)
from analysis.read.results import Results
from analysis.text import label, points

CONTEXT_NOTE = (
    "Other people's runs with other code, read from the named source. They are context only: they "
    "enter no mean, no ranking and no test, and are never the baseline of a comparison. Accuracy "
    "in percent as printed; budgets are those of the settings that the authors released."
)
TITLES: Mapping[str, str] = {
    "base_to_new": "Base to new",
    "cross_dataset": "Cross-dataset: trained on ImageNet",
    "domain_generalization": "Domain generalization: trained on ImageNet",
    "few_shot": "Base to new at several shots",
}
ZERO_SHOT = "CLIP (zero-shot)"
ZERO_SHOT_NAMES = ("ZeroShot", "zero shot", "CLIP")
JOINING_WORDS = {"on", "with", "and"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One table of strings; its last ``num_figures`` columns are numbers, in percent."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_figures: int


def sheets(rows: Sequence[PublishedRow], *, metric: str = "") -> list[Sheet]:
    """One sheet a table, in the order of the rows: never ranked, since regimes and budgets differ.
    A "!" stands beside what ``footnotes`` flags.
    """
    numbers = _source_numbers(rows)
    made = []
    for name, table in TABLES.items():
        here = [r for r in rows if r.table == name]
        metrics = tuple(m for m in table.metrics if metric in ("", m))
        named = any(r.dataset != AVERAGE for r in here)
        made.append(
            Sheet(
                title=TITLES[name],
                columns=(
                    "method",
                    *(["dataset"] if named else []),
                    *("source", "backbone", "shots", "regime", "budget"),
                    *map(label, metrics),
                    "",
                ),
                rows=tuple(_cells(r, numbers[r.source], metrics, named=named) for r in here),
                num_figures=len(metrics) + 1,
            )
        )
    return [sheet for sheet in made if sheet.rows]


def footnotes(rows: Sequence[PublishedRow]) -> list[str]:
    """What is flagged, the sources by their numbers, and what the figures are for."""
    flags = [f"! {r.method}, {r.dataset}, {r.origin}: {text}" for r in rows for text in r.flags]
    sources = [f"[{number}] {source}" for source, number in _source_numbers(rows).items()]
    return [*flags, *sources, CONTEXT_NOTE]


def _short_source(row: PublishedRow, number: int) -> str:
    short = re.split(r" \(| = |[,;]", row.source, maxsplit=1)[0]
    return f"{short} [{number}]"


def _source_numbers(rows: Sequence[PublishedRow]) -> dict[str, int]:
    return {s: i for i, s in enumerate(dict.fromkeys(r.source for r in rows), start=1)}


def _cells(
    row: PublishedRow, number: int, metrics: Sequence[str], *, named: bool
) -> tuple[str, ...]:
    return (
        row.method,
        *([row.dataset] if named else []),
        _short_source(row, number),
        row.backbone,
        shots_text(row),
        row.regime,
        row.budget,
        *(points(getattr(row, m)) for m in metrics),
        "!" if row.flags else "",
    )


def shots_text(row: PublishedRow) -> str:
    """Shots, "-" where training saw all images or nothing is stated."""
    return "-" if row.shots is None else str(row.shots)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLine:
    """One published line of a report: a method of one source on the datasets of the study.

    ``here`` names the study's variants of the same name; ``figures`` are fractions by dataset of
    the study and metric, None where the source has none.
    """

    row: PublishedRow
    source: str
    shots: str
    here: tuple[str, ...]
    figures: Mapping[tuple[str, str], float | None]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The box of a report; ``sources`` are the full texts behind the numbers of the lines."""

    note: str
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: tuple[ContextLine, ...]
    sources: tuple[str, ...]


def published_context(results: Results) -> Context | None:
    """Published lines of the study's protocol on its datasets, variants' namesakes first; None
    where there are none.

    Without a stated protocol only base and new tell what was measured: an accuracy alone could be
    of any protocol.
    """
    names = {d: known_dataset(re.split(r"/| to ", d)[-1]) for d in results.datasets}
    metrics = tuple(m for m in METRICS if m in results.metrics)
    stated = {s.protocol.replace("-", "_") for s in results.settings.values() if s.protocol}
    rows = [
        r
        for r in load_published()
        if r.protocol in (stated or {"base_to_new"})
        and r.dataset in names.values()
        and _has(r, metrics)
    ]
    if not rows:
        return None
    found = {r.dataset for r in rows}
    names = {d: name for d, name in names.items() if name in found}
    series: dict[object, dict[str, PublishedRow]] = {}
    for row in rows:
        series.setdefault(row.series, {})[row.dataset] = row
    lines = [(cells, _here(results, next(iter(cells.values())))) for cells in series.values()]
    lines.sort(key=lambda line: not line[1])
    numbers = _source_numbers([r for cells, _ in lines for r in cells.values()])
    return Context(
        note=CONTEXT_NOTE,
        datasets=tuple(names),
        metrics=metrics,
        lines=tuple(_line(cells, here, names, metrics, numbers) for cells, here in lines),
        sources=tuple(f"[{number}] {source}" for source, number in numbers.items()),
    )


def _line(
    cells: Mapping[str, PublishedRow],
    here: tuple[str, ...],
    names: Mapping[str, str],
    metrics: Sequence[str],
    numbers: Mapping[str, int],
) -> ContextLine:
    row = next(iter(cells.values()))
    return ContextLine(
        row=row,
        source=_short_source(row, numbers[row.source]),
        shots=shots_text(row),
        here=here,
        figures={
            (d, m): getattr(cells[name], m) if name in cells else None
            for d, name in names.items()
            for m in metrics
        },
        flags=tuple(f"{d}: {text}" for d, r in cells.items() for text in r.flags),
    )


def _has(row: PublishedRow, metrics: Sequence[str]) -> bool:
    return any(getattr(row, metric) is not None for metric in metrics)


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
