"""Every single run: differences from the baseline, a dot a seed, a panel a dataset."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import (
    Figure,
    Style,
    bare,
    label_room,
    name_rows,
    plain,
    short,
)
from analysis.stats import Array
from analysis.text import rounded

ROW, PANEL, COLUMNS = 0.27, 2.55, 4
ABOVE, BELOW = 0.36, 0.52
MAX_PANELS = 20


def seed_scatter(
    differences_VDS: Array,
    variants: Sequence[str],
    datasets: Sequence[str],
    seeds: Sequence[int],
    *,
    baseline: str,
    what: str,
) -> Figure | None:
    """Paired differences of single runs, fractions, NaN where missing; None where there are none.

    More than ``MAX_PANELS`` datasets are cut, and the caption says so; the values hold all.
    """
    if not np.isfinite(differences_VDS).any():
        return None
    shown = list(datasets[:MAX_PANELS])
    cut = "" if len(datasets) == len(shown) else f" The first {len(shown)} of {len(datasets)}."
    return Figure(
        name="seed_scatter",
        title=f"{what}: every run against {baseline}",
        caption=f"A dot is one seed: difference from {baseline} with the same dataset and seed, "
        f"points of {what}; ▲ above zero, ▼ not. The bar is their mean.{cut}",
        values={
            "baseline": baseline,
            "variants": list(variants),
            "datasets": list(datasets),
            "seeds": list(seeds),
            "difference": [
                [[rounded(float(v)) if np.isfinite(v) else None for v in row] for row in table]
                for table in differences_VDS
            ],
        },
        draw=partial(_draw, differences_VDS[:, : len(shown)], list(variants), shown),
    )


def _draw(values: Array, variants: Sequence[str], datasets: Sequence[str], style: Style) -> Canvas:
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
        plain(axes.set_yticklabels([""] * len(variants)))
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("points", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    bare(axes, style)
