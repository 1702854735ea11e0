"""Effect sizes and posterior probabilities of the headline's comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.analysis import Analysis, Options, once
from analysis.sections.comparisons import Block, Comparison, compared, differences, headline_family
from analysis.sections.section import Section, Topic
from analysis.stats import Array, Estimate, Posterior, PValue
from analysis.text import Column, Columns, Kind, Show, Table, label, table

DRAWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What accompanies a verdict. Differences are variant minus reference, fractions.

    ``improvement`` compares all runs of a dataset with all runs of the other side, unpaired
    (Agarwal et al., NeurIPS 2021), averaged over datasets; None where no dataset is complete.
    ``sign_test`` is the exact p of the number of wins, in addition to those of the comparison.
    """

    comparison: Comparison
    hodges_lehmann: Estimate
    dz: Estimate
    hedges_g: Estimate
    rank_biserial: Estimate
    probability_better: Estimate
    improvement: Estimate | None
    sign_test: PValue
    posterior: Posterior

    @property
    def meaning(self) -> str:
        """Whether a difference is one that a user would notice (Bouthillier et al., arXiv
        2103.03098): decided on these datasets, and ahead in ``GAMMA`` of the paired runs.
        """
        share = self.probability_better.value
        if share is None or not self.comparison.these.decided:
            return "not shown"
        ahead = share if self.comparison.these.word == "better" else 1 - share
        return "meaningful" if ahead >= stats.GAMMA else "shown, not meaningful"


def evidence(results: Results, block: Block, options: Options) -> tuple[Evidence, ...]:
    """Evidence for every comparison of the headline's metric that has a value."""
    return tuple(_of(results, c, options) for c in headline_family(results, block))


def _of(results: Results, c: Comparison, options: Options) -> Evidence:
    values_DS = differences(results, c.variant, c.reference, c.metric)
    means = stats.dataset_means(values_DS)
    sample = means if c.num_datasets > 1 else values_DS.ravel()
    direction = results.direction(c.metric)
    independent = c.num_datasets > 1 or options.overlap is None
    return Evidence(
        comparison=c,
        hodges_lehmann=_kept(stats.hodges_lehmann(sample), independent),
        dz=stats.cohen_dz(sample),
        hedges_g=stats.hedges_g(sample),
        rank_biserial=stats.rank_biserial(sample),
        probability_better=_kept(stats.probability_better(direction * values_DS), independent),
        improvement=_improvement(results, c),
        sign_test=stats.sign_test(sample),
        posterior=_posterior(direction * values_DS, c, options),
    )


def _kept(found: Estimate, independent: bool) -> Estimate:
    """The estimate, without the interval where it would take shared data for independent."""
    if independent:
        return found
    return Estimate(found.value, reason="the seeds share data: no interval")


def _improvement(results: Results, c: Comparison) -> Estimate | None:
    """On the datasets on which both sides have all of their seeds."""
    one, two = results.direction(c.metric) * results.cube((c.variant, c.reference), c.metric)
    whole = ~np.isnan(one + two).any(axis=1)
    if not whole.any():
        return None
    return stats.improvement(one[whole], two[whole])


def _posterior(values_DS: Array, c: Comparison, options: Options) -> Posterior:
    """Over dataset means; over the seeds, or resamples, of the only dataset."""
    if c.num_datasets == 1:
        ratio = options.overlap or 0.0
        return stats.bayesian_correlated_t(values_DS, test_over_train=ratio, rope=options.rope)
    means, rng = stats.dataset_means(values_DS), np.random.default_rng(options.rng_seed)
    return stats.bayesian_signed_rank(means, rng=rng, rope=options.rope, draws=DRAWS)


@once
def evidenced(analysis: Analysis) -> tuple[tuple[Evidence, ...], ...]:
    """The evidence of this report, one tuple per reference."""
    results, options = analysis.results, analysis.options
    return tuple(evidence(results, block, options) for block in compared(analysis))


