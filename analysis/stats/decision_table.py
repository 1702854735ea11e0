"""The decision table: for a design, which test decides in each scope, what accompanies it, and what
must not be used.

Sources: Dietterich, Neural Computation 10, 1998; Nadeau and Bengio, Machine Learning 52, 2003;
Demsar, JMLR 7, 2006; Benavoli et al., JMLR 17, 2016; Dror et al., TACL 5, 2017; Colas et al., arXiv
1806.08295; Bouthillier et al., arXiv 2103.03098; and the error rates that were simulated for
docs/verdicts.md.
"""

from dataclasses import dataclass

MIN_PAIRS_FOR_WILCOXON = 6
"""From here on an exact Wilcoxon test of one comparison can fall below .05."""
MIN_SEEDS_FOR_T = 5
MIN_SEEDS_FOR_PROBABILITY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRule:
    """What decides in one scope and what the claim is about; ``test`` is blank, and ``reason`` says
    why, where nothing can decide. ``also`` accompanies the test and never replaces it.
    """

    test: str = ""
    claim: str = ""
    also: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the decision table: the rule of each scope, what must not be used for either, and
    what to keep in mind.
    """

    these: ScopeRule
    like: ScopeRule
    never: tuple[str, ...] = ()
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
) -> Rule:
    """The row of the table for a design, from its counts alone; scores never enter.

    ``overlapping``: the seeds are resamples that share data, as in cross-validation.
    """
    if num_datasets < 1 or num_seeds < 1 or num_variants < 2:
        raise ValueError(
            "a comparison needs at least 1 dataset, 1 seed and 2 variants, got "
            f"{num_datasets}, {num_seeds} and {num_variants}"
        )
    if shots_trend:
        return _trend(num_datasets)
    never = ["a test over datasets × seeds as if all were independent"] if num_datasets > 1 else []
    if overlapping:
        never.append("a plain t test over resamples, because they share data")
    if max(num_datasets, num_seeds) < MIN_PAIRS_FOR_WILCOXON:
        never.append(
            "a decision by Wilcoxon, sign flip or Friedman, whose smallest attainable p is too "
            "large"
        )
    if num_seeds < MIN_SEEDS_FOR_T:
        never.append("a percentile bootstrap over seeds, whose coverage is too low")
    if num_variants > 2:
        never.append("Nemenyi's test")
    return Rule(
        these=_these(num_datasets, num_seeds, num_variants, overlapping),
        like=_like(num_datasets, num_variants, all_pairs, missing_cells),
        never=tuple(never),
        notes=_notes(num_datasets, num_seeds, num_variants, all_pairs, missing_cells),
    )


def _these(num_datasets: int, num_seeds: int, num_variants: int, overlapping: bool) -> ScopeRule:
    one = num_datasets == 1
    if num_seeds == 1:
        images = "McNemar's exact test" if num_variants == 2 else "Cochran's Q"
        return ScopeRule(
            also=(f"{images} on the images, a claim about these trained models",),
            reason="one seed: nothing is known about others",
        )
    test = "paired t over seeds" if one else "stratified t over seeds"
    if overlapping:
        test = "corrected resampled t" if one else f"{test}, corrected for shared data"
    return ScopeRule(
        test=test,
        claim="on this dataset" if one else "on average over these datasets",
        also=(
            "two one-sided tests of equivalence",
            *(() if one else ("k-hat: in how many datasets it is shown, and in which",)),
            *(("Bayesian correlated t",) if overlapping and one else ()),
            *(
                ("P(A > B) with its interval",)
                if num_seeds >= MIN_SEEDS_FOR_PROBABILITY and not overlapping
                else ()
            ),
        ),
    )


def _like(num_datasets: int, num_variants: int, all_pairs: bool, missing_cells: bool) -> ScopeRule:
    if num_datasets == 1:
        return ScopeRule(reason="one dataset: nothing is known about others")
    ranks = num_datasets >= MIN_PAIRS_FOR_WILCOXON
    several = num_variants > 2
    return ScopeRule(
        test="paired t over dataset means",
        claim="on datasets like these, if effects over datasets are roughly normal",
        also=(
            "two one-sided tests of equivalence",
            *(("exact Wilcoxon and sign flip, where they disagree",) if ranks else ()),
            *(("Bayesian signed-rank",) if ranks else ()),
            *(("Iman and Davenport's F over all variants",) if several and ranks else ()),
            *(("Conover's test as a sensitivity check",) if several and all_pairs else ()),
            *(("mixed model",) if missing_cells else ()),
        ),
    )


def _notes(
    num_datasets: int, num_seeds: int, num_variants: int, all_pairs: bool, missing_cells: bool
) -> tuple[str, ...]:
    family = num_variants * (num_variants - 1) // 2 if all_pairs else num_variants - 1
    notes = []
    if family > 1:
        which = "all pairs" if all_pairs else "each against the baseline"
        notes.append(
            f"{family} comparisons, {which}, adjusted by Holm in each scope on its own; their "
            "number never changes the test"
        )
    if num_seeds > 1 and num_datasets * num_seeds < 2 * MIN_SEEDS_FOR_T:
        notes.append("so few runs decide only very large effects")
    if 1 < num_datasets < MIN_PAIRS_FOR_WILCOXON:
        notes.append(
            f"{num_datasets} datasets decide only large effects on datasets like these, and cannot "
            "show whether effects are roughly normal"
        )
    if missing_cells:
        notes.append(
            "cells are missing: each comparison uses what both sides have, and names what they lack"
        )
    if num_seeds == 1:
        notes.append("with one seed, nothing is known about training noise")
    return tuple(notes)


def _trend(num_datasets: int) -> Rule:
    one = num_datasets == 1
    return Rule(
        these=ScopeRule(
            also=("the curve with t intervals over seeds",),
            reason="a trend over shots is tested over datasets",
        ),
        like=ScopeRule(reason="one dataset: nothing is known about others")
        if one
        else ScopeRule(
            test="Page's L over datasets", claim="a trend over shots on datasets like these"
        ),
        never=("one test per number of shots",),
    )
