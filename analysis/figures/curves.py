"""Few-shot curves: accuracy over the number of shots, the average first, then every dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, series_legend, series_style, short

PANEL, HEIGHT, COLUMNS = 2.9, 2.7, 3
MAX_PANELS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveInfo:
    """Mean accuracy of a variant on a dataset (or the average of all) at each number of shots, and
    the half width of its 95 % t interval; None where there is no score.
    """

    variant: str
    dataset: str
    shots: tuple[int, ...]
    mean: tuple[float | None, ...]
    half_width: tuple[float | None, ...]


def shot_curves(curves: Sequence[CurveInfo]) -> Figure | None:
    """A panel per dataset, in the order of the curves; None for fewer than two numbers of shots.

    Of more than ``MAX_PANELS``, the first (the average) and those where the variants differ most
    are drawn, and the caption says so; ``info`` holds all.
    """
    curves = [curve for curve in curves if len(curve.shots) > 1]
    if not curves:
        return None
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    shown = _most_different(curves, datasets)
    cut = (
        ""
        if len(datasets) == len(shown)
        else f" {len(shown)} of {len(datasets)} panels: {datasets[0]}, and where variants differ "
        "most."
    )
    return Figure(
        name="curves",
        title="Accuracy over shots",
        caption="Mean over seeds with 95 % t intervals; the number of shots is on a logarithmic "
        f"axis.{cut}",
        info=curves,
        draw=partial(_draw, curves, shown),
    )


def _most_different(curves: Sequence[CurveInfo], datasets: Sequence[str]) -> list[str]:
    """The first dataset and those with the widest range between variants, in their order."""

    def widest(dataset: str) -> float:
        points = zip(*(curve.mean for curve in curves if curve.dataset == dataset), strict=True)
        known = [[mean for mean in column if mean is not None] for column in points]
        return max((max(column) - min(column) for column in known if column), default=0.0)

    chosen = {datasets[0], *sorted(datasets[1:], key=widest, reverse=True)[: MAX_PANELS - 1]}
    return [dataset for dataset in datasets if dataset in chosen]


def _draw(curves: Sequence[CurveInfo], datasets: Sequence[str], style: Style) -> Canvas:
    variants = list(dict.fromkeys(curve.variant for curve in curves))
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
        _panel(axes, [curve for curve in curves if curve.dataset == dataset], style)
        title = short(dataset, room=(PANEL - 0.5) * 72, size=9.5)
        axes.set_title(title, loc="left", fontsize=9.5, parse_math=False)
        if column == 0:
            axes.set_ylabel("Accuracy, %")
        if index == columns - 1:
            series_legend(axes, variants, style, at=(1.06, 1.05))
    return canvas


def _panel(axes: Axes, curves: Sequence[CurveInfo], style: Style) -> None:
    for index, curve in enumerate(curves):
        points = zip(curve.shots, curve.mean, curve.half_width, strict=True)
        known = [(n, mean, half or 0.0) for n, mean, half in points if mean is not None]
        axes.errorbar(
            [n for n, _, _ in known],
            [100 * mean for _, mean, _ in known],
            yerr=[100 * half for _, _, half in known],
            linewidth=1.3,
            markersize=4.5,
            elinewidth=0.8,
            **series_style(index),
        )
    shots = curves[0].shots
    if min(shots) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(shots), [str(n) for n in shots])
    axes.minorticks_off()
    axes.set_xlabel("Shots", fontsize=9)
    axes.tick_params(labelsize=8.5)
    bare(axes, style, keep=("left", "bottom"), grid="y")
