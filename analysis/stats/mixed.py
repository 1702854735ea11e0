"""A mixed model for tables with missing cells: score ~ variant + (1|dataset) + (1|dataset:variant).

The library is given arrays, never a formula: a formula looks names up in the caller, and would read
a variant's name as code.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from analysis.stats.intervals import Array, Interval, has_spread
from analysis.stats.multiple import holm

MAX_STEPS = 2000
INSEPARABLE = "with one seed per cell, interaction and seed noise are one variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedEffect:
    """A variant minus the baseline. ``p`` and the interval are those of t with (D-1)(V-1) degrees
    of freedom; ``normal_p`` is the library's, too small for few datasets.
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

    A random intercept for the dataset is requested explicitly: otherwise the library fits none, and
    standard errors are those of the spread between datasets. With one seed per cell the interaction
    is the residual. A variant without seeds must stand as one column and NaN, never as copies.
    Seeds that never differ are one column: a fit would invent a noise from them.
    """
    scores_VDS = _without_copies(scores_VDS)
    known = np.isfinite(scores_VDS)
    counted = MixedModel(num_scores=int(known.sum()), num_missing=int((~known).sum()))
    if reason := _not_applicable(scores_VDS, known, names):
        return replace(counted, reason=reason)
    cells = sorted((c for c in product(*map(range, known.shape)) if known[c]), key=lambda c: c[1])
    variants, datasets = (np.array([c[axis] for c in cells]) for axis in (0, 1))
    others = [v for v in range(len(names)) if v != baseline]
    design = np.column_stack([np.ones(len(cells)), *(variants == v for v in others)]).astype(float)
    values = np.array([scores_VDS[c] for c in cells])
    unit = float(values.std())
    groups = [np.flatnonzero(datasets == d) for d in np.unique(datasets)]
    replicated = bool((known.sum(axis=2) > 1).any())
    mats = [(variants[g][:, None] == np.unique(variants[g])).astype(float) for g in groups]
    model = MixedLM(
        values / unit,
        design,
        groups=datasets,
        exog_re=np.ones((len(cells), 1)),
        exog_vc=_interaction(mats) if replicated else None,
    )
    fit, remark = _fitted(model)
    shares = fit.scale, np.asarray(fit.cov_re)[0, 0], fit.vcomp[0] if replicated else 0.0
    noise, between, interaction = (float(share) * unit**2 for share in shares)
    covariance = _covariance([design[g] for g in groups], mats, noise, between, interaction)
    remark += "" if replicated else INSEPARABLE
    return replace(
        counted,
        effects=_effects(
            [names[v] for v in others],
            (np.asarray(fit.fe_params) * unit)[1:].tolist(),
            np.sqrt(np.diag(covariance))[1:].tolist(),
            (len(groups) - 1) * (len(names) - 1),
        ),
        var_dataset=between,
        var_interaction=interaction if replicated else noise,
        var_seed=noise if replicated else None,
        reason=remark.removesuffix("; "),
    )


def _interaction(mats: Sequence[Array]) -> VCSpec:
    """One variance for all columns, which say within each dataset what belongs to which variant."""
    columns = [[str(column) for column in range(mat.shape[1])] for mat in mats]
    return VCSpec(["interaction"], [columns], [list(mats)])


def _fitted(model: MixedLM) -> tuple[Any, str]:
    """The fit, without its warnings, and what to say where it did not converge.

    By Nelder and Mead's simplex: the library's gradient methods, its default, stop far from the
    maximum where a variance is near zero, and may say that they converged.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit = model.fit(reml=True, method="nm", maxiter=MAX_STEPS)
    doubtful = not fit.converged or any("converge" in str(w.message) for w in said)
    return fit, "the fit did not converge, so read it with care; " if doubtful else ""


def _covariance(
    designs: Sequence[Array],
    mats: Sequence[Array],
    noise: float,
    between: float,
    interaction: float,
) -> Array:
    """Covariance of the fixed effects by generalized least squares, given the variances.

    The library inverts the curvature in all parameters together, which is singular where a
    variance is zero.
    """
    precision = np.zeros((designs[0].shape[1],) * 2)
    for design, mat in zip(designs, mats, strict=True):
        size = len(design)
        spread = noise * np.eye(size) + between * np.ones((size, size)) + interaction * mat @ mat.T
        precision += design.T @ np.linalg.pinv(spread) @ design
    return np.asarray(np.linalg.pinv(precision), dtype=np.float64)


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
