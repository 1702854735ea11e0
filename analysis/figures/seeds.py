"""Every single run: differences from the baseline, a dot per seed, a panel per dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, literal, name_rows, short
from analysis.stats import Array

ROW, PANEL, COLUMNS = 0.27, 2.55, 4
ABOVE, BELOW = 0.36, 0.52
MAX_PANELS = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedInfo:
    """Paired differences from ``baseline`` of single runs, ``difference`` (V, D, S), fractions, NaN
    where missing.
    """

    baseline: str
    variants: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    difference: Array


def seed_scatter(info: SeedInfo, *, metric: str) -> Figure | None:
    """A dot per run and a panel per dataset; None where there is no pair of runs.

    Of more than ``MAX_PANELS`` datasets, those where the variants differ most from the baseline are
    drawn, and the caption says so; ``info`` holds all.
    """
    if not np.isfinite(info.difference).any():
        return None
    shown, num = _most_different(info), len(info.datasets)
    cut = (
        ""
        if num == len(shown)
        else f" The {len(shown)} of {num} datasets with the largest differences on average."
    )
    return Figure(
        name="seed_scatter",
        title=f"{metric}: every run against {info.baseline}",
        caption=f"One dot per seed: the difference from {info.baseline} with the same dataset and "
        f"seed, in points of {metric}; ▲ above zero, ▼ otherwise. The bar is their mean.{cut}",
        info=info,
        draw=partial(_draw, info, shown),
    )


def _most_different(info: SeedInfo) -> tuple[int, ...]:
    """The places of the datasets that are drawn, in their order."""
    known = np.isfinite(info.difference)
    size = np.where(known, np.abs(info.difference), 0.0).sum(axis=(0, 2))
    mean = size / np.maximum(known.sum(axis=(0, 2)), 1)
    return tuple(sorted(np.argsort(-mean, kind="stable")[:MAX_PANELS].tolist()))


def _draw(info: SeedInfo, shown: Sequence[int], style: Style) -> Canvas:
    values, variants = info.difference[:, list(shown)], info.variants
    datasets = [info.datasets[d] for d in shown]
    columns = min(COLUMNS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    left = label_room(variants, size=9)
    block = ABOVE + BELOW + ROW * len(variants)
    width, height = left + PANEL * columns + 0.15, block * rows
    canvas = Canvas(figsize=(width, height))
    limit = 106 * float(np.nanmax(np.abs(values))) or 1.0
    for index, dataset in enumerate(datasets):
        row, column = divmod(index, columns)
        box = (
            (left + column * PANEL) / width,
            (height - (row + 1) * block + BELOW) / height,
            (PANEL - 0.2) / width,
            ROW * len(variants) / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, values[:, index], variants, style, limit=limit, named=column == 0)
        title = short(dataset, room=(PANEL - 0.3) * 72, size=9)
        axes.set_title(title, loc="left", fontsize=9, parse_math=False)
    return canvas


def _panel(
    axes: Axes, values: Array, variants: Sequence[str], style: Style, *, limit: float, named: bool
) -> None:
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    for row, seeds in enumerate(values):
        known = 100 * seeds[np.isfinite(seeds)]
        if not known.size:
            continue
        spread = np.linspace(-0.18, 0.18, known.size) if known.size > 1 else np.zeros(1)
        for above, color, marker in ((True, style.better, "^"), (False, style.worse, "v")):
            side = known > 0 if above else known <= 0
            (dots,) = axes.plot(known[side], row + spread[side], marker, color=color)
            dots.set(markersize=3.6, alpha=0.75)
        mean = float(known.mean())
        axes.plot([mean, mean], [row - 0.34, row + 0.34], color=style.ink, linewidth=1.6)
    name_rows(axes, variants, size=9)
    if not named:
        literal(axes.set_yticklabels([""] * len(variants)))
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("points", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    bare(axes, style)
