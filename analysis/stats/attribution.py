"""What is each part worth? Main effects, interactions and Shapley values of toggle grids.

A toggle grid switches k parts on and off. ``cells`` maps the set of parts that are on to scores
(D, S), fractions, NaN where missing; every cell has the same datasets and seeds. All effects are
contrasts of cells, so each has a value per dataset and seed, and with it intervals and tests like
any comparison. An effect uses the runs of the cells that it needs; see ``unbalanced`` for what is
done where some of them are missing. In an incomplete grid, main effects and interactions of two
parts are given under the assumption that higher interactions are zero, where the cells that have
scores determine them then.

Sources: Shapley, Contributions to the Theory of Games II, 1953; Grabisch and Roubens, Int. J. Game
Theory 28, 1999 (interactions, Moebius transform); Box, Hunter and Hunter, Statistics for
Experimenters, 2nd edition, 2005 (two-level designs, aliases).
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from analysis.stats.decision import Judgment
from analysis.stats.decision import judge as default_judge
from analysis.stats.intervals import Array, dataset_means
from analysis.stats.mean_tests import SeedMeans
from analysis.stats.unbalanced import SHIFT, contrast_means

Parts = frozenset[str]
Cells = Mapping[Parts, Array]
Cell = TypeVar("Cell", bound=Hashable)
Judge = Callable[[Sequence[Array | SeedMeans]], tuple[Judgment, ...]]
KnownPair = Callable[[Cell, Cell], Judgment | None]
"""The judgment of one cell against another, where the pair has one elsewhere."""
Contrast = Mapping[Parts, float]
Named = tuple[str, tuple[str, ...]]
"""The kind of an effect and its parts."""

NO_TWO, NO_THREE = "no two parts interact", "no three parts interact"

MAX_PARTS = 8
ROUNDOFF = 1e-9
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

    ``judgment`` has the claims of both scopes, adjusted within the kind; that of two cells is the
    judgment of the pair, where it has one elsewhere. ``assumptions`` are those beyond what every
    effect assumes. What does not exist is None and ``reason`` says why.
    """

    kind: str
    parts: tuple[str, ...]
    value: float | None
    judgment: Judgment
    per_dataset: tuple[float | None, ...] = field(default=(), metadata={"in_files": False})
    assumptions: tuple[str, ...] = ()
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

    def by_value(self, direction: int = 1) -> tuple[str, ...]:
        """The parts, the most valuable first, by the best estimate that each of them has;
        ``direction`` is -1 where less is better.
        """
        best: dict[str, float] = {}
        for kind in ("add_one_in", "leave_one_out", "main", "shapley"):
            best |= {e.parts[0]: direction * e.value for e in self.of(kind) if e.value is not None}
        return tuple(sorted(self.parts, key=lambda part: -best.get(part, -math.inf)))


class Wanted(NamedTuple, Generic[Cell]):
    """An effect as a contrast of cells, and what it assumes of the cells that have no scores."""

    parts: tuple[str, ...]
    weights: Mapping[Cell, float]
    assumption: str = ""


def attribute(
    cells: Cells,
    parts: Sequence[str],
    *,
    judge: Judge = default_judge,
    known: KnownPair[Parts] | None = None,
) -> Attribution:
    """All effects that the observed cells determine, each with the claims of both scopes.

    An effect is given where all cells that it needs have scores, or where they follow from those
    that have under an assumption that it states; otherwise it is refused by name. ``known`` has the
    judgments of pairs that are judged elsewhere. Raises ValueError for no or too many parts,
    unknown ones, or cells of different shapes.
    """
    observed = {cell: scores for cell, scores in cells.items() if np.isfinite(scores).any()}
    check_cells(observed, parts)
    assumed = _assumed(observed, parts)
    effects: list[PartEffect] = []
    refused: list[Refusal] = []
    for kind in KINDS:
        found: list[Wanted[Parts]] = []
        for which in _groups(kind, parts):
            weights = contrast(kind, which, parts)
            names = tuple(p for p in parts if p in which)
            if not (lacking := [c for c in weights if c not in observed]):
                found.append(Wanted(names, weights))
            elif (kind, names) in assumed:
                found.append(assumed[kind, names])
            else:
                reason = f"no scores for {_cell_names(lacking, parts)}"
                refused.append(Refusal(kind=kind, parts=names, reason=reason))
        effects += part_effects(kind, observed, found, judge=judge, known=known)
    complete = len(observed) == 2 ** len(parts)
    return Attribution(
        parts=tuple(parts),
        complete=complete,
        effects=tuple(effects),
        refused=tuple(refused),
        aliases=() if complete else aliases(observed, parts),
        statement=_statement(observed, parts, effects, refused),
        base=_mean(cells.get(frozenset())),
        full=_mean(cells.get(frozenset(parts))),
    )


