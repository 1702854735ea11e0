"""Heatmaps of differences: variants by datasets, and every variant against every other one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import (
    POINTS_PER_INCH,
    label_room,
    literal,
    shown_names,
    signed,
    text_width,
)
from analysis.stats import Array
from analysis.text import VERDICT_MARKS

CELL_WIDTH, CELL_HEIGHT = 0.62, 0.34
STRONGEST = 0.58
SMALL = 8.5
MAX_COLUMN_POINTS = 110.0
MAX_NUMBERED = 40
"""With more columns the cells are narrow and have no numbers, or nobody could see them at once."""

NARROW_WIDTH, NARROW_FONT = 0.13, 6.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixInfo:
    """Differences, fractions, NaN where there is no pair: one row per entry of ``rows``."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    difference: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairwiseInfo(MatrixInfo):
    """Row minus column, and the two ``marks`` of how the row stands to the column, these datasets
    first; "" where they are not compared.
    """

    marks: tuple[tuple[str, ...], ...]


def difference_heatmap(info: MatrixInfo, *, baseline: str, metric: str) -> Figure | None:
    """Differences from the baseline, variants by datasets; None where there is no pair at all.

    ``metric`` is the printed name.
    """
    if not np.isfinite(info.difference).any():
        return None
    return Figure(
        name="difference_heatmap",
        title=f"{metric}: difference from {baseline} by dataset",
        caption=f"Points of {metric} above (blue) or below (orange) {baseline}, mean over seeds.",
        info=info,
        draw=partial(_draw, info, None),
    )


def pairwise_heatmap(info: PairwiseInfo, *, metric: str) -> Figure | None:
    """Every variant against every other one, with the verdict of each pair; None for one variant.

    ``metric`` is the printed name.
    """
    if len(info.rows) < 2 or not np.isfinite(info.difference).any():
        return None
    return Figure(
        name="pairwise_heatmap",
        title=f"{metric}: row minus column",
        caption=f"Row minus column in points of {metric}, with two marks: the verdict on these "
        "datasets, then on datasets like these. ▲ better, ▼ worse, ≈ equivalent, ○ undecided; no "
        "marks where both are undecided.",
        info=info,
        draw=partial(_draw, info, info.marks),
    )


UNDECIDED = 2 * VERDICT_MARKS["undecided"]


def _texts(values: Array, words: Sequence[Sequence[str]] | None) -> Array:
    texts = [
        [
            (signed(float(v), digits=1) + (f" {shown}" if (shown := _marks(words, i, j)) else ""))
            if np.isfinite(v)
            else ""
            for j, v in enumerate(row)
        ]
        for i, row in enumerate(values)
    ]
    return np.array(texts, dtype=object)


def _marks(words: Sequence[Sequence[str]] | None, row: int, column: int) -> str:
    """The marks of a cell, blank where they would only say that nothing is decided."""
    return "" if words is None else words[row][column].replace(UNDECIDED, "")


def diverging(style: Style) -> LinearSegmentedColormap:
    """From worse through transparent to better: readable on white and on dark paper."""
    worse, better = to_rgb(style.worse), to_rgb(style.better)
    ends = [(*worse, STRONGEST), (*worse, 0.0), (*better, 0.0), (*better, STRONGEST)]
    stops = (0.0, 0.4999, 0.5001, 1.0)
    return LinearSegmentedColormap.from_list("points", list(zip(stops, ends, strict=True)))


def paint(
    axes: Axes, values: Array, texts: Array | None, style: Style, *, limit: float | None = None
) -> None:
    """A matrix of differences with its numbers, or without; empty where NaN. ``limit`` is the full
    color.
    """
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
        linewidths=0.3 if texts is None else 1.0,
        linecolor=style.paper,
        xticklabels=False,
        yticklabels=False,
    )
    for row, column in zip(*np.nonzero(~np.isfinite(values)), strict=True):
        axes.text(column + 0.5, row + 0.5, "·", ha="center", va="center", color=style.soft)
    axes.set_facecolor("none")
    axes.tick_params(length=0)


def _draw(info: MatrixInfo, words: Sequence[Sequence[str]] | None, style: Style) -> Canvas:
    rows, columns = info.rows, info.columns
    numbered = len(columns) <= MAX_NUMBERED
    cell, size = (CELL_WIDTH, SMALL) if numbered else (NARROW_WIDTH, NARROW_FONT)
    left = label_room(rows)
    shown = shown_names(columns, room=MAX_COLUMN_POINTS, size=size)
    longest = max(text_width(c, size=size) for c in shown)
    slanted = longest > cell * POINTS_PER_INCH - 4
    above = ((0.75 if numbered else 1.0) * longest + 16) / POINTS_PER_INCH if slanted else 0.32
    beside = 0.75 * longest / POINTS_PER_INCH if slanted and numbered else 0.1
    width = left + cell * len(columns) + beside + 0.1
    height = above + CELL_HEIGHT * len(rows) + 0.08
    canvas = Canvas(figsize=(width, height))
    box = (
        left / width,
        0.04 / height,
        cell * len(columns) / width,
        CELL_HEIGHT * len(rows) / height,
    )
    axes = canvas.add_axes(box)
    texts = _texts(info.difference, words) if numbered else None
    paint(axes, info.difference, texts, style)
    axes.set_yticks([i + 0.5 for i in range(len(rows))])
    literal(axes.set_yticklabels(shown_names(rows), rotation=0))
    axes.xaxis.tick_top()
    axes.set_xticks([i + 0.5 for i in range(len(columns))])
    tick_style: dict[str, Any] = {"fontsize": size}
    if slanted:
        angle = 42 if numbered else 90
        place = {"ha": "left"} | ({} if numbered else {"va": "center"})
        tick_style |= {"rotation": angle, "rotation_mode": "anchor", **place}
    literal(axes.set_xticklabels(shown, **tick_style))
    axes.tick_params(length=0)
    return canvas
