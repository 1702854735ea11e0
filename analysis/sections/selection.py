"""Which variants the figures and the open tables show where there are too many for a reader.

Every variant is tested and is in the files; what is shown never depends on the order of a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import stats
from analysis.figures.figure import Figure
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, once
from analysis.text import Table, counted, label

MAX_VARIANTS = 40
AT_EACH_END = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The variants that are ``shown`` and the ``others``, in the order of the results. ``rule``
    says how they were chosen, and is blank where all are shown.
    """

    shown: tuple[str, ...]
    others: tuple[str, ...] = ()
    rule: str = ""

    @property
    def caption(self) -> str:
        """What to add to the caption of a figure that shows only these."""
        if not self.others:
            return ""
        return f" {len(self.shown)} of {counted(self._total, 'variant')} are shown: {self.rule}."

    @property
    def sentence(self) -> str:
        """What the report says of the choice; "" without one."""
        if not self.others:
            return ""
        return (
            f"Of {counted(self._total, 'variant')}, figures and open tables show "
            f"{len(self.shown)}: {self.rule}. The other {len(self.others)} are in tables of their "
            "own, and in the files. All are tested alike and count in every adjustment of p."
        )

    @property
    def _total(self) -> int:
        return len(self.shown) + len(self.others)

    def kept(self, variants: Sequence[str]) -> list[int]:
        """The places of those that are shown."""
        known = set(self.shown)
        return [i for i, variant in enumerate(variants) if variant in known]


@once
def selection(analysis: Analysis) -> Selection:
    """All variants up to ``MAX_VARIANTS``; beyond, the baseline, the references, and the best and
    the worst by their mean difference from the baseline on the headline's metric.
    """
    results = analysis.results
    if len(results.variants) <= MAX_VARIANTS:
        return Selection(shown=results.variants)
    gains = _gains(results, analysis.metric)
    ranked = sorted(gains, key=gains.__getitem__)
    ends = {*ranked[:AT_EACH_END], *ranked[-AT_EACH_END:]}
    best = _best_average(results, analysis.metric)
    chosen = {results.baseline, *results.references, *ends, *best}
    references = ", the references" if results.references else ""
    rule = (
        f"the baseline{references}, and the {AT_EACH_END} best and {AT_EACH_END} worst by mean "
        f"difference from {results.baseline} in {label(analysis.metric)}"
    )
    return Selection(
        shown=tuple(v for v in results.variants if v in chosen),
        others=tuple(v for v in results.variants if v not in chosen),
        rule=rule,
    )


def _gains(results: Results, metric: str) -> dict[str, float]:
    """How far every variant that may be compared with the baseline is ahead of it, on average over
    the datasets that both have.
    """
    reference_DS = results.scores(results.baseline, metric)
    found = {}
    for variant in results.ranked()[0]:
        scores_DS = results.scores(variant, metric)
        means = stats.dataset_means(stats.paired_differences(scores_DS, reference_DS))
        if np.isfinite(means).any():
            found[variant] = results.direction(metric) * float(np.nanmean(means))
    return found


def _best_average(results: Results, metric: str) -> list[str]:
    """The variant that tables mark as the best: of those with all datasets, by its average."""
    averages = {
        v: results.direction(metric) * float(stats.dataset_means(results.scores(v, metric)).mean())
        for v in results.variants
        if not results.not_comparable(v, results.baseline)
    }
    whole = [v for v, average in averages.items() if np.isfinite(average)]
    return [max(whole, key=averages.__getitem__)] if whole else []


def noted(analysis: Analysis, drawn: Figure | None) -> Figure | None:
    """The figure with a caption that says which variants it shows, where it does not show all."""
    said = selection(analysis).caption
    return replace(drawn, caption=drawn.caption + said) if drawn and said else drawn


def grouped(analysis: Analysis, made: Table, variants: Sequence[str]) -> tuple[Table, ...]:
    """The table as it is, or its rows about the variants that are shown, and those about the others
    in a table of its own, folded. ``variants`` has the variant of every row.
    """
    found = selection(analysis)
    kept = set(found.kept(variants))
    if len(kept) == len(variants):
        return (made,)
    rest = [i for i in range(len(variants)) if i not in kept]
    title = f"{made.title}: the other variants"
    return (
        replace(made, rows=tuple(made.rows[i] for i in sorted(kept))),
        replace(made, title=title, rows=tuple(made.rows[i] for i in rest), folded=True, notes=()),
    )
