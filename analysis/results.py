"""What a report is made from: one tidy frame of scores and everything that qualifies it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.stats import Array
from core.metrics import harmonic_mean

BASE_TO_NEW = ("base", "new", "hm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A planned cell without a usable score. ``kind``: missing, failed, diverged, unreadable or
    inconsistent.
    """

    kind: str
    variant: str
    dataset: str
    seed: int | None
    detail: str

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.kind}: {self.variant} on {self.dataset}{seed}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What decides whether two rows may be ranked together: protocol, regime (what training saw)
    and selection.
    """

    protocol: str = ""
    regime: str = ""
    selection: str = ""

    def differs(self, other: "Setting") -> str:
        """Text of what differs, "" where nothing does."""
        pairs = (
            (name, getattr(self, name), getattr(other, name))
            for name in ("protocol", "regime", "selection")
        )
        return "; ".join(f"{name} {a!r} against {b!r}" for name, a, b in pairs if a != b)


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Scores of a study or of a CSV file, ready for statistics.

    ``frame`` has one row per measurement: variant, dataset, seed (Int64, <NA> for a method without
    randomness) and one column of fractions per metric. ``planned_seeds`` are the seeds a complete
    cell has. ``aliases`` maps an inert variant, whose runs are another variant's runs, to that
    variant. ``shared_seeds`` says that one trained model was scored on several datasets. ``costs``
    and ``runs`` are frames for display; they never enter a test.
    """

    name: str
    frame: pd.DataFrame
    variants: tuple[str, ...]
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    planned_seeds: tuple[int, ...]
    baseline: str
    primary: str = ""
    references: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    inert: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    factors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shots: tuple[int, ...] = ()
    batch_coupled: tuple[str, ...] = ()
    shared_seeds: bool = False
    environment: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    costs: pd.DataFrame = field(default_factory=_empty)
    runs: pd.DataFrame = field(default_factory=_empty)

    @property
    def primary_metric(self) -> str:
        """The metric whose comparisons the headline is about: hm where it exists, otherwise the
        first.
        """
        if self.primary:
            return self.primary
        return "hm" if "hm" in self.metrics else self.metrics[0]

    def seeded(self, variant: str) -> bool:
        """False for a variant that has one measurement a dataset and no seed."""
        rows = self.frame.loc[self.frame["variant"] == variant, "seed"]
        return bool(rows.notna().any())

    def scores(self, variant: str, metric: str) -> Array:
        """Scores as (D, S), NaN where missing; (D, 1) for a variant without seeds. D follows
        ``datasets``.
        """
        seeded = self.seeded(variant)
        table = np.full((len(self.datasets), len(self.planned_seeds) if seeded else 1), np.nan)
        rows = self.frame[self.frame["variant"] == variant]
        for dataset, seed, value in zip(rows["dataset"], rows["seed"], rows[metric], strict=True):
            column = self.planned_seeds.index(int(seed)) if seeded else 0
            table[self.datasets.index(dataset), column] = value
        return table

    def not_comparable(self, variant: str, reference: str) -> str:
        """Why two variants may not be ranked together, "" where they may.

        A method without training has no regime and no selection: only its protocol counts.
        """
        one = self.settings.get(variant, Setting())
        two = self.settings.get(reference, Setting())
        if self.seeded(variant) and self.seeded(reference):
            return one.differs(two)
        return Setting(protocol=one.protocol).differs(Setting(protocol=two.protocol))

    def what_differs(self, variant: str, reference: str) -> tuple[tuple[str, str, str], ...]:
        """Factors on which two variants differ: (name, level of the reference, level of the
        variant).
        """
        one, two = self.factors.get(variant, {}), self.factors.get(reference, {})
        names = sorted({*one, *two})
        pairs = ((name, two.get(name, "unset"), one.get(name, "unset")) for name in names)
        return tuple(pair for pair in pairs if pair[1] != pair[2])


def add_hm(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the harmonic mean of each row's base and new, where it has both columns."""
    if not {"base", "new"} <= set(frame.columns):
        return frame
    pairs = zip(frame["base"], frame["new"], strict=True)
    return frame.assign(hm=[harmonic_mean(float(b), float(n)) for b, n in pairs])
