"""Interval estimates over all runs: four aggregates, and the share of runs above every score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Estimated, Figure
from analysis.figures.style import bare, label_room, literal, name_rows, series_legend, series_style

ROW, PANEL = 0.3, 1.9
ABOVE, BELOW = 0.4, 0.55
CURVES = 3.4
AGGREGATES = {
    "iqm": "IQM",
    "median": "Median",
    "mean": "Mean",
    "optimality_gap": "Optimality gap",
}
CAPTION = (
    "Left: interquartile mean, median and mean over datasets, and the gap to {0}; the mean and "
    "the gap with 95 % t intervals over seeds, which are about these datasets. Right: share of "
    "runs {1} a score (Agarwal et al., NeurIPS 2021)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileInfo:
    """A variant's aggregates over all of its runs, and the share of its runs that are better than
    each of ``points``.
    """

    variant: str
    iqm: Estimated
    median: Estimated
    mean: Estimated
    optimality_gap: Estimated
    points: tuple[float, ...]
    share_better: tuple[float, ...]


def profile_figure(
    profiles: Sequence[ProfileInfo], *, metric: str, direction: int = 1
) -> Figure | None:
    """Aggregates and performance profiles of complete tables; None without any. ``direction`` is -1
    for a metric of which less is better.
    """
    if not profiles:
        return None
    return Figure(
        name="profiles",
        title=f"Aggregates and performance profiles of {metric}",
        caption=CAPTION.format(*_words(direction)),
        info=tuple(profiles),
        draw=partial(_draw, list(profiles), metric, _words(direction)[1]),
    )


def _words(direction: int) -> tuple[str, str]:
    """The ideal score, and on which side of a score better runs are."""
    return ("100 %", "above") if direction > 0 else ("0", "below")


def _draw(profiles: Sequence[ProfileInfo], metric: str, side: str, style: Style) -> Canvas:
    names = [p.variant for p in profiles]
    left = label_room(names, size=9)
    rows = ROW * len(names)
    height = ABOVE + BELOW + max(rows, 2.2)
    legend = label_room(names) + 0.7
    width = left + PANEL * len(AGGREGATES) + 0.5 + CURVES + legend
    canvas = Canvas(figsize=(width, height))
    for index, (key, label) in enumerate(AGGREGATES.items()):
        box = (
            (left + index * PANEL) / width,
            (height - ABOVE - rows) / height,
            (PANEL - 0.2) / width,
            rows / height,
        )
        axes = canvas.add_axes(box)
        _aggregate(axes, profiles, key, style)
        axes.set_title(label, loc="left", fontsize=9.5)
        name_rows(axes, names, size=9)
        if index:
            literal(axes.set_yticklabels([""] * len(names)))
    x = left + PANEL * len(AGGREGATES) + 0.5
    box = (x / width, BELOW / height, CURVES / width, 1 - (ABOVE + BELOW) / height)
    _curves(canvas.add_axes(box), profiles, metric, side, style)
    return canvas


def _aggregate(axes: Axes, profiles: Sequence[ProfileInfo], key: str, style: Style) -> None:
    for row, profile in enumerate(profiles):
        found: Estimated = getattr(profile, key)
        series = series_style(row)
        if found.on_these_datasets:
            ends = [100 * v for v in found.on_these_datasets]
            axes.plot(ends, [row, row], color=series["color"], linewidth=5, alpha=0.4)
        axes.plot([100 * found.value], [row], linestyle="", markersize=5.5, **series)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize=8.5)
    axes.set_xlabel("%", fontsize=8.5)
    bare(axes, style)


def _curves(
    axes: Axes, profiles: Sequence[ProfileInfo], metric: str, side: str, style: Style
) -> None:
    for index, profile in enumerate(profiles):
        series = series_style(index)
        axes.step(
            [100 * p for p in profile.points],
            list(profile.share_better),
            where="post",
            color=series["color"],
            linewidth=1.4,
            linestyle=("-", "--", ":", "-.")[index // 8 % 4],
        )
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(f"{metric}, %", parse_math=False)
    axes.set_ylabel(f"share of runs {side}")
    series_legend(axes, [p.variant for p in profiles], style, at=(1.03, 1.0))
    bare(axes, style, keep=("left", "bottom"), grid="both")