COLUMNS: Columns[Evidence] = (
    Column("reference", "Against", Kind.TEXT, lambda e: e.comparison.reference, Show.FILES),
    Column("variant", "Variant", Kind.NAME, lambda e: e.comparison.variant),
    Column("metric", "Metric", Kind.TEXT, lambda e: e.comparison.metric, Show.FILES),
    Column(
        "hodges_lehmann",
        "Hodges-Lehmann, points",
        Kind.ESTIMATE,
        lambda e: e.hodges_lehmann,
        help="median of the pairwise averages, robust to one unusual dataset",
    ),
    Column("dz", "dz", Kind.NUMBER, lambda e: e.dz.value, Show.FILES),
    Column(
        "hedges_g",
        "g",
        Kind.NUMBER,
        lambda e: e.hedges_g.value,
        help="difference in standard deviations of the differences",
    ),
    Column(
        "rank_biserial",
        "r",
        Kind.NUMBER,
        lambda e: e.rank_biserial.value,
        help="matched-pairs rank-biserial correlation, from -1 to 1",
    ),
    Column(
        "probability_better",
        "P(better run)",
        Kind.NUMBER_ESTIMATE,
        lambda e: e.probability_better,
    ),
    Column(
        "meaning",
        "Meaningful",
        Kind.TEXT,
        lambda e: e.meaning,
        help="meaningful, where the difference is decided on these datasets and the better side "
        "wins at least 0.75 of the paired runs; shown, not meaningful; or not shown",
    ),
    Column("improvement", "P(improvement)", Kind.NUMBER_ESTIMATE, lambda e: e.improvement),
    Column("sign_test_p", "p sign test", Kind.P, lambda e: e.sign_test.p),
    Column("p_worse", "P−", Kind.NUMBER, lambda e: e.posterior.worse),
    Column("p_equal", "P=", Kind.NUMBER, lambda e: e.posterior.equal),
    Column("p_better", "P+", Kind.NUMBER, lambda e: e.posterior.better),
)


def _note(options: Options) -> str:
    posterior = "Bayesian signed-rank"
    if options.overlap is not None:
        posterior = "Bayesian signed-rank over datasets, correlated t on one dataset"
    return (
        "Hodges-Lehmann is the median of the pairwise averages, which is robust to one unusual "
        "dataset. g is the difference in standard deviations of the differences (Hedges). r is the "
        "matched-pairs rank-biserial correlation, from −1 to 1. P(better run) is the share of "
        "paired runs that the variant wins, and meaningful if the side that is better on these "
        f"datasets wins {stats.GAMMA:g} of them (Bouthillier et al.); P(improvement) is the same "
        "share over all runs of a dataset against all runs of the reference, averaged over "
        "datasets; their intervals are exact, with the dataset as the unit (on one dataset, the "
        "run). p sign test is an exact test of the number of wins; it decides nothing here. P−, P= "
        "and P+ are the posterior probabilities that the variant is worse, practically equal and "
        f"better ({posterior}), and not adjusted for the number of comparisons."
    )


def _table(analysis: Analysis, block: Block, found: Sequence[Evidence]) -> Table:
    metric = label(analysis.metric)
    return table(
        "evidence",
        f"{metric} against {block.reference}: effect sizes and posterior probabilities",
        COLUMNS,
        found,
        notes=[_note(analysis.options)] if block.reference == analysis.results.baseline else [],
        folded=True,
    )


def _sections(analysis: Analysis) -> Sequence[Section]:
    blocks = zip(compared(analysis), evidenced(analysis), strict=True)
    tables = tuple(_table(analysis, block, found) for block, found in blocks if found)
    title = "Effect sizes and posterior probabilities"
    if not tables:
        reason = "no variant can be compared with a reference"
        return [Section(key="evidence", title=title, reason=reason)]
    return [Section(key="evidence", title=title, tables=tables)]


TOPIC = Topic(key="evidence", build=_sections, files={"evidence": COLUMNS})
