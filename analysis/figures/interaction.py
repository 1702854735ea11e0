"""Interaction plots: does the effect of one factor depend on the level of another?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, literal, series_style, short
from analysis.stats import CellMeans

PANEL, HEIGHT, COLUMNS = 3.6, 3.1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionInfo:
    """Mean score of every combination of the levels of two factors, with the half width of its
    interval; ``mean[i][j]`` is level i of ``first`` with level j of ``second``, None where there is
    no score.
    """

    first: str
    second: str
    first_levels: tuple[str, ...]
    second_levels: tuple[str, ...]
    mean: tuple[tuple[float | None, ...], ...]
    half_width: tuple[tuple[float | None, ...], ...]


def interaction_figure(pairs: Sequence[CellMeans], *, metric: str) -> Figure | None:
    """One small plot per pair of factors; None without pairs. ``metric`` is the printed name."""
    if not pairs:
        return None
    infos = [_info(pair) for pair in pairs]
    panels = tuple(
        Figure(
            name=f"interaction_{i}",
            title=f"Interaction of {info.first} and {info.second}",
            caption="",
            info=info,
            draw=partial(_draw, [info], metric),
        )
        for i, info in enumerate(infos)
    )
    return Figure(
        name="interaction",
        title="Interaction plots",
        caption="Mean over datasets, other factors and seeds, with 95 % t intervals over seeds "
        "where no run is missing. Parallel lines mean that the factors do not interact.",
        info=infos,
        draw=partial(_draw, infos, metric),
        panels=panels,
    )


def _info(pair: CellMeans) -> InteractionInfo:
    return InteractionInfo(
        first=pair.first,
        second=pair.second,
        first_levels=pair.first_levels,
        second_levels=pair.second_levels,
        mean=tuple(tuple(c.mean if c else None for c in row) for row in pair.cells),
        half_width=tuple(tuple(c.half_width if c else None for c in row) for row in pair.cells),
    )


def _draw(pairs: Sequence[InteractionInfo], metric: str, style: Style) -> Canvas:
    columns = min(COLUMNS, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    entries = max(len(pair.second_levels) for pair in pairs)
    above = 0.34 + 0.2 * entries + 0.12
    slanted = any(
        len(level) > 9 or len(p.first_levels) > 3 for p in pairs for level in p.first_levels
    )
    below = 1.15 if slanted else 0.62
    block = HEIGHT + above + below - 1.0
    width, height = PANEL * columns, block * rows
    canvas = Canvas(figsize=(width, height))
    for index, pair in enumerate(pairs):
        row, column = divmod(index, columns)
        box = (
            (column * PANEL + 0.62) / width,
            (height - (row + 1) * block + below) / height,
            (PANEL - 0.75) / width,
            (block - above - below) / height,
        )
        _panel(canvas.add_axes(box), pair, metric, style, slanted=slanted)
    return canvas


def _panel(axes: Axes, pair: InteractionInfo, metric: str, style: Style, *, slanted: bool) -> None:
    num = len(pair.second_levels)
    rows = list(zip(pair.mean, pair.half_width, strict=True))
    for j, level in enumerate(pair.second_levels):
        means = [(i, row[j], halves[j]) for i, (row, halves) in enumerate(rows)]
        known = [(i, mean, half or 0.0) for i, mean, half in means if mean is not None]
        shift = 0.06 * (j - (num - 1) / 2)
        axes.errorbar(
            [i + shift for i, _, _ in known],
            [100 * mean for _, mean, _ in known],
            yerr=[100 * half for _, _, half in known],
            label=f" {short(level, size=8)}",
            linewidth=1.5,
            markersize=5.5,
            elinewidth=0.9,
            **series_style(j),
        )
    axes.set_xticks(range(len(pair.first_levels)))
    names = [short(level, room=84, size=8.5) for level in pair.first_levels]
    turn: dict[str, Any] = {"rotation": 30, "ha": "right"} if slanted else {}
    literal(axes.set_xticklabels(names, fontsize=8.5, **turn))
    axes.set_xlim(-0.35, len(pair.first_levels) - 0.65)
    axes.set_xlabel(short(pair.first, room=170), parse_math=False)
    axes.set_ylabel(f"{metric}, %", parse_math=False)
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        frameon=False,
        fontsize=8,
        title=short(pair.second, room=170, size=8),
        title_fontproperties={"size": 8, "weight": "bold"},
        alignment="left",
        labelspacing=0.2,
        labelcolor=style.ink,
    )
    literal([*legend.get_texts(), legend.get_title()])
    bare(axes, style, keep=("left", "bottom"), grid="y")
