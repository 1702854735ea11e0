"""What is each part worth? Main effects, interactions and Shapley values of toggle grids.

A toggle grid switches k parts on and off. ``cells`` maps the set of parts that are on to scores
(D, S), fractions, NaN where missing; every cell has the same datasets and seeds. All effects are
linear in the cells, so each has a value per dataset and seed, and with it intervals and tests like
any comparison.

Sources: Shapley, Contributions to the Theory of Games II, 1953; Grabisch and Roubens, Int. J. Game
Theory 28, 1999 (interactions, Moebius transform); Box, Hunter and Hunter, Statistics for
Experimenters, 2nd edition, 2005 (two-level designs, aliases).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from analysis.stats.decision import Judgment
from analysis.stats.decision import judge as default_judge
from analysis.stats.intervals import Array, dataset_means

Parts = frozenset[str]
Cells = Mapping[Parts, Array]
Judge = Callable[[Sequence[Array]], tuple[Judgment, ...]]
Contrast = Mapping[Parts, float]

MAX_PARTS = 8
KINDS = ("full_minus_base", "shapley", "main", "add_one_in", "leave_one_out", "interaction")
"""All parts on minus all off; share of that gain averaged over all orders of adding parts; on minus
off averaged over the other parts; the part alone minus all off; all on minus all but the part; what
parts do together beyond their smaller groups (Moebius).
"""


def subsets(parts: Iterable[str]) -> list[Parts]:
    """All subsets, by size and then in the order of the parts."""
    names = tuple(parts)
    return [frozenset(c) for size in range(len(names) + 1) for c in combinations(names, size)]


def contrast(kind: str, which: Parts, parts: Sequence[str]) -> dict[Parts, float]:
    """An effect as weights on cells. ``which`` is the part as a set, a group for interactions, and
    ignored for ``full_minus_base``.
    """
    everything, k = frozenset(parts), len(parts)
    if kind == "full_minus_base":
        return {everything: 1.0, frozenset(): -1.0}
    if kind == "add_one_in":
        return {which: 1.0, frozenset(): -1.0}
    if kind == "leave_one_out":
        return {everything: 1.0, everything - which: -1.0}
    if kind == "interaction":
        return {small: (-1.0) ** (len(which) - len(small)) for small in subsets(sorted(which))}
    weights: dict[Parts, float] = {}
    for others in subsets(p for p in parts if p not in which):
        share = 0.5 ** (k - 1)
        if kind == "shapley":
            size = len(others)
            share = math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)
        weights[others | which], weights[others] = share, -share
    return weights


def coded_interaction(which: Parts, parts: Sequence[str]) -> dict[Parts, float]:
    """The interaction of +-1 coding, twice the least-squares coefficient; for one part the main
    effect. Unlike Moebius it averages over the other parts instead of having them off.
    """
    share = 0.5 ** (len(parts) - 1)
    return {cell: share * (-1.0) ** len(which - cell) for cell in subsets(parts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEffect:
    """One effect: ``parts`` is one name, a group for interactions, empty for the whole.

    ``judgment`` has the claims of both scopes, adjusted within the kind. What does not exist is
    None and ``reason`` says why.
    """

    kind: str
    parts: tuple[str, ...]
    value: float | None
    judgment: Judgment
    per_dataset: tuple[float | None, ...] = field(default=(), metadata={"in_files": False})
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An effect that these cells cannot give, and why."""

    kind: str
    parts: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """On minus off over the observed cells of one part, and what it is mixed with.

    ``with_effects`` maps groups of parts to the weight with which their (coded) interaction enters:
    the number is the part's main effect only where all of these are zero. Empty: it is not aliased.
    """

    part: str
    value: float | None
    with_effects: Mapping[tuple[str, ...], float]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """All effects that the cells give, what they refuse, and what is aliased with what.

    ``complete`` means that every combination of the parts has scores. ``base`` and ``full`` are the
    mean scores with all parts off and with all on, None where a dataset has none.
    """

    parts: tuple[str, ...]
    complete: bool
    effects: tuple[PartEffect, ...]
    refused: tuple[Refusal, ...] = ()
    aliases: tuple[Alias, ...] = ()
    statement: str = ""
    base: float | None = None
    full: float | None = None

    def of(self, kind: str) -> tuple[PartEffect, ...]:
        """The effects of one kind, in the order of the parts."""
        return tuple(effect for effect in self.effects if effect.kind == kind)

    def estimated(self, kind: str) -> dict[tuple[str, ...], PartEffect]:
        """The effects of one kind that have a value, by their parts."""
        return {effect.parts: effect for effect in self.of(kind) if effect.value is not None}

    @property
    def by_value(self) -> tuple[str, ...]:
        """The parts, the most valuable first, by the best estimate that each of them has."""
        best: dict[str, float] = {}
        for kind in ("add_one_in", "leave_one_out", "main", "shapley"):
            best |= {e.parts[0]: e.value for e in self.of(kind) if e.value is not None}
        return tuple(sorted(self.parts, key=lambda part: -best.get(part, -math.inf)))


