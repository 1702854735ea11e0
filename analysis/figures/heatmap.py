"""Heatmaps of differences: variants by datasets, and every variant against every other one."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import (
    POINTS_AN_INCH,
    Figure,
    Style,
    label_room,
    plain,
    shown_names,
    signed,
    text_width,
)
from analysis.stats import Array
from analysis.text import rounded

CELL_WIDTH, CELL_HEIGHT = 0.62, 0.34
STRONGEST = 0.58
SMALL = 8.5
MAX_COLUMN_POINTS = 110.0


def difference_heatmap(
    values_VD: Array, variants: Sequence[str], datasets: Sequence[str], *, baseline: str, what: str
) -> Figure | None:
    """Differences from the baseline a dataset, fractions, NaN where there is no pair; None where
    there is none at all. ``what`` names the metric.
    """
    if not np.isfinite(values_VD).any():
        return None
    return Figure(
        name="difference_heatmap",
        title=f"{what}: difference from {baseline} by dataset",
        caption=f"Difference from {baseline} in points of {what}, mean over seeds. Blue is above, "
        "orange below, the stronger the further; a dot marks a missing pair.",
        values=_matrix_values(values_VD, variants, datasets),
        draw=partial(_draw, values_VD, list(variants), list(datasets), None),
    )


def pairwise_heatmap(
    values_VV: Array, words_VV: Sequence[Sequence[str]], variants: Sequence[str], *, what: str
) -> Figure | None:
    """Row minus column over all datasets, with the verdict of each pair; None for one variant.

    ``words_VV`` holds better, worse, equivalent, undecided or "" for each pair.
    """
    if len(variants) < 2 or not np.isfinite(values_VV).any():
        return None
    values = _matrix_values(values_VV, variants, variants)
    return Figure(
        name="pairwise_heatmap",
        title=f"{what}: row minus column",
        caption=f"Row minus column in points of {what}. ▲ ▼: significant after Holm over all "
        "pairs; ≈: practically equal (TOST); no mark: undecided.",
        values={**values, "verdicts": [list(row) for row in words_VV]},
        draw=partial(_draw, values_VV, list(variants), list(variants), words_VV),
    )


def _matrix_values(values: Array, rows: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    cells = [[rounded(float(v)) if np.isfinite(v) else None for v in row] for row in values]
    return {"rows": list(rows), "columns": list(columns), "difference": cells}


GLYPH = {"better": "▲", "worse": "▼", "equivalent": "≈"}


def _texts(values: Array, words: Sequence[Sequence[str]] | None) -> Array:
    texts = [
        [
            (signed(float(v), digits=1) + GLYPH.get(words[i][j] if words else "", ""))
            if np.isfinite(v)
            else ""
            for j, v in enumerate(row)
        ]
        for i, row in enumerate(values)
    ]
    return np.array(texts, dtype=object)


def diverging(style: Style) -> LinearSegmentedColormap:
    """From worse through transparent to better: readable on white and on dark paper."""
    worse, better = to_rgb(style.worse), to_rgb(style.better)
    ends = [(*worse, STRONGEST), (*worse, 0.0), (*better, 0.0), (*better, STRONGEST)]
    stops = (0.0, 0.4999, 0.5001, 1.0)
    return LinearSegmentedColormap.from_list("points", list(zip(stops, ends, strict=True)))


def paint(
    axes: Axes, values: Array, texts: Array, style: Style, *, limit: float | None = None
) -> None:
    """A matrix of differences with its numbers; empty where NaN. ``limit`` is the full color."""
    known = np.abs(values[np.isfinite(values)])
    most = limit if limit is not None else float(known.max(initial=0.0))
    most = max(most, 1e-6)
    seaborn.heatmap(
        values,
        ax=axes,
        mask=~np.isfinite(values),
        cmap=diverging(style),
        vmin=-most,
        vmax=most,
        annot=texts,
        fmt="",
        annot_kws={"fontsize": SMALL, "color": style.ink},
        cbar=False,
        linewidths=1.0,
        linecolor=style.paper,
        xticklabels=False,
        yticklabels=False,
    )
    for row, column in zip(*np.nonzero(~np.isfinite(values)), strict=True):
        axes.text(column + 0.5, row + 0.5, "·", ha="center", va="center", color=style.soft)
    axes.set_facecolor("none")
    axes.tick_params(length=0)


def _draw(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    words: Sequence[Sequence[str]] | None,
    style: Style,
) -> Canvas:
    left = label_room(rows)
    shown = shown_names(columns, room=MAX_COLUMN_POINTS, size=SMALL)
    longest = max(text_width(c, size=SMALL) for c in shown)
    slanted = longest > CELL_WIDTH * POINTS_AN_INCH - 4
    above = (0.75 * longest + 16) / POINTS_AN_INCH if slanted else 0.32
    beside = 0.75 * longest / POINTS_AN_INCH if slanted else 0.1
    width = left + CELL_WIDTH * len(columns) + beside + 0.1
    height = above + CELL_HEIGHT * len(rows) + 0.08
    canvas = Canvas(figsize=(width, height))
    box = (
        left / width,
        0.04 / height,
        CELL_WIDTH * len(columns) / width,
        CELL_HEIGHT * len(rows) / height,
    )
    axes = canvas.add_axes(box)
    paint(axes, values, _texts(values, words), style)
    axes.set_yticks([i + 0.5 for i in range(len(rows))])
    plain(axes.set_yticklabels(shown_names(rows), rotation=0))
    axes.xaxis.tick_top()
    axes.set_xticks([i + 0.5 for i in range(len(columns))])
    tick_style: dict[str, Any] = {"fontsize": SMALL}
    tick_style |= {"rotation": 42, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    plain(axes.set_xticklabels(shown, **tick_style))
    axes.tick_params(length=0)
    return canvas
