"""The main table and the comparison tables, as numbers first and as text afterwards.

Percent exists only in the text: numbers, CSV and JSON are fractions, rounded to 1e-6 so that files
compare byte by byte. Nothing here depends on the clock, the machine or the order in which runs
finished.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.read.results import Results
from analysis.sections.comparisons import TESTS, Block, Comparison
from analysis.stats import Array, Interval, MeanInterval, dataset_means, t_interval
from analysis.text import HM_OF_MEANS, interval_text, label, p_text, points, rounded, rounded_p
from core.metrics import harmonic_mean

AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Mean, t half width and number of seeds of one cell; ``mean`` is None where there is no
    finished run.

    ``mark`` is "best" or "second" of its column among variants that may be ranked together,
    otherwise "".
    """

    mean: float | None = None
    half_width: float | None = None
    n: int = 0
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainTable:
    """Cells by (variant, dataset, metric). ``datasets`` begins with the average."""

    variants: tuple[str, ...]
    datasets: tuple[str, ...]
    metrics: Mapping[str, tuple[str, ...]]
    cells: Mapping[tuple[str, str, str], Cell]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """All (dataset, metric) columns in order."""
        return [(d, m) for d in self.datasets for m in self.metrics[d]]


def main_table(results: Results) -> MainTable:
    """Means over seeds per dataset and their average over datasets, with t-based 95 % half widths.

    The half width of an average is over seeds, each averaged over all datasets: it speaks about
    these datasets. Two summaries of base and new are given: hm averages the harmonic means of the
    runs (mean of HMs), hm_of_means is the harmonic mean of the two averages (the field's
    convention). A variant that lacks a dataset has no average.
    """
    averages = results.metrics
    if {"base", "new"} <= set(averages):
        averages = (*averages, HM_OF_MEANS)
    cells: dict[tuple[str, str, str], Cell] = {}
    for variant in results.variants:
        scores = {metric: results.scores(variant, metric) for metric in results.metrics}
        for metric, values_DS in scores.items():
            cells[variant, AVERAGE, metric] = _average(values_DS)
            for dataset, row in zip(results.datasets, values_DS, strict=True):
                cells[variant, dataset, metric] = _cell(row)
        if HM_OF_MEANS in averages:
            cells[variant, AVERAGE, HM_OF_MEANS] = _hm_of_means(scores["base"], scores["new"])
    metrics = {AVERAGE: averages, **dict.fromkeys(results.datasets, results.metrics)}
    datasets = (AVERAGE, *results.datasets) if len(results.datasets) > 1 else results.datasets
    table = MainTable(variants=results.variants, datasets=datasets, metrics=metrics, cells=cells)
    return _marked(table, results)


def _cell(row: Array) -> Cell:
    if np.isnan(row).all():
        return Cell()
    return Cell(**t_interval(row)._asdict())


def _per_seed(values_DS: Array) -> Array:
    """Average over datasets of every seed that is complete, shape (n,)."""
    complete = ~np.isnan(values_DS).any(axis=0)
    return np.asarray(values_DS[:, complete].mean(axis=0), dtype=np.float64)


def _average(values_DS: Array) -> Cell:
    means = dataset_means(values_DS)
    if np.isnan(means).any():
        return Cell()
    return _centered(float(means.mean()), _per_seed(values_DS))


def _hm_of_means(base_DS: Array, new_DS: Array) -> Cell:
    base, new = dataset_means(base_DS), dataset_means(new_DS)
    if np.isnan(base).any() or np.isnan(new).any():
        return Cell()
    pairs = zip(_per_seed(base_DS), _per_seed(new_DS), strict=True)
    per_seed = np.array([harmonic_mean(float(b), float(n)) for b, n in pairs])
    return _centered(harmonic_mean(float(base.mean()), float(new.mean())), per_seed)


def _centered(mean: float, per_seed: Array) -> Cell:
    """A cell with this mean and the half width over the complete seeds."""
    spread = t_interval(per_seed) if per_seed.size else MeanInterval(mean, None, 0)
    return Cell(mean=mean, half_width=spread.half_width, n=spread.n)


