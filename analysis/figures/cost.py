"""Cost against accuracy: is a gain bought with time, parameters or memory?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, series_legend, series_style

PANEL, HEIGHT = 2.9, 2.9
LOG_FROM = 20.0
MEASURES = {
    "train_seconds": ("Training, s", "less"),
    "trainable_parameters": ("Trainable parameters", "less"),
}
"""Two of the measures; the table has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostInfo:
    """A variant with its average score and its mean ``costs`` per run, by name of ``MEASURES``;
    others are not shown.
    """

    variant: str
    score: float | None
    half_width: float | None
    costs: Mapping[str, float] = field(metadata={"inline": True})


def cost_figure(variants: Sequence[CostInfo], *, metric: str) -> Figure | None:
    """Average score against each measure of cost; None where no variant has both."""
    known = [
        replace(v, costs={name: v.costs[name] for name in MEASURES if name in v.costs})
        for v in variants
    ]
    shown = [v for v in known if v.score is not None and v.costs]
    if not shown:
        return None
    return Figure(
        name="cost",
        title=f"Cost against {metric}",
        caption="Gray line: no other variant is better in both (the Pareto front).",
        info=shown,
        draw=partial(_draw, known, metric),
    )


def _draw(variants: Sequence[CostInfo], metric: str, style: Style) -> Canvas:
    legend = label_room(v.variant for v in variants) + 0.65
    block = max(HEIGHT, 0.12 * len(variants) + 0.4)
    width, height = 0.35 + 2 * PANEL + legend, block
    canvas = Canvas(figsize=(width, height))
    for index, (key, (label, good)) in enumerate(MEASURES.items()):
        box = (
            (0.35 + index * PANEL + 0.4) / width,
            0.55 / height,
            (PANEL - 0.6) / width,
            (block - 0.75) / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, variants, key, style, less_is_better=good == "less")
        axes.set_xlabel(f"{label} ({good} is better)", fontsize=9)
        if index == 0:
            axes.set_ylabel(f"{metric}, %", parse_math=False)
        if index == 1:
            series_legend(axes, [v.variant for v in variants], style, at=(1.06, 1.02))
    return canvas


def _panel(
    axes: Axes, variants: Sequence[CostInfo], key: str, style: Style, *, less_is_better: bool
) -> None:
    points = []
    for index, variant in enumerate(variants):
        if variant.score is None or key not in variant.costs:
            continue
        x, y = variant.costs[key], 100 * variant.score
        points.append((x, y))
        half = [100 * (variant.half_width or 0.0)]
        series = series_style(index)
        axes.errorbar([x], [y], yerr=half, elinewidth=0.9, linestyle="", markersize=6.5, **series)
    front = _front(points, less_is_better=less_is_better)
    axes.plot(
        *zip(*front, strict=True),
        color=style.soft,
        linewidth=1.0,
        alpha=0.6,
        drawstyle="steps-post" if less_is_better else "steps-pre",
        zorder=0,
    )
    positive = [x for x, _ in points if x > 0]
    if len(positive) == len(points) and max(positive) > LOG_FROM * min(positive):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(_compact))
        axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=8.5)
    bare(axes, style, keep=("left", "bottom"), grid="both")


def _front(
    points: Sequence[tuple[float, float]], *, less_is_better: bool
) -> list[tuple[float, float]]:
    """Points that no other beats in cost and in score, the cheapest first."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0] if less_is_better else -p[0], -p[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front if less_is_better else front[::-1]


def _compact(value: float, _: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