def attribute(cells: Cells, parts: Sequence[str], *, judge: Judge = default_judge) -> Attribution:
    """All effects that the observed cells determine, each with the claims of both scopes.

    An effect is given where all cells that it needs have scores; otherwise it is refused by name.
    All effects use the runs (dataset and seed) that every observed cell has, so that they add up.
    Raises ValueError for no or too many parts, unknown ones, or cells of different shapes.
    """
    observed = {cell: scores for cell, scores in cells.items() if np.isfinite(scores).any()}
    check_cells(observed, parts)
    observed, left_out = _common(observed)
    effects: list[PartEffect] = []
    refused: list[Refusal] = []
    for kind in KINDS:
        found = []
        for which in _groups(kind, parts):
            weights = contrast(kind, which, parts)
            names = tuple(p for p in parts if p in which)
            if lacking := [c for c in weights if c not in observed]:
                reason = f"no scores for {_cell_names(lacking, parts)}"
                refused.append(Refusal(kind=kind, parts=names, reason=reason))
            else:
                found.append((names, combine(observed, weights)))
        effects += part_effects(kind, found, judge=judge)
    complete = len(observed) == 2 ** len(parts)
    return Attribution(
        parts=tuple(parts),
        complete=complete,
        effects=tuple(effects),
        refused=tuple(refused),
        aliases=() if complete else aliases(observed, parts),
        statement=_statement(observed, parts, effects, refused) + left_out,
        base=_mean(cells.get(frozenset())),
        full=_mean(cells.get(frozenset(parts))),
    )


def _mean(scores_DS: Array | None) -> float | None:
    if scores_DS is None:
        return None
    means = dataset_means(scores_DS)
    return None if np.isnan(means).any() else float(means.mean())


def _common(observed: Cells) -> tuple[dict[Parts, Array], str]:
    """The cells on their common runs, and what is left out in words."""
    scores = np.stack(list(observed.values()))
    some, every = np.isfinite(scores).any(axis=0), np.isfinite(scores).all(axis=0)
    kept = {cell: np.where(every, table, np.nan) for cell, table in observed.items()}
    if (lost := int((some & ~every).sum())) == 0:
        return kept, ""
    return kept, (
        f"; {lost} of {int(some.sum())} pairs of dataset and seed are left out, because a cell "
        "lacks a run"
    )


def check_cells(cells: Cells, parts: Sequence[str]) -> None:
    """Raise ValueError for no or too many parts, unknown ones, or cells of different shapes."""
    if not parts or len(set(parts)) < len(parts):
        raise ValueError(f"attribution needs distinct parts to switch, got {list(parts)}")
    if len(parts) > MAX_PARTS:
        raise ValueError(
            f"attribution takes {MAX_PARTS} parts or fewer ({2**MAX_PARTS} cells), got {len(parts)}"
        )
    if not cells:
        raise ValueError("attribution needs a cell with scores, found none")
    if unknown := sorted({p for cell in cells for p in cell} - set(parts)):
        raise ValueError(f"cells switch {', '.join(unknown)}, but the parts are {', '.join(parts)}")
    if len({np.shape(scores) for scores in cells.values()}) > 1:
        raise ValueError(
            "every cell needs the same datasets and seeds, NaN where a score is missing"
        )


def _groups(kind: str, parts: Sequence[str]) -> list[Parts]:
    if kind == "full_minus_base":
        return [frozenset()]
    if kind == "interaction":
        return [group for group in subsets(parts) if len(group) > 1]
    return [frozenset([part]) for part in parts]


def combine(cells: Cells, weights: Contrast) -> Array:
    """The weighted sum of cells, (D, S); NaN where a cell that is needed has no score."""
    return np.asarray(sum(w * cells[cell] for cell, w in weights.items()), dtype=np.float64)