def _marked(table: MainTable, results: Results) -> MainTable:
    """Best and second of each column among the variants that may be ranked with the baseline."""
    ranked = [v for v in table.variants if not results.not_comparable(v, results.baseline)]
    cells = dict(table.cells)
    for dataset, metric in table.columns:
        means = {
            v: round(m, 9) for v in ranked if (m := cells[v, dataset, metric].mean) is not None
        }
        for mark, value in zip(("best", "second"), sorted(set(means.values()))[::-1], strict=False):
            if len(means) < 2:
                continue
            for variant in (v for v, m in means.items() if m == value):
                old = cells[variant, dataset, metric]
                cells[variant, dataset, metric] = Cell(
                    mean=old.mean, half_width=old.half_width, n=old.n, mark=mark
                )
    return MainTable(
        variants=table.variants, datasets=table.datasets, metrics=table.metrics, cells=cells
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table of strings; the first column is left-aligned, the others right-aligned."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Aligned plain text."""
        table = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.header))]
        lines = [
            "  ".join(
                text.rjust(width) if i else text.ljust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        return "\n".join([self.title, lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"

    def to_markdown(self) -> str:
        """A pipe table with everything escaped that Markdown would read as markup."""
        align = "|:--|" + "--:|" * (len(self.header) - 1)
        lines = [
            "| " + " | ".join(escape_markdown(t) for t in row) + " |"
            for row in (self.header, *self.rows)
        ]
        return "\n".join([lines[0], align, *lines[1:]]) + "\n"


def escape_markdown(text: str) -> str:
    """Text with backslashes before Markdown's markup characters."""
    return "".join("\\" + c if c in "\\`*_[<|~&$" else c for c in text)


def least_text(c: Comparison) -> str:
    """The smallest adjusted p that the design could have given; a t test has no such limit."""
    no_limit = c.smallest_holm_p is None and c.decided_by.startswith("t")
    return "no limit" if no_limit else p_text(c.smallest_holm_p)


def cell_text(cell: Cell) -> str:
    """Mean and half width in percent."""
    if cell.mean is None:
        return "-"
    width = "" if cell.half_width is None else f" ± {points(cell.half_width)}"
    return f"{points(cell.mean)}{width}"


def seeds_text(table: MainTable, variant: str) -> str:
    """Number of seeds behind a row: one number, or the range where cells differ."""
    counts = {
        table.cells[variant, d, m].n
        for d in table.datasets
        if d != AVERAGE
        for m in table.metrics[d]
    }
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def main_text(table: MainTable, *, datasets: Sequence[str] | None = None) -> TextTable:
    """The main table, or some of its datasets, as text: **best**, *second* are marks of Markdown
    and HTML only.
    """
    columns = [(d, m) for d, m in table.columns if datasets is None or d in datasets]
    header = ("Variant", "n", *(f"{d} {label(m)}" for d, m in columns))
    rows = tuple(
        (v, seeds_text(table, v), *(cell_text(table.cells[v, d, m]) for d, m in columns))
        for v in table.variants
    )
    title = "Accuracy in percent, mean ± half width of the 95 % t interval over n seeds"
    return TextTable(title=title, header=header, rows=rows)


COMPARISON_HEADER = (
    "Variant",
    "Difference",
    "95 % datasets like these",
    "95 % these datasets",
    "p t",
    "p Wilcoxon",
    "p Holm",
    "smallest p Holm",
    "p TOST",
    "win/tie/loss",
    "Verdict",
    "Remark",
)


def comparison_text(block: Block, metric: str) -> TextTable:
    """Comparisons with one reference on one metric as text, in percentage points."""
    rows = tuple(comparison_row(c) for c in block.comparisons[metric])
    title = f"{label(metric)}: difference from {block.reference} in points"
    return TextTable(title=title, header=COMPARISON_HEADER, rows=rows)


def comparison_brief(block: Block, metric: str) -> TextTable:
    """Comparisons for a terminal: effect, the interval of the deciding test, verdict."""
    header = ("Variant", "Difference", "95 % interval", "p Holm", "win/tie/loss", "Verdict")
    rows = []
    for c in block.comparisons[metric]:
        full = comparison_row(c)
        interval = interval_text(c.interval) if c.difference is not None else "-"
        rows.append((c.variant, full[1], interval, full[6], full[9], c.verdict))
    title = f"{label(metric)}: difference from {block.reference} in points"
    return TextTable(title=title, header=header, rows=tuple(rows))


def comparison_row(c: Comparison) -> tuple[str, ...]:
    """The strings of one comparison, in the order of ``COMPARISON_HEADER``."""
    compared = c.difference is not None
    return (
        c.variant,
        points(c.difference, sign=True),
        interval_text(c.two_level),
        interval_text(c.seeds_only),
        p_text(c.t_p) if compared else "-",
        p_text(c.wilcoxon_p) if compared else "-",
        p_text(c.holm_p) if compared else "-",
        least_text(c) if compared else "-",
        p_text(c.equivalence_p) if compared else "-",
        f"{c.wins}/{c.ties}/{c.losses}" if compared else "-",
        c.verdict,
        c.reason,
    )


def main_records(table: MainTable) -> list[dict[str, object]]:
    """One record per cell of the main table, fractions."""
    return [
        {
            "variant": variant,
            "dataset": dataset,
            "metric": metric,
            "mean": rounded(table.cells[variant, dataset, metric].mean),
            "half_width_95": rounded(table.cells[variant, dataset, metric].half_width),
            "n": table.cells[variant, dataset, metric].n,
        }
        for variant in table.variants
        for dataset, metric in table.columns
    ]


def comparison_records(blocks: Iterable[Block]) -> list[dict[str, object]]:
    """One record per comparison, fractions."""
    return [_record(c) for b in blocks for family in b.comparisons.values() for c in family]


def _record(c: Comparison) -> dict[str, object]:
    record: dict[str, object] = {"reference": c.reference, "variant": c.variant, "metric": c.metric}
    record |= {"verdict": c.verdict, "decided_by": TESTS.get(c.decided_by, "none")}
    record["difference"] = rounded(c.difference)
    for name in ("two_level", "seeds_only", "t_interval"):
        interval: Interval | None = getattr(c, name)
        record[f"{name}_low"] = rounded(interval.low) if interval else None
        record[f"{name}_high"] = rounded(interval.high) if interval else None
    for name in ("t_p", "wilcoxon_p", "holm_p", "smallest_p", "smallest_holm_p", "equivalence_p"):
        p: float | None = getattr(c, name)
        record[name] = rounded_p(p)
    for name in ("family_size", "wins", "ties", "losses", "num_datasets", "num_pairs"):
        record[name] = getattr(c, name)
    return record | {"remark": c.reason}


def to_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Records as CSV text with a header; None is an empty field."""
    if not records:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
