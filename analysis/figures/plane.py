"""The base-new plane: average base against average new accuracy, with curves of equal HM."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, series_legend, series_style


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseNewInfo:
    """A variant with its average base and new accuracy, None where it has none, and the half widths
    of their 95 % t intervals over seeds.
    """

    variant: str
    base: float | None
    base_half_width: float | None
    new: float | None
    new_half_width: float | None


def base_new_figure(points: Sequence[BaseNewInfo]) -> Figure | None:
    """Averages with t intervals over seeds; None where no variant has both averages."""
    shown = [p for p in points if p.base is not None and p.new is not None]
    if not shown:
        return None
    return Figure(
        name="base_new",
        title="Base against new accuracy",
        caption="Averages with 95 % intervals over seeds. Dotted: equal HM. Up and right is "
        "better.",
        info=shown,
        draw=partial(_draw, points),
    )


def _draw(points: Sequence[BaseNewInfo], style: Style) -> Canvas:
    height = max(4.4, 0.7 + 0.235 * len(points))
    canvas = Canvas(figsize=(7.0, height))
    axes = canvas.add_axes((0.1, 0.57 / height, 0.5, 1 - 0.75 / height))
    for index, point in enumerate(points):
        if point.base is None or point.new is None:
            continue
        axes.errorbar(
            [100 * point.base],
            [100 * point.new],
            xerr=[100 * (point.base_half_width or 0.0)],
            yerr=[100 * (point.new_half_width or 0.0)],
            elinewidth=0.9,
            alpha=0.9,
            linestyle="",
            markersize=7,
            **series_style(index),
        )
    _equal_hm(axes, style)
    axes.set_xlabel("Base accuracy, %")
    axes.set_ylabel("New accuracy, %")
    series_legend(axes, [p.variant for p in points], style)
    bare(axes, style, keep=("left", "bottom"), grid="")
    return canvas


def _equal_hm(axes: Axes, style: Style) -> None:
    """Dotted curves of equal harmonic mean h in the visible range: new = h base / (2 base - h)."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    corners = [2 * x * y / max(x + y, 1.0) for x, y in ((low, bottom), (high, top))]
    for hm in MaxNLocator(5).tick_values(*corners):
        xs = [low + (high - low) * i / 80 for i in range(81)]
        curve = [(x, hm * x / (2 * x - hm)) for x in xs if 2 * x > hm * 1.001]
        seen = [(x, y) for x, y in curve if bottom <= y <= top]
        if len(seen) < 8:
            continue
        axes.plot(*zip(*seen, strict=True), ":", color=style.rule, linewidth=1.3, zorder=0)
        x, y = seen[-2]
        axes.annotate(
            f"HM {hm:g}",
            (x, y),
            xytext=(-2, 5),
            textcoords="offset points",
            fontsize=7,
            ha="right",
            color=style.soft,
        )
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)
