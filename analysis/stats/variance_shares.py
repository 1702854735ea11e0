"""Where the variance of a toggle grid's runs comes from: parts, their interactions, seeds.

A description, not a test. The sum of squares within a dataset is split by the coded effects of a
two-level design (Box, Hunter and Hunter, Statistics for Experimenters, 2nd edition, 2005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.stats.attribution import Cells, check_cells, coded_interaction, subsets
from analysis.stats.intervals import ROUNDING, Array


class VarianceSource(NamedTuple):
    """What a share of variance comes from: one ``part``, all interactions of ``order`` parts
    together, or, with order 0, the seeds.
    """

    order: int
    part: str = ""

    @property
    def name(self) -> str:
        """The printed name."""
        if self.part or not self.order:
            return self.part or "seeds"
        return {2: "two together", 3: "three together"}.get(self.order, f"{self.order} together")


SEEDS = VarianceSource(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceShares:
    """Where the variance of one dataset's runs comes from: shares by group of parts, and the rest,
    which is seeds. They add up to 1; None, with the reason, where there is nothing to share.
    """

    shares: Mapping[tuple[str, ...], float] | None
    seeds: float | None
    reason: str = ""

    @property
    def by_source(self) -> dict[VarianceSource, float]:
        """One share per part, one per order of interaction, and the seeds; empty without shares."""
        if self.shares is None:
            return {}
        found: dict[VarianceSource, float] = {}
        for parts, share in self.shares.items():
            order = len(parts)
            source = VarianceSource(order, parts[0]) if order == 1 else VarianceSource(order)
            found[source] = found.get(source, 0.0) + share
        return {**found, SEEDS: self.seeds or 0.0}


def variance_shares(cells: Cells, parts: Sequence[str]) -> tuple[VarianceShares, ...]:
    """Shares of the sum of squares within each dataset, by main effect and (coded) interaction.

    A description, not a test: with few seeds a part of every share is noise.
    """
    check_cells(cells, parts)
    if len(cells) < 2 ** len(parts):
        why = "shares of variance need every combination of the parts"
        return tuple(
            VarianceShares(shares=None, seeds=None, reason=why)
            for _ in range(len(next(iter(cells.values()))))
        )
    table_CDS = np.stack([cells[cell] for cell in subsets(parts)])
    return tuple(_shares_of(table_CDS[:, d], parts) for d in range(table_CDS.shape[1]))


def _shares_of(table_CS: Array, parts: Sequence[str]) -> VarianceShares:
    table_CS = table_CS[:, ~np.isnan(table_CS).any(axis=0)]
    if table_CS.shape[1] == 0:
        return VarianceShares(shares=None, seeds=None, reason="no seed has every cell")
    total = float(((table_CS - table_CS.mean()) ** 2).sum())
    if round(total, ROUNDING) == 0:
        return VarianceShares(shares=None, seeds=None, reason="all scores are equal")
    means = dict(zip(subsets(parts), table_CS.mean(axis=1).tolist(), strict=True))
    shares = {}
    for group in subsets(parts)[1:]:
        effect = sum(w * means[cell] for cell, w in coded_interaction(group, parts).items())
        name = tuple(p for p in parts if p in group)
        shares[name] = table_CS.size * (effect / 2) ** 2 / total
    rest = max(0.0, 1 - sum(shares.values()))
    remark = "" if table_CS.shape[1] > 1 else "one seed: noise is inside the shares"
    return VarianceShares(shares=shares, seeds=rest, reason=remark)