def _mean(scores_DS: Array | None) -> float | None:
    if scores_DS is None:
        return None
    means = dataset_means(scores_DS)
    return None if np.isnan(means).any() else float(means.mean())


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


def _assumed(
    cells: Cells, parts: Sequence[str]
) -> dict[tuple[str, tuple[str, ...]], Wanted[Parts]]:
    """The effects that the cells determine once higher interactions are taken to be zero.

    Without interactions of three parts, the Shapley value is the main effect. The assumption that
    not even two parts interact is made only where a part has no effect without it.
    """
    if len(cells) == 2 ** len(parts):
        return {}
    found: dict[Named, Wanted[Parts]] = {}
    if (model := _least_squares(cells, parts, 2)) is not None:
        for group, weights in model.items():
            names = tuple(p for p in parts if p in group)
            for kind in ("main", "shapley") if len(group) == 1 else ("interaction",):
                scaled = {cell: 2.0 ** len(group) * w for cell, w in weights.items()}
                found[kind, names] = Wanted(names, scaled, NO_THREE)
    elif not all(_alone(cells, part, parts) for part in parts):
        for group, weights in (_least_squares(cells, parts, 1) or {}).items():
            doubled = {cell: 2.0 * w for cell, w in weights.items()}
            found["main", tuple(group)] = Wanted(tuple(group), doubled, NO_TWO)
    return found


def _least_squares(cells: Cells, parts: Sequence[str], order: int) -> dict[Parts, Contrast] | None:
    """The coefficient of every group of up to ``order`` parts in +-1 coding as a contrast of the
    cells; None where they do not determine the model.
    """
    groups = [group for group in subsets(parts) if len(group) <= order]
    model = np.array([[_sign(cell, group) for group in groups] for cell in cells])
    if np.linalg.matrix_rank(model) < len(groups):
        return None
    return {
        group: {c: w for c, w in zip(cells, row, strict=True) if abs(w) > ROUNDOFF}
        for group, row in zip(groups[1:], np.linalg.pinv(model)[1:].tolist(), strict=True)
    }


def _alone(cells: Cells, part: str, parts: Sequence[str]) -> bool:
    """Whether the part has an effect of its own without assumptions."""
    kinds, which = ("add_one_in", "leave_one_out", "main"), frozenset([part])
    return any(contrast(kind, which, parts).keys() <= cells.keys() for kind in kinds)


def combine(cells: Mapping[Cell, Array], weights: Mapping[Cell, float]) -> Array:
    """The weighted sum of cells, (D, S); NaN where a cell that is needed has no score."""
    return np.asarray(sum(w * cells[cell] for cell, w in weights.items()), dtype=np.float64)


def estimate(
    cells: Mapping[Cell, Array], weights: Mapping[Cell, float]
) -> tuple[Array | SeedMeans, tuple[str, ...]]:
    """A contrast of cells, and what it assumes of the seeds: paired values (D, S) of two cells, or
    what both sides tell where they share no seed; paired values of more cells where every seed has
    all runs or none, otherwise least squares. A dataset that lacks a cell tells nothing.
    """
    if len(weights) == 2:
        pairs = combine(cells, weights)
        alone = SeedMeans.unpaired(*(cells[cell] for cell in _sides(weights)))
        return (pairs if np.isfinite(pairs).any() else alone), ()
    scores_CDS = np.stack([cells[cell] for cell in weights])
    known_CDS = np.isfinite(scores_CDS)
    known_CDS &= known_CDS.any(axis=2, keepdims=True).all(axis=0)
    if (known_CDS.any(axis=0) == known_CDS.all(axis=0)).all():
        return combine(cells, weights), ()
    return contrast_means(scores_CDS, list(weights.values())), (SHIFT,)


def part_effects(
    kind: str,
    cells: Mapping[Cell, Array],
    found: Sequence[Wanted[Cell]],
    *,
    judge: Judge = default_judge,
    known: KnownPair[Cell] | None = None,
) -> list[PartEffect]:
    """Effects of one kind as one family for ``judge``, but for pairs that are ``known``."""
    estimates = [estimate(cells, wanted.weights) for wanted in found]
    judgments = judge([values for values, _ in estimates])
    made = []
    for wanted, (values, seeds), judgment in zip(found, estimates, judgments, strict=True):
        pair = known(*_sides(wanted.weights)) if known and len(wanted.weights) == 2 else None
        assumptions = (*filter(None, [wanted.assumption]), *seeds)
        effect = _effect(kind, wanted.parts, values, pair or judgment, assumptions)
        made.append(effect if pair else _with_datasets(effect))
    return made


