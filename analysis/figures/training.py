"""Training curves: a quantity that runs log per epoch, a panel per dataset, a line per variant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from analysis.figures.colors import SERIES, Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, series_legend, series_style, short

PANEL, HEIGHT, COLUMNS = 2.75, 2.35, 4
LEFT = 0.75
MAX_PANELS = 16
MAX_BANDS = 2
"""More bands than this cover each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingInfo:
    """What a variant logged on a dataset in each of ``epochs``: mean over seeds, lowest and highest
    seed.
    """

    variant: str
    dataset: str
    seeds: int
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


def training_figure(
    curves: Sequence[TrainingInfo], *, variants: Sequence[str], quantity: str, remark: str
) -> Figure | None:
    """A panel per dataset, in the order of the curves; None where no run logged anything.

    ``variants`` is the order of colors, and the first ``MAX_BANDS`` of them have a band;
    ``quantity`` names what is drawn, and ``remark`` explains it.
    """
    if not curves:
        return None
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    shown = datasets[:MAX_PANELS]
    cut = (
        "" if len(datasets) == len(shown) else f" The first {len(shown)} of {len(datasets)} panels."
    )
    banded = " and of ".join(variants[:MAX_BANDS])
    whole = Figure(
        name="training",
        title=f"Training curves: {quantity}",
        caption=f"{remark} Lines are means over seeds; the band of {banded} reaches from the "
        "lowest to the highest seed, which describes these runs and is not an interval for a "
        f"claim. Each panel has a scale of its own.{cut}",
        info=curves,
        draw=partial(_draw, curves, shown, variants, quantity),
    )
    single = [
        replace(whole, draw=partial(_draw, curves, [dataset], variants, quantity))
        for dataset in shown
    ]
    return replace(whole, panels=tuple(single), shared_rows=True)


def _draw(
    curves: Sequence[TrainingInfo],
    datasets: Sequence[str],
    variants: Sequence[str],
    quantity: str,
    style: Style,
) -> Canvas:
    columns = min(COLUMNS, len(datasets))
    rows = math.ceil(len(datasets) / columns)
    legend = label_room(variants) + 0.5 if len(variants) > 1 else 0.0
    block = max(HEIGHT, (0.24 * len(variants) + 0.6) / rows)
    width, height = LEFT + columns * PANEL + legend, rows * block
    canvas = Canvas(figsize=(width, height))
    for index, dataset in enumerate(datasets):
        row, column = divmod(index, columns)
        box = (
            (LEFT + column * PANEL) / width,
            (height - (row + 1) * block + 0.5) / height,
            (PANEL - 0.5) / width,
            (block - 0.82) / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, [c for c in curves if c.dataset == dataset], variants, style)
        title = short(dataset, room=(PANEL - 0.5) * 72, size=9.5)
        axes.set_title(title, loc="left", fontsize=9.5, parse_math=False)
        if column == 0:
            axes.set_ylabel(quantity, fontsize=9, parse_math=False)
        if index == columns - 1 and len(variants) > 1:
            series_legend(axes, variants, style, at=(1.06, 1.05))
    return canvas


def _panel(
    axes: Axes, curves: Sequence[TrainingInfo], variants: Sequence[str], style: Style
) -> None:
    for curve in curves:
        place = variants.index(curve.variant)
        color = SERIES[place % len(SERIES)]
        if place < MAX_BANDS:
            ends = (curve.lowest, curve.highest)
            axes.fill_between(curve.epochs, *ends, color=color, alpha=0.16, linewidth=0)
        axes.plot(
            curve.epochs,
            curve.mean,
            linewidth=1.4,
            markersize=3.6,
            markevery=max(1, len(curve.epochs) // 8),
            **series_style(place),
        )
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=8.5)
    bare(axes, style, keep=("left", "bottom"), grid="y")


def run_training_figure(curves: Sequence[TrainingInfo]) -> Figure | None:
    """The terms that one run logged, each in a panel of its own; None where there is none.

    The name of a term stands in the place of the dataset.
    """
    if not curves:
        return None
    names = list(dict.fromkeys(curve.variant for curve in curves))
    terms = [curve.dataset for curve in curves]
    whole = Figure(
        name="training",
        title="Training curves",
        caption="Means over the steps of an epoch. loss is what training minimizes, the sum of the "
        "other terms; metrics. is what method or refiner tell of an epoch besides.",
        info=curves,
        draw=partial(_draw, curves, terms, names, ""),
    )
    single = [replace(whole, draw=partial(_draw, curves, [t], names, "")) for t in terms]
    return replace(whole, panels=tuple(single))
