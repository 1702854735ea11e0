"""docs/verdicts.md: the simulated error rates of the verdicts, in words and tables.

`python -m tests.helpers.error_rates_page` writes it.
"""

import textwrap

from tests.helpers.error_rates import (
    ALPHA,
    BETWEEN,
    COMPARISONS,
    DATASETS,
    FAMILIES,
    SEEDS,
    simulate,
)
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "verdicts.md"
CALM, ALIKE, UNLIKE = ("equal", "moderate"), ("equal", "moderate", "strong"), ("one five times",)
NORMAL, SKEWED, STRONGLY = ("normal", "heavy tails"), ("skewed",), ("strongly skewed",)


def worst(cells, name):
    """The largest rate of these cells."""
    return f"{max(getattr(rates, name) for rates in cells.values()):.3f}".lstrip("0")


def least_coverage(cells):
    return f"{min(rates.coverage for rates in cells.values()):.3f}".lstrip("0")


def of(cells, **wanted):
    """The cells whose fields have one of the wanted values."""
    return {
        cell: rates
        for cell, rates in cells.items()
        if all(getattr(cell, name) in values for name, values in wanted.items())
    }


def table(cells, single, family):
    """Least and largest rate by datasets and seeds, single and over a family."""
    head = ["datasets", *(f"{s} seeds" for s in SEEDS), *(f"family, {s} seeds" for s in SEEDS)]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for d in DATASETS:
        row = [
            _range([getattr(r, name) for r in of(cells, num_datasets=[d], num_seeds=[s]).values()])
            for name in (single, family)
            for s in SEEDS
        ]
        if any(row):
            lines.append(f"| {' | '.join([str(d), *row])} |")
    return "\n".join(lines)


def _range(found):
    """ ".034–.051", or a single number."""
    if not found:
        return ""
    ends = dict.fromkeys(f"{x:.3f}".lstrip("0") for x in (min(found), max(found)))
    return "–".join(ends)


def page(found):
    """The whole page."""
    return "\n\n".join([*_introduction(), *_these(found.these), *_like(found.like)]) + "\n"


def paragraph(text):
    return textwrap.fill(" ".join(text.split()), 120)


def _introduction():
    return [
        "# How often the verdicts are wrong",
        paragraph(
            f"""
*Better* and *worse* are wrong where the true mean difference is zero; *equivalent* is wrong where
it lies at the edge of the region of practical equivalence. A family of comparisons is meant to
contain any such verdict in {100 * ALPHA:g} % of all studies. This page says how often it does, by
simulation: {FAMILIES:,} families of {COMPARISONS} variants and their baseline for every cell of the
grid, which are {FAMILIES * COMPARISONS:,} single comparisons. The comparisons of a family share the
noise of the baseline, as they do in a study. The columns named "family" count a family once any of
its verdicts is wrong after Holm's adjustment; the others count comparisons on their own."""
        ),
        paragraph(
            """
A 95 % interval misses the true mean exactly where the test of that mean rejects, so its coverage is
one minus the rate of a single comparison. A range goes from the smallest to the largest rate over
the ways in which seeds and datasets vary. `make error-rates` writes this page, and a slow test
compares it with a new simulation."""
        ),
    ]


def _these(cells):
    alike, unlike = of(cells, pattern=ALIKE), of(cells, pattern=UNLIKE)
    calm = of(cells, pattern=CALM)
    text = f"""
The test is the stratified t: the seeds are the sample, and the mean over the datasets at hand is
zero although single datasets differ from it. Noise is normal. Its standard deviation is the same on
every dataset, runs over the datasets from 0.5 to 1.5 (moderate) or from 0.2 to 2 (strong), or is
five times as large on one dataset. With equal or moderate variation, a single comparison is wrong
in at most {worst(calm, "single")} of all cases and a family in {worst(calm, "family")}; with strong
variation in {worst(alike, "single")} and {worst(alike, "family")}; with one dataset of five times
the spread in {worst(unlike, "single")} and {worst(unlike, "family")}. Coverage is at least
{least_coverage(calm)}, {least_coverage(alike)} and {least_coverage(unlike)}. *Equivalent* is wrong
in at most {worst(calm, "equivalent")} and {worst(calm, "equivalent_family")} with equal or moderate
variation, and in {worst(cells, "equivalent")} and {worst(cells, "equivalent_family")} anywhere.
"""
    return [
        "## These datasets",
        paragraph(text),
        "False *better* or *worse*, from equal to strong variation:",
        table(alike, "single", "family"),
        "The same, one dataset with five times the spread:",
        table(unlike, "single", "family"),
        "False *equivalent*, all of these:",
        table(cells, "equivalent", "equivalent_family"),
    ]


def _like(cells):
    normal, skewed, strongly = (of(cells, shape=shape) for shape in (NORMAL, SKEWED, STRONGLY))
    text = f"""
The test is the t over dataset means: the datasets are a sample of those whose mean difference is
zero. The true differences have a standard deviation of 0, {" or ".join(f"{b:g}" for b in BETWEEN)}
seed spreads, and noise varies as above. Where they are normal or have heavy tails (t with five
degrees of freedom), a single comparison is wrong in at most {worst(normal, "single")} of all cases
and a family in {worst(normal, "family")}, with a coverage of at least {least_coverage(normal)}. The
smallest rates belong to datasets that do not differ at all while their noise does. The test takes
the differences to be roughly normal. Where they are skewed (gamma with skewness 1), the rates are
up to {worst(skewed, "single")} and {worst(skewed, "family")} and the coverage is
{least_coverage(skewed)}; where few datasets gain much and most lose a little (exponential, skewness
2), {worst(strongly, "single")}, {worst(strongly, "family")} and {least_coverage(strongly)}.
*Equivalent* is wrong in at most {worst(normal, "equivalent")} and
{worst(normal, "equivalent_family")}; where differences are skewed, in {worst(skewed, "equivalent")}
and {worst(skewed, "equivalent_family")}. A handful of datasets cannot show which of these holds, so
the report names the assumption, and gives exact Wilcoxon and sign flip tests beside the t.
"""
    return [
        "## Datasets like these",
        paragraph(text),
        "False *better* or *worse*, normal or heavy tails:",
        table(normal, "single", "family"),
        "The same, skewed:",
        table(skewed, "single", "family"),
        "The same, strongly skewed:",
        table(strongly, "single", "family"),
        "False *equivalent*, normal or heavy tails:",
        table(normal, "equivalent", "equivalent_family"),
        "False *equivalent*, skewed:",
        table(skewed, "equivalent", "equivalent_family"),
    ]


if __name__ == "__main__":
    PAGE.write_text(page(simulate()))
    print(f"Written: {PAGE}")
