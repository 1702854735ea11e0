"""The decision table: for a design, the primary test, what to report in addition, and what not
to use.

Sources: Demsar, JMLR 7, 2006; Benavoli et al., JMLR 17, 2016; Dror et al., TACL 5, 2017; Colas et
al., arXiv 1806.08295; Bouthillier et al., arXiv 2103.03098.
"""

from dataclasses import dataclass

from analysis.stats.decision import MIN_DATASETS_FOR_WILCOXON
from analysis.stats.multiple import most_comparisons
from analysis.stats.paired import smallest_p

MIN_SEEDS_FOR_WILCOXON = 10
MIN_SEEDS_FOR_T = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the decision table: what decides, what accompanies it, and what must not be used."""

    primary: str
    also: tuple[str, ...]
    never: tuple[str, ...]
    claim: str
    smallest_p: float | None = None
    notes: tuple[str, ...] = ()


def decision_rule(
    num_datasets: int,
    num_seeds: int,
    *,
    num_variants: int = 2,
    all_pairs: bool = False,
    overlapping: bool = False,
    missing_cells: bool = False,
    shots_trend: bool = False,
    alpha: float = 0.05,
) -> Rule:
    """The row of the table for a design, from its counts alone; scores never enter.

    ``overlapping``: the seeds are resamples of one dataset that share data, as in cross-validation.
    """
    if num_datasets < 1 or num_seeds < 1 or num_variants < 2:
        raise ValueError(
            "a comparison needs at least 1 dataset, 1 seed and 2 variants, got "
            f"{num_datasets}, {num_seeds} and {num_variants}"
        )
    if shots_trend:
        return Rule(
            primary="Page's L over datasets",
            also=("the curve with t intervals",),
            never=("one test per number of shots",),
            claim="a trend over shots on datasets like these",
        )
    if num_datasets == 1:
        return _one_dataset(num_seeds, num_variants, overlapping)
    if num_datasets < MIN_DATASETS_FOR_WILCOXON:
        return Rule(
            primary="a paired t test per dataset, and k-hat: in how many datasets, and in which",
            also=("paired t over dataset means, as a description", "mixed model"),
            never=("a decision by Wilcoxon or Friedman over datasets",),
            claim="on these datasets, by name",
        )
    return _many_datasets(num_datasets, num_seeds, num_variants, all_pairs, missing_cells, alpha)


def _one_dataset(num_seeds: int, num_variants: int, overlapping: bool) -> Rule:
    claim = "on this dataset"
    if num_seeds == 1:
        test = "McNemar's exact test" if num_variants == 2 else "Cochran's Q"
        return Rule(
            primary=f"{test} on the images",
            also=("interval of the accuracy difference",),
            never=("a claim about methods",),
            claim="about these trained models",
        )
    if overlapping:
        return Rule(
            primary="corrected resampled t",
            also=("Bayesian correlated t",),
            never=("a plain t test, because resamples share data",),
            claim=claim,
        )
    rank_tests = "Wilcoxon and permutation tests, whose smallest attainable p is too large"
    if num_seeds < MIN_SEEDS_FOR_T:
        return Rule(
            primary="effect with its t interval; undecided unless the effect is very large",
            also=("test on the images of one run",),
            never=(rank_tests, "percentile bootstrap, whose coverage is too low"),
            claim=claim,
        )
    also: tuple[str, ...] = ("P(A > B)",)
    if num_seeds >= MIN_SEEDS_FOR_WILCOXON:
        also = ("exact Wilcoxon over seeds", "P(A > B) with its interval")
    return Rule(
        primary="paired t over seeds; Welch's t where runs are not paired",
        also=also,
        never=(rank_tests,) if num_seeds < MIN_DATASETS_FOR_WILCOXON else (),
        claim=claim,
    )


def _many_datasets(
    num_datasets: int,
    num_seeds: int,
    num_variants: int,
    all_pairs: bool,
    missing_cells: bool,
    alpha: float,
) -> Rule:
    family = num_variants * (num_variants - 1) // 2 if all_pairs else num_variants - 1
    test = "exact Wilcoxon over dataset means, with the paired t in addition"
    if num_variants > 2:
        which = "all pairs" if all_pairs else "each against the baseline"
        test = f"{test}, {which}, with Holm; Iman and Davenport's F over all of them"
    most = most_comparisons(num_datasets, alpha=alpha)
    notes = []
    if family > most:
        notes.append(
            f"p Holm over {family} Wilcoxon tests cannot fall below {alpha:g} on {num_datasets} "
            f"datasets (it can for {most} at most), so the paired t decides"
        )
    if missing_cells:
        notes.append("cells are missing: name them, and use a mixed model or the common datasets")
    if num_seeds == 1:
        notes.append("with one seed, nothing is known about training noise")
    return Rule(
        primary=test,
        also=(
            "TOST",
            "Bayesian signed-rank",
            "k-hat",
            "two-level bootstrap",
            *(("mixed model",) if missing_cells else ()),
            *(("Conover's test as a sensitivity check",) if num_variants > 2 else ()),
        ),
        never=("a test over datasets × seeds as if all were independent", "Nemenyi's test"),
        claim="on datasets like these",
        smallest_p=None if family > most else (smallest_p(num_datasets) or 1.0) * family,
        notes=tuple(notes),
    )
