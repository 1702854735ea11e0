"""All seeds of two methods on the same test images, where an image is a cluster of its seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from analysis import stats
from analysis.sections.image_runs import Read, Seeds, bits, run_of, shared_seeds
from analysis.stats import ClusteredDifference
from analysis.text import Column, Columns, Kind, Show


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredPair:
    """All runs of a variant against the baseline's of the same seeds on one target, where an image
    is a cluster; ``holm_p`` is adjusted over the variants of the dataset and target.
    """

    variant: str
    dataset: str
    target: str
    seeds: int
    images: int
    found: ClusteredDifference
    holm_p: float | None = None

    @property
    def p(self) -> float | None:
        """The p that is not adjusted."""
        return self.found.p


def clustered_pairs(
    dataset: str, runs: Mapping[str, Seeds], baseline: str, read: Read
) -> Iterator[ClusteredPair]:
    """Every variant with several seeds on the targets that its runs and their partners have all
    scored alike.
    """
    for variant, own in runs.items():
        seeds = shared_seeds(own, runs[baseline]) if variant != baseline else ()
        pairs = [[read(run_of(side, seed)) for side in (own, runs[baseline])] for seed in seeds]
        known = [
            (one, two)
            for one, two in pairs
            if not isinstance(one, str) and not isinstance(two, str)
        ]
        for target in dict.fromkeys(target for _, two in known for target in two):
            both = [(one[target], two[target]) for one, two in known if {target} <= {*one} & {*two}]
            if len(both) < 2 or len({side.test_list for pair in both for side in pair}) != 1:
                continue
            first, second = (np.stack([bits(pair[i]) for pair in both]) for i in (0, 1))
            yield ClusteredPair(
                variant=variant,
                dataset=dataset,
                target=target,
                seeds=len(both),
                images=first.shape[1],
                found=stats.clustered_difference(first, second),
            )


CLUSTERED_COLUMNS: Columns[ClusteredPair] = (
    Column("variant", "Variant", Kind.NAME, lambda c: c.variant),
    Column("dataset", "Dataset", Kind.TEXT, lambda c: c.dataset),
    Column("target", "Target", Kind.TEXT, lambda c: c.target),
    Column("seeds", "Seeds", Kind.COUNT, lambda c: c.seeds),
    Column("images", "Images", Kind.COUNT, lambda c: c.images),
    Column("difference", "Difference, points", Kind.DIFFERENCE, lambda c: c.found.difference),
    Column("interval", "95 % interval", Kind.INTERVAL, lambda c: c.found.interval),
    Column(
        "error",
        "Standard error",
        Kind.POINTS,
        lambda c: c.found.error,
        help="clustered by image",
    ),
    Column(
        "unclustered_error",
        "if all were independent",
        Kind.POINTS,
        lambda c: c.found.unclustered_error,
        help="the standard error if every answer of every seed were an independent image",
    ),
    Column("p", "p", Kind.P, lambda c: c.p, Show.FILES),
    Column(
        "holm_p",
        "p Holm",
        Kind.P,
        lambda c: c.holm_p,
        help="adjusted over the variants of the dataset and target",
    ),
    Column("reason", "Remark", Kind.NOTE, lambda c: c.found.reason, optional=True),
)
CLUSTERED_NOTE = (
    "All seeds of a variant against those of the baseline. An image is a cluster of its seeds' "
    "differences (Miller, arXiv 2411.00640): the claim is about these trained models on images "
    "like these, not about further seeds."
)