def part_effects(
    kind: str,
    found: Sequence[tuple[tuple[str, ...], Array]],
    *,
    judge: Judge = default_judge,
) -> list[PartEffect]:
    """Effects of one kind, each from its own values (D, S), as one family for ``judge``."""
    judgments = judge([values for _, values in found])
    return [
        _effect(kind, names, values, judgment)
        for (names, values), judgment in zip(found, judgments, strict=True)
    ]


def _effect(kind: str, names: tuple[str, ...], values_DS: Array, judgment: Judgment) -> PartEffect:
    means = dataset_means(values_DS)
    known = means[np.isfinite(means)]
    reasons = dict.fromkeys((judgment.these.reason, judgment.like.reason))
    return PartEffect(
        kind=kind,
        parts=names,
        value=float(known.mean()) if known.size else None,
        judgment=judgment,
        per_dataset=tuple(None if math.isnan(m) else float(m) for m in means),
        reason="; ".join(filter(None, reasons)),
    )


def _cell_name(cell: Parts, parts: Sequence[str]) -> str:
    return "{" + ", ".join(p for p in parts if p in cell) + "}"


def _cell_names(cells: Sequence[Parts], parts: Sequence[str]) -> str:
    shown = ", ".join(_cell_name(cell, parts) for cell in cells[:3])
    return shown if len(cells) <= 3 else f"{shown} and {len(cells) - 3} more cells"


def _statement(
    cells: Cells, parts: Sequence[str], effects: Sequence[PartEffect], refused: Sequence[Refusal]
) -> str:
    """One sentence: what this design gives and what it does not."""
    total = 2 ** len(parts)
    if len(cells) == total:
        return f"complete grid of {len(parts)} parts: all {total} cells have scores"
    given = ", ".join(dict.fromkeys(_kind_text(e.kind) for e in effects)) or "nothing"
    lost = ", ".join(dict.fromkeys(_kind_text(r.kind) for r in refused))
    return (
        f"{_design(cells, parts)}: {len(cells)} of {total} cells have scores. Estimable without "
        f"assumptions: {given}. Not estimable for all parts: {lost}."
    )


def _kind_text(kind: str) -> str:
    return (
        kind.replace("_", " ").replace("shapley", "Shapley values").replace("main", "main effect")
    )


def _design(cells: Cells, parts: Sequence[str]) -> str:
    everything = frozenset(parts)
    sizes = {len(cell) for cell in cells}
    if everything in cells and sizes <= {len(parts), len(parts) - 1}:
        return "leave-one-out design"
    if frozenset() in cells and sizes <= {0, 1}:
        return "add-one-in design"
    return "incomplete grid"


def aliases(cells: Cells, parts: Sequence[str]) -> tuple[Alias, ...]:
    """What a model of main effects alone would report for each part, and what it is mixed with.

    Least squares on +-1 columns over the observed cells. Where a part cannot be told from others
    even without interactions, there is no value.
    """
    observed = list(cells)
    columns = [frozenset[str](), *(frozenset([p]) for p in parts)]
    model = np.array([[_sign(cell, column) for column in columns] for cell in observed])
    inverse = np.linalg.pinv(model)
    resolution = inverse @ model
    made = []
    for row, part in enumerate(parts, start=1):
        unit = np.arange(len(columns)) == row
        if not np.allclose(resolution[row], unit, atol=1e-9):
            mixed = [
                p
                for i, p in enumerate(parts, start=1)
                if i != row and abs(resolution[row, i]) > 1e-9
            ]
            reason = (
                f"is switched only together with {', '.join(mixed)}"
                if mixed
                else "is never switched"
            )
            made.append(Alias(part=part, value=None, with_effects={}, reason=f"{part} {reason}"))
            continue
        weights = dict(zip(observed, (2 * inverse[row]).tolist(), strict=True))
        mixed_with = {}
        for group in subsets(parts):
            share = sum(w * _sign(cell, group) for cell, w in weights.items()) / 2
            if len(group) > 1 and abs(share) > 1e-9:
                mixed_with[tuple(p for p in parts if p in group)] = round(share, 9)
        means = dataset_means(combine(cells, weights))
        known = means[~np.isnan(means)]
        value = float(known.mean()) if known.size else None
        made.append(Alias(part=part, value=value, with_effects=mixed_with))
    return tuple(made)


def _sign(cell: Parts, group: Parts) -> float:
    """Product of +1 for parts that are on and -1 for parts that are off."""
    return (-1.0) ** len(group - cell)
