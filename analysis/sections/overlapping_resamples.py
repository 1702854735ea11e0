"""Seeds that are resamples of one dataset and share data: the corrected resampled t."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.comparisons import differences
from analysis.sections.section import Section, Topic, running_text
from analysis.sections.shared_tests import scored
from analysis.stats import Posterior, ResampledT
from analysis.text import Column, Columns, Kind, table


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampleTest:
    """A variant minus the baseline over the overlapping resamples of one dataset. ``plain_p`` is
    that of a t test that treats them as independent.
    """

    variant: str
    dataset: str
    num_resamples: int
    difference: float
    test: ResampledT
    plain_p: float | None
    posterior: Posterior


def resample_tests(
    results: Results, compared: Sequence[str], metric: str, options: Options
) -> Iterator[ResampleTest]:
    """Every variant against the baseline on every dataset; none without an overlap."""
    ratio = options.overlap
    for variant in compared if results.baseline in compared and ratio is not None else ():
        if variant == results.baseline:
            continue
        difference_DS = differences(results, variant, results.baseline, metric)
        for dataset, row in zip(results.datasets, difference_DS, strict=True):
            known = row[np.isfinite(row)]
            if known.size and ratio is not None:
                yield ResampleTest(
                    variant=variant,
                    dataset=dataset,
                    num_resamples=int(known.size),
                    difference=float(known.mean()),
                    test=stats.corrected_resampled_t(known, test_over_train=ratio),
                    plain_p=stats.paired_t(known).p,
                    posterior=stats.bayesian_correlated_t(
                        known, test_over_train=ratio, rope=options.rope
                    ),
                )


@once
def tests(analysis: Analysis) -> tuple[ResampleTest, ...]:
    """The tests of this report."""
    results, options = analysis.results, analysis.options
    return tuple(resample_tests(results, scored(analysis), analysis.metric, options))


COLUMNS: Columns[ResampleTest] = (
    Column("variant", "Variant", Kind.NAME, lambda t: t.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda t: t.dataset),
    Column("resamples", "n", Kind.COUNT, lambda t: t.num_resamples),
    Column("difference", "Difference", Kind.DIFFERENCE, lambda t: t.difference),
    Column("interval", "95 % interval", Kind.INTERVAL, lambda t: t.test.interval),
    Column("p", "p corrected", Kind.P, lambda t: t.test.p),
    Column("plain_p", "p plain t", Kind.P, lambda t: t.plain_p),
    Column("p_worse", "P−", Kind.NUMBER, lambda t: t.posterior.worse),
    Column("p_equal", "P=", Kind.NUMBER, lambda t: t.posterior.equal),
    Column("p_better", "P+", Kind.NUMBER, lambda t: t.posterior.better),
    Column("reason", "Remark", Kind.NOTE, lambda t: t.test.reason, optional=True),
)


def _sections(analysis: Analysis) -> Sequence[Section]:
    found, ratio, title = tests(analysis), analysis.options.overlap, "Overlapping resamples"
    if ratio is None or not found:
        reason = "no pair of resamples to compare"
        if ratio is None:
            reason = "without --overlap, seeds are draws that share no data"
        return [Section(key="overlapping_resamples", title=title, reason=reason)]
    text = (
        f"The seeds are resamples that share data, with {ratio:.4g} test images per training "
        "image. The corrected resampled t uses the variance factor 1/n + test/train; the plain t "
        "uses 1/n, which overstates certainty. Differences are from "
        f"{analysis.results.baseline}, and p is not adjusted. P−, P= and P+ are the probabilities "
        "of worse, practically equal and better by the Bayesian correlated t."
    )
    return [
        Section(
            key="overlapping_resamples",
            title=title,
            sentences=running_text([text]),
            tables=(table("tests", title, COLUMNS, found),),
        )
    ]


TOPIC = Topic(key="overlapping_resamples", build=_sections, files={"tests": COLUMNS})