def _with_datasets(effect: PartEffect) -> PartEffect:
    """The effect with a remark where it could not use all datasets."""
    num = sum(value is not None for value in effect.per_dataset)
    if num in (0, len(effect.per_dataset)):
        return effect
    remark = f"{num} of {len(effect.per_dataset)} datasets have the runs that it needs"
    return replace(effect, reason="; ".join(filter(None, (effect.reason, remark))))


def _sides(weights: Mapping[Cell, float]) -> tuple[Cell, Cell]:
    """The cell that is added and the one that is subtracted."""
    more, less = sorted(weights, key=lambda cell: -weights[cell])
    return more, less


def _effect(
    kind: str,
    names: tuple[str, ...],
    values: Array | SeedMeans,
    judgment: Judgment,
    assumptions: tuple[str, ...],
) -> PartEffect:
    means = _by_dataset(values)
    known = means[np.isfinite(means)]
    reasons = dict.fromkeys((judgment.these.reason, judgment.like.reason))
    return PartEffect(
        kind=kind,
        parts=names,
        value=float(known.mean()) if known.size else None,
        judgment=judgment,
        per_dataset=tuple(None if math.isnan(m) else float(m) for m in means),
        assumptions=assumptions,
        reason="; ".join(filter(None, reasons)),
    )


def _by_dataset(values: Array | SeedMeans) -> Array:
    return values.values if isinstance(values, SeedMeans) else dataset_means(values)


def _cell_name(cell: Parts, parts: Sequence[str]) -> str:
    return "{" + ", ".join(p for p in parts if p in cell) + "}"


def _cell_names(cells: Sequence[Parts], parts: Sequence[str]) -> str:
    shown = ", ".join(_cell_name(cell, parts) for cell in cells[:3])
    return shown if len(cells) <= 3 else f"{shown} and {len(cells) - 3} more cells"


def _statement(
    cells: Cells, parts: Sequence[str], effects: Sequence[PartEffect], refused: Sequence[Refusal]
) -> str:
    """What this design gives, what it assumes for it, and what it does not give."""
    total = 2 ** len(parts)
    if len(cells) == total:
        said = [f"complete grid of {len(parts)} parts: all {total} cells have scores"]
    else:
        said = [f"{_design(cells, parts)}: {len(cells)} of {total} cells have scores"]
        free = _kinds(e.kind for e in effects if not {NO_TWO, NO_THREE} & {*e.assumptions})
        said.append(f"Estimable without assumptions: {free or 'nothing'}")
        for assumption in (NO_THREE, NO_TWO):
            if under := _kinds(e.kind for e in effects if assumption in e.assumptions):
                said.append(f"Estimable if {assumption}: {under}")
        said.append(f"Not estimable for all parts: {_kinds(r.kind for r in refused)}")
    return ". ".join((*said, *_missing(cells, effects)))


def _missing(cells: Cells, effects: Sequence[PartEffect]) -> list[str]:
    """What is done about missing runs, where an effect needs them."""
    if not any(SHIFT in effect.assumptions for effect in effects):
        return []
    known_CDS = np.isfinite(np.stack(list(cells.values())))
    datasets, seeds = (int(known_CDS.any(axis=axes).sum()) for axes in ((0, 2), (0, 1)))
    total = len(cells) * datasets * seeds
    said = [
        f"{total - int(known_CDS.sum())} of {total} runs are missing. An effect of two cells uses "
        "their pairs of runs; an effect of more cells is a least-squares fit on the assumption "
        f"that {SHIFT}"
    ]
    fitted = {e.kind for e in effects if SHIFT in e.assumptions}
    if "shapley" in fitted and any(e.kind == "full_minus_base" for e in effects):
        said.append(
            "Shapley values add up to the difference of all on and all off in that fit, which can "
            "differ from the one of their pairs of runs"
        )
    return said


def _kinds(kinds: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(map(_kind_text, kinds)))


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
        if not np.allclose(resolution[row], unit, atol=ROUNDOFF):
            mixed = [
                p
                for i, p in enumerate(parts, start=1)
                if i != row and abs(resolution[row, i]) > ROUNDOFF
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
            if len(group) > 1 and abs(share) > ROUNDOFF:
                mixed_with[tuple(p for p in parts if p in group)] = round(share, 9)
        means = _by_dataset(estimate(cells, weights)[0])
        known = means[~np.isnan(means)]
        value = float(known.mean()) if known.size else None
        made.append(Alias(part=part, value=value, with_effects=mixed_with))
    return tuple(made)


def _sign(cell: Parts, group: Parts) -> float:
    """Product of +1 for parts that are on and -1 for parts that are off."""
    return (-1.0) ** len(group - cell)
