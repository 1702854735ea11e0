"""A mixed model for tables with missing cells: score ~ variant + (1|dataset) + (1|dataset:variant).

Variances by restricted maximum likelihood (Patterson and Thompson, Biometrika 58, 1971), effects by
generalized least squares. The likelihood is written for this one design, whose datasets are
independent and have a covariance that is inverted by hand: a general library takes minutes for
sixty variants on a hundred datasets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from analysis.stats.intervals import Array, Interval, has_spread
from analysis.stats.multiple import holm

MAX_STEPS = 2000
INSEPARABLE = "with one seed per cell, interaction and seed noise are one variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedEffect:
    """A variant minus the baseline. ``p`` and the interval are those of t with (D-1)(V-1) degrees
    of freedom; ``normal_p`` is that of the normal distribution, too small for few datasets.
    """

    variant: str
    difference: float
    standard_error: float | None
    interval: Interval | None
    p: float | None
    normal_p: float | None
    holm_p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedModel:
    """Effects against the baseline and the variances of dataset, dataset x variant and seed.

    Variances are None where the design cannot tell them apart; ``reason`` says what is missing.
    """

    effects: tuple[MixedEffect, ...] = ()
    var_dataset: float | None = None
    var_interaction: float | None = None
    var_seed: float | None = None
    num_scores: int = 0
    num_missing: int = 0
    reason: str = ""


def mixed_model(scores_VDS: Array, names: Sequence[str], *, baseline: int = 0) -> MixedModel:
    """Fit by REML. Scores (V, D, S), NaN where missing; variant ``baseline`` is the reference.

    With one seed per cell the interaction is the residual. A variant without seeds must stand as
    one column and NaN, never as copies. Seeds that never differ are one column: a fit would invent
    a noise from them.
    """
    scores_VDS = _without_copies(scores_VDS)
    known = np.isfinite(scores_VDS)
    counted = MixedModel(num_scores=int(known.sum()), num_missing=int((~known).sum()))
    if reason := _not_applicable(scores_VDS, known, names):
        return replace(counted, reason=reason)
    cells = _Cells.of(scores_VDS, known)
    replicated = bool((cells.counts_VD > 1).any())
    fit, interaction, between, remark = _fitted(cells, replicated)
    effects, covariance = fit.effects_V, fit.noise * np.linalg.inv(fit.information_VV)
    others = [v for v in range(len(names)) if v != baseline]
    errors = [
        covariance[v, v] + covariance[baseline, baseline] - 2 * covariance[v, baseline]
        for v in others
    ]
    remark += "" if replicated else INSEPARABLE
    return replace(
        counted,
        effects=_effects(
            [names[v] for v in others],
            [float(effects[v] - effects[baseline]) for v in others],
            [math.sqrt(max(float(error), 0.0)) for error in errors],
            (int(known.any(axis=(0, 2)).sum()) - 1) * (len(names) - 1),
        ),
        var_dataset=between * fit.noise,
        var_interaction=interaction * fit.noise if replicated else fit.noise,
        var_seed=fit.noise if replicated else None,
        reason=remark.removesuffix("; "),
    )


class _Cells(NamedTuple):
    """What the likelihood needs: mean and number of scores of every cell, and the sum of squares
    within cells.
    """

    means_VD: Array
    counts_VD: Array
    within: float

    @classmethod
    def of(cls, scores_VDS: Array, known: Array) -> "_Cells":
        counts = known.sum(axis=2)
        means = np.where(known, scores_VDS, 0.0).sum(axis=2) / np.maximum(counts, 1)
        rest = np.where(known, scores_VDS - means[:, :, None], 0.0)
        return cls(means, counts.astype(np.float64), float((rest**2).sum()))


class _Fit(NamedTuple):
    """A level per variant given the ratios of the variances, with its information matrix, the
    variance of the noise, and the criterion: -2 log of the restricted likelihood.
    """

    effects_V: Array
    information_VV: Array
    noise: float
    criterion: float


def _fit(cells: _Cells, interaction: float, between: float) -> _Fit:
    """The fit where the variances of interaction and datasets are these multiples of the noise.

    Within a dataset, the covariance of the cell means is diagonal but for one variance that all of
    them share, so that it is inverted by the formula of Sherman and Morrison, all datasets at once.
    """
    means, counts, within = cells
    known = counts > 0
    own = interaction + 1 / np.maximum(counts, 1)
    weight_VD = np.where(known, 1 / own, 0.0)
    shared_D = between / (1 + between * weight_VD.sum(axis=0))
    information = np.diag(weight_VD.sum(axis=1)) - (weight_VD * shared_D) @ weight_VD.T

    def weighted(values_VD: Array) -> Array:
        common_D: Array = shared_D * (weight_VD * values_VD).sum(axis=0)
        return np.asarray(weight_VD * (values_VD - common_D), dtype=np.float64)

    effects = np.linalg.solve(information, weighted(means).sum(axis=1))
    rest = np.where(known, means - effects[:, None], 0.0)
    freedom = float(counts.sum()) - len(effects)
    noise = max((within + float((rest * weighted(rest)).sum())) / freedom, np.finfo(float).tiny)
    criterion = (
        freedom * math.log(noise)
        + float(np.log((own * counts)[known]).sum())
        + float(np.log1p(between * weight_VD.sum(axis=0)).sum())
        + float(np.linalg.slogdet(information)[1])
    )
    return _Fit(effects, information, noise, criterion)


def _fitted(cells: _Cells, replicated: bool) -> tuple[_Fit, float, float, str]:
    """The fit, the ratios of the variances of interaction and datasets to the noise, and what to
    say where the search did not converge.

    The search is over square roots, which may be zero: a variance of zero is no edge of it.
    """

    def ratios(roots: Array) -> tuple[float, float]:
        squares = np.square(roots).tolist()
        return (squares[0], squares[1]) if replicated else (0.0, squares[0])

    found = optimize.minimize(
        lambda roots: _fit(cells, *ratios(roots)).criterion,
        np.sqrt(_first_guess(cells))[0 if replicated else 1 :],
        method="Nelder-Mead",
        options={"maxiter": MAX_STEPS, "xatol": 1e-7, "fatol": 1e-9},
    )
    remark = "" if found.success else "the fit did not converge, so read it with care; "
    interaction, between = ratios(found.x)
    return _fit(cells, interaction, between), interaction, between, remark


def _first_guess(cells: _Cells) -> Array:
    """Ratios of the variances of interaction and datasets to the noise, from sums of squares."""
    fixed = _fit(cells, 1.0, 0.0).effects_V
    known = cells.counts_VD > 0
    rest = np.where(known, cells.means_VD - fixed[:, None], np.nan)
    total, num = np.nansum(rest, axis=0), known.sum(axis=0)
    dataset = np.where(num > 0, total / np.maximum(num, 1), np.nan)
    spread = float(np.nanvar(rest - dataset))
    freedom = float((cells.counts_VD - 1)[known].sum())
    noise = cells.within / freedom if cells.within > 0 else spread
    guess = np.array([spread, float(np.nanvar(dataset))]) / max(noise, np.finfo(float).tiny)
    return np.clip(guess, 0.01, 1e6)


def _not_applicable(scores_VDS: Array, known: Array, names: Sequence[str]) -> str:
    num_variants, num_datasets = known.shape[0], int(known.any(axis=(0, 2)).sum())
    if len(names) != num_variants:
        raise ValueError(f"one name per variant, got {len(names)} names for {num_variants}")
    if num_variants < 2 or num_datasets < 3:
        return (
            "a mixed model needs at least 2 variants and 3 datasets, got "
            f"{num_variants} and {num_datasets}"
        )
    if empty := [names[v] for v in range(num_variants) if not known[v].any()]:
        return f"there is no score for {', '.join(empty)}"
    if not has_spread(scores_VDS[known.astype(bool)]):
        return "all scores are equal, so there is nothing to model"
    if not _left_over(scores_VDS, known):
        return "the differences are the same on every dataset, so no noise is left to compare with"
    return ""


def _without_copies(scores_VDS: Array) -> Array:
    """One column where no cell differs over its seeds, otherwise the scores."""
    known = np.isfinite(scores_VDS)
    filled = np.where(known, scores_VDS, 0.0)
    means = filled.sum(axis=2, keepdims=True) / np.maximum(known.sum(axis=2, keepdims=True), 1)
    if known.sum() == 0 or np.abs(np.where(known, scores_VDS - means, 0.0)).max() > 1e-9:
        return scores_VDS
    return np.where(known.any(axis=2, keepdims=True), means, np.nan)


def _left_over(scores_VDS: Array, known: Array) -> bool:
    """Whether anything is left of the scores after a level per variant and a level per dataset."""
    variant, dataset, _ = np.nonzero(known)
    design = np.column_stack(
        [variant[:, None] == np.unique(variant), dataset[:, None] == np.unique(dataset)]
    )
    values = scores_VDS[known.astype(bool)]
    fitted = design @ np.linalg.lstsq(design.astype(float), values, rcond=None)[0]
    return bool(np.abs(values - fitted).max() > 1e-9)


def _effects(
    names: Sequence[str], values: Sequence[float], errors: Sequence[float], df: int
) -> tuple[MixedEffect, ...]:
    made = []
    for name, value, error in zip(names, values, errors, strict=True):
        sure = math.isfinite(error) and error > 1e-9
        half = float(stats.t.ppf(0.975, df)) * error if sure else 0.0
        made.append(
            MixedEffect(
                variant=name,
                difference=value,
                standard_error=error if sure else None,
                interval=Interval(value - half, value + half) if sure else None,
                p=2 * float(stats.t.sf(abs(value) / error, df)) if sure else None,
                normal_p=2 * float(stats.norm.sf(abs(value) / error)) if sure else None,
            )
        )
    adjusted = holm([effect.p for effect in made])
    return tuple(replace(e, holm_p=p) for e, p in zip(made, adjusted, strict=True))
