"""What a report is made from: a table of scores and everything that qualifies it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import Array
from core.metrics import harmonic_mean
from core.store.manifest import check_known

BASE_TO_NEW = ("base", "new", "hm")

RunKey = tuple[str, str, int | None]
"""Variant, dataset and seed."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One of several sources: its name, where it is, and its variants and seeds.

    ``paired``: its seeds are the same draws of the data as equal seeds of the first source.
    """

    name: str
    path: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    paired: bool


def _empty() -> pd.DataFrame:
    return pd.DataFrame()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Scores of a study or of a CSV file, ready for statistics.

    ``frame`` has one row per measurement: variant, dataset, seed (Int64, <NA> for a method without
    randomness) and one column of fractions per metric. ``planned_seeds`` are the seeds a complete
    cell has. ``aliases`` maps an inert variant, whose runs are another variant's runs, to that
    variant. ``shared_seeds`` says that one trained model was scored on several datasets; then
    ``source_accuracy`` has the mean accuracy of each variant on what it was trained on, which is
    not a target. ``curve`` maps the metrics that are points of a few-shot curve to their numbers of
    shots, in order. ``trained_on_test`` has the variants whose training saw test images, and how
    many at most. ``levels`` has the levels of the factors in their order where it is known.
    ``lower_is_better`` are the metrics that measure an error or a cost. Scores stay in the unit
    they were given in, whatever the direction.
    ``provenance`` says of every row of ``frame`` where it comes from: shots, code, data, run, and
    counts where they are exact. ``origins`` are the sources where there are several. ``devices``
    maps the devices that made runs (several where a training went on on another, none where the
    record names none) to them, as (variant, dataset, seed); it is empty where no record names any.
    ``costs`` and ``runs`` are frames for display; they never enter a test.
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
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shots: tuple[int, ...] = ()
    batch_coupled: tuple[str, ...] = ()
    trained_on_test: Mapping[str, int] = field(default_factory=dict)
    shared_seeds: bool = False
    source_accuracy: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, int] = field(default_factory=dict)
    lower_is_better: frozenset[str] = frozenset()
    origins: tuple[Origin, ...] = ()
    environment: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    devices: Mapping[tuple[str, ...], tuple[RunKey, ...]] = field(default_factory=dict)
    provenance: pd.DataFrame = field(default_factory=_empty)
    costs: pd.DataFrame = field(default_factory=_empty)
    runs: pd.DataFrame = field(default_factory=_empty)
    _with_rows: set[str] = field(default_factory=set, init=False, repr=False)
    _seeded: dict[str, bool] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[tuple[str, str], Array] = field(default_factory=dict, init=False, repr=False)
    _cubes: dict[tuple[tuple[str, ...], str, bool], Array] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def primary_metric(self) -> str:
        """The metric whose comparisons the headline is about: hm where it exists, otherwise the
        first.
        """
        if self.primary:
            return self.primary
        return "hm" if "hm" in self.metrics else self.metrics[0]

    @property
    def num_seeds(self) -> int:
        """Number of seeds of a complete cell; 1 where no variant has seeds."""
        return max(len(self.planned_seeds), 1)

    def direction(self, metric: str) -> int:
        """+1 for a metric of which higher is better, -1 for one of which lower is."""
        return -1 if metric in self.lower_is_better else 1

    def origin(self, variant: str) -> Origin | None:
        """The source of a variant where there are several sources."""
        return next((o for o in self.origins if variant in o.variants), None)

    def planned(self, variant: str) -> int:
        """The number of measurements of a complete cell of a variant."""
        if not self.seeded(variant):
            return 1
        origin = self.origin(variant)
        return len(self.planned_seeds if origin is None else origin.seeds)

    def seeded(self, variant: str) -> bool:
        """False for a variant that has one measurement per dataset and no seed."""
        if variant not in self._seeded:
            rows = self.frame.loc[self.frame["variant"] == variant, "seed"]
            self._seeded[variant] = bool(rows.notna().any())
        return self._seeded[variant]

    def cube(self, variants: Sequence[str], metric: str, *, repeat_unseeded: bool = True) -> Array:
        """Scores of several variants, (V, D, S) float64, NaN where missing, read-only and cached.

        V follows ``variants``, D ``datasets`` and S ``planned_seeds``. A variant without seeds has
        one measurement per dataset, which is repeated along S, so that it is paired with every seed
        of the others; S is 1 where none of ``variants`` has seeds. With ``repeat_unseeded`` False
        that measurement stands in the first column alone and the others are NaN: for models that
        would take copies for independent runs.
        """
        key = (tuple(variants), metric, repeat_unseeded)
        if key not in self._cubes:
            tables = [self.scores(variant, metric) for variant in variants]
            num_seeds = max((table.shape[1] for table in tables), default=1)
            cube = np.full((len(tables), len(self.datasets), num_seeds), np.nan)
            for scores_DS, table in zip(cube, tables, strict=True):
                width = num_seeds if repeat_unseeded else table.shape[1]
                scores_DS[:, :width] = table
            cube.flags.writeable = False
            self._cubes[key] = cube
        return self._cubes[key]

    def scores(self, variant: str, metric: str) -> Array:
        """Scores of one variant as measured, (D, S), NaN where missing; (D, 1) for a variant
        without seeds. D follows ``datasets``. Read-only and cached.
        """
        if (variant, metric) not in self._tables:
            table = self._table(variant, metric)
            table.flags.writeable = False
            self._tables[variant, metric] = table
        return self._tables[variant, metric]

    def _table(self, variant: str, metric: str) -> Array:
        rows = self.frame[self.frame["variant"] == variant]
        seeded = bool(rows["seed"].notna().any())
        row_of = {d: i for i, d in enumerate(self.datasets)}
        column_of = {s: i for i, s in enumerate(self.planned_seeds)} if seeded else {}
        table = np.full((len(row_of), len(column_of) if seeded else 1), np.nan)
        for dataset, seed, value in zip(rows["dataset"], rows["seed"], rows[metric], strict=True):
            table[row_of[dataset], column_of[int(seed)] if seeded else 0] = value
        return table

    def not_comparable(self, variant: str, reference: str) -> str:
        """Why two variants may not be ranked together, "" where they may.

        A method without training has no regime and no selection: only its protocol counts.
        """
        if variant == reference:
            return ""
        if reason := self.unfinished(variant):
            return reason
        if reason := self.unfinished(reference):
            return f"{reference} has {reason}"
        one = self.settings.get(variant, Setting())
        two = self.settings.get(reference, Setting())
        if self.seeded(variant) and self.seeded(reference):
            return one.differs(two)
        return Setting(protocol=one.protocol).differs(Setting(protocol=two.protocol))

    def unfinished(self, variant: str) -> str:
        """Why a variant has no finished run at all, "" where it has one."""
        if variant in self.settings or self._has_rows(variant):
            return ""
        kinds = Counter(p.kind for p in self.problems if p.variant == variant)
        if set(kinds) <= {"missing"}:
            return "no run yet"
        return f"no finished run ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))})"

    def _has_rows(self, variant: str) -> bool:
        if not self._with_rows:
            self._with_rows.update(map(str, self.frame["variant"]))
        return variant in self._with_rows

    def ranked(self) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """The variants that may be ranked with the baseline, without inert copies, and why the
        others may not.
        """
        kept: list[str] = []
        left_out: list[tuple[str, str]] = []
        for variant in self.variants:
            if variant in self.aliases:
                left_out.append((variant, f"the same runs as {self.aliases[variant]}"))
            elif reason := self.not_comparable(variant, self.baseline):
                left_out.append((variant, reason))
            else:
                kept.append(variant)
        return tuple(kept), tuple(left_out)

    def what_differs(self, variant: str, reference: str) -> tuple[tuple[str, str, str], ...]:
        """Factors on which two variants differ: (name, level of the reference, level of the
        variant).
        """
        if self.origin(variant) != self.origin(reference):
            return ()
        one, two = self.factors.get(variant, {}), self.factors.get(reference, {})
        names = sorted({*one, *two})
        pairs = ((name, two.get(name, "unset"), one.get(name, "unset")) for name in names)
        return tuple(pair for pair in pairs if pair[1] != pair[2])


def with_choices(
    results: Results,
    *,
    baseline: str | None = None,
    references: Sequence[str] | None = None,
    metric: str | None = None,
) -> Results:
    """The same results with another baseline, other references or another metric in the headline.

    Raises ValueError for an unknown name.
    """
    new_baseline = results.baseline if baseline is None else baseline
    new_references = results.references if references is None else tuple(references)
    check_known("baseline", new_baseline, results.variants)
    for reference in new_references:
        check_known("reference", reference, results.variants)
    if metric is not None:
        check_known("metric", metric, results.metrics)
    return replace(
        results,
        baseline=new_baseline,
        references=tuple(dict.fromkeys(r for r in new_references if r != new_baseline)),
        primary=results.primary if metric is None else metric,
    )


def metric_order(frame: pd.DataFrame) -> tuple[str, ...]:
    """The metrics of a frame: base, new and hm first, the others in the order of their columns."""
    columns = [c for c in frame.columns if c not in ("variant", "dataset", "seed")]
    known = [m for m in BASE_TO_NEW if m in columns]
    return (*known, *(c for c in columns if c not in known))


def add_hm(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the harmonic mean of each row's base and new, where it has both columns; NaN
    where one of them is.
    """
    if not {"base", "new"} <= set(frame.columns):
        return frame
    pairs = [(float(b), float(n)) for b, n in zip(frame["base"], frame["new"], strict=True)]
    return frame.assign(hm=[np.nan if np.isnan(b + n) else harmonic_mean(b, n) for b, n in pairs])


def seed_array(seeds: Sequence[int | None]) -> Any:
    """A column of seeds, <NA> for a measurement without one: whole numbers up to 2^64 - 1, exactly.

    pandas keeps them in 64 bits; seeds beyond a signed integer must all be unsigned.
    """
    large = max((s for s in seeds if s is not None), default=0) >= 2**63
    return pd.array(list(seeds), dtype="UInt64" if large else "Int64")
