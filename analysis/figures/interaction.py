"""Interaction plots: does the effect of one factor depend on the level of another?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import Figure, Style, bare, plain, series_style, short
from analysis.stats import MeanInterval
from analysis.text import rounded

PANEL, HEIGHT, COLUMNS = 3.6, 3.1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CellMeans:
    """Mean score of every combination of the levels of two factors, over the others and over the
    datasets; ``cells[i][j]`` is level i of ``first`` with level j of ``second``, None where there
    is no score.
    """

    first: str
    second: str
    first_levels: tuple[str, ...]
    second_levels: tuple[str, ...]
    cells: tuple[tuple[MeanInterval | None, ...], ...]


def interaction_plots(pairs: Sequence[CellMeans], *, what: str) -> Figure | None:
    """One small plot a pair of factors, parallel lines mean no interaction; None without pairs."""
    if not pairs:
        return None
    panels = tuple(
        Figure(
            name=f"interaction_{i}",
            title=f"Interaction of {pair.first} and {pair.second}",
            caption="",
            values=_values(pair),
            draw=partial(_draw, [pair], what),
        )
        for i, pair in enumerate(pairs)
    )
    return Figure(
        name="interaction",
        title="Interaction plots",
        caption="Mean over datasets, other factors and seeds, with 95 % t intervals over seeds. "
        "Parallel lines: no interaction.",
        values=[p.values for p in panels],
        draw=partial(_draw, list(pairs), what),
        panels=panels,
    )


def _values(pair: CellMeans) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "first_levels": list(pair.first_levels),
        "second_levels": list(pair.second_levels),
        "mean": [[rounded(c.mean) if c else None for c in row] for row in pair.cells],
        "half_width": [[rounded(c.half_width) if c else None for c in row] for row in pair.cells],
    }


def _draw(pairs: Sequence[CellMeans], what: str, style: Style) -> Canvas:
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
        _panel(canvas.add_axes(box), pair, what, style, slanted=slanted)
    return canvas


def _panel(axes: Axes, pair: CellMeans, what: str, style: Style, *, slanted: bool) -> None:
    num = len(pair.second_levels)
    for j, level in enumerate(pair.second_levels):
        known = [(i, row[j]) for i, row in enumerate(pair.cells) if row[j] is not None]
        shift = 0.06 * (j - (num - 1) / 2)
        axes.errorbar(
            [i + shift for i, _ in known],
            [100 * c.mean for _, c in known if c],
            yerr=[100 * (c.half_width or 0.0) for _, c in known if c],
            label=f" {short(level, size=8)}",
            linewidth=1.5,
            markersize=5.5,
            elinewidth=0.9,
            **series_style(j),
        )
    axes.set_xticks(range(len(pair.first_levels)))
    names = [short(level, room=84, size=8.5) for level in pair.first_levels]
    turn: dict[str, Any] = {"rotation": 30, "ha": "right"} if slanted else {}
    plain(axes.set_xticklabels(names, fontsize=8.5, **turn))
    axes.set_xlim(-0.35, len(pair.first_levels) - 0.65)
    axes.set_xlabel(short(pair.first, room=170), parse_math=False)
    axes.set_ylabel(f"{what}, %", parse_math=False)
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
    plain([*legend.get_texts(), legend.get_title()])
    bare(axes, style, keep=("left", "bottom"), grid="y")
