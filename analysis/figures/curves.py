"""Few-shot curves: accuracy over the number of shots, the average first, then every dataset."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import (
    Figure,
    Style,
    bare,
    label_room,
    series_legend,
    series_style,
    short,
)
from analysis.sections.tables import Cell
from analysis.text import rounded

PANEL, HEIGHT, COLUMNS = 2.9, 2.7, 3
MAX_PANELS = 18


def shot_curves(
    cells: Mapping[tuple[str, str, int], Cell],
    variants: Sequence[str],
    datasets: Sequence[str],
    shots: Sequence[int],
) -> Figure | None:
    """Curves from cells by (variant, dataset, shots); None for fewer than two numbers of shots."""
    if len(shots) < 2:
        return None
    shown = list(datasets[:MAX_PANELS])
    cut = "" if len(datasets) == len(shown) else f" The first {len(shown)} of {len(datasets)}."
    return Figure(
        name="curves",
        title="Accuracy over shots",
        caption="Mean over seeds with 95 % t intervals; the number of shots is on a logarithmic "
        f"axis.{cut}",
        values=[
            {
                "variant": v,
                "dataset": d,
                "shots": list(shots),
                "mean": [rounded(cells[v, d, n].mean) for n in shots],
                "half_width": [rounded(cells[v, d, n].half_width) for n in shots],
            }
            for v in variants
            for d in datasets
        ],
        draw=partial(_draw, dict(cells), list(variants), shown, list(shots)),
    )


def _draw(
    cells: Mapping[tuple[str, str, int], Cell],
    variants: Sequence[str],
    datasets: Sequence[str],
    shots: Sequence[int],
    style: Style,
) -> Canvas:
    columns = min(COLUMNS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    legend = label_room(variants) + 0.65
    block = max(HEIGHT, (0.24 * len(variants) + 0.6) / rows)
    width, height = 0.3 + columns * PANEL + legend, rows * block
    canvas = Canvas(figsize=(width, height))
    for index, dataset in enumerate(datasets):
        row, column = divmod(index, columns)
        box = (
            (0.3 + column * PANEL + 0.4) / width,
            (height - (row + 1) * block + 0.55) / height,
            (PANEL - 0.6) / width,
            (block - 0.9) / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, cells, variants, dataset, shots, style)
        title = short(dataset, room=(PANEL - 0.5) * 72, size=9.5)
        axes.set_title(title, loc="left", fontsize=9.5, parse_math=False)
        if column == 0:
            axes.set_ylabel("Accuracy, %")
        if index == columns - 1:
            series_legend(axes, variants, style, at=(1.06, 1.05))
    return canvas


def _panel(
    axes: Axes,
    cells: Mapping[tuple[str, str, int], Cell],
    variants: Sequence[str],
    dataset: str,
    shots: Sequence[int],
    style: Style,
) -> None:
    for index, variant in enumerate(variants):
        known = [(n, c) for n in shots if (c := cells[variant, dataset, n]).mean is not None]
        axes.errorbar(
            [n for n, _ in known],
            [100 * (c.mean or 0.0) for _, c in known],
            yerr=[100 * (c.half_width or 0.0) for _, c in known],
            linewidth=1.3,
            markersize=4.5,
            elinewidth=0.8,
            **series_style(index),
        )
    if min(shots) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(shots), [str(n) for n in shots])
    axes.minorticks_off()
    axes.set_xlabel("Shots", fontsize=9)
    axes.tick_params(labelsize=8.5)
    bare(axes, style, keep=("left", "bottom"), grid="y")
