"""Reliability curves: how often predictions of each confidence are correct."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import SERIES, Style
from analysis.figures.figure import Figure
from analysis.figures.style import MARKERS, bare, literal, shown_names

PANEL, LEFT, RIGHT, BELOW, ABOVE = 3.4, 0.62, 0.25, 0.55, 0.34
LEGEND_ROOM = 105.0
LEAST_SHARE = 0.005
"""A bin with a smaller share of the images is noise and is not drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityInfo:
    """The reliability curve of a variant on one subset of the classes, pooled over datasets and
    seeds: by bin the mean confidence, the accuracy and the share of the images.
    """

    variant: str
    subset: str
    ece: float
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    share: tuple[float, ...]


def reliability_figure(curves: Sequence[ReliabilityInfo], *, pooled: str) -> Figure | None:
    """A panel per subset, a curve per variant; None without curves. ``pooled`` says over what."""
    if not curves:
        return None
    subsets = list(dict.fromkeys(curve.subset for curve in curves))
    whole = Figure(
        name="reliability",
        title="Reliability curves",
        caption="Predictions are grouped by confidence, the softmax probability of the predicted "
        f"class{pooled}; each dot shows how many of a group are correct, and is larger for a group "
        "with more images. On the diagonal confidence equals accuracy; below it a model is "
        "overconfident, above it underconfident. ECE, the expected calibration error, is the mean "
        "distance from the diagonal (20 groups, weighted by images; lower is better).",
        info=curves,
        draw=partial(_draw, curves, subsets),
    )
    single = [replace(whole, draw=partial(_draw, curves, [subset])) for subset in subsets]
    return replace(whole, panels=tuple(single))


def _draw(curves: Sequence[ReliabilityInfo], subsets: Sequence[str], style: Style) -> Canvas:
    variants = list(dict.fromkeys(curve.variant for curve in curves))
    block = LEFT + PANEL + RIGHT
    width, height = block * len(subsets), ABOVE + PANEL + BELOW
    canvas = Canvas(figsize=(width, height))
    for index, subset in enumerate(subsets):
        box = (
            (index * block + LEFT) / width,
            BELOW / height,
            PANEL / width,
            PANEL / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, [c for c in curves if c.subset == subset], variants, style)
        if any(c.subset for c in curves):
            axes.set_title(f"{subset} classes", loc="left", fontsize=9.5, parse_math=False)
    return canvas


def _panel(
    axes: Axes, curves: Sequence[ReliabilityInfo], variants: Sequence[str], style: Style
) -> None:
    axes.plot([0, 100], [0, 100], color=style.soft, linewidth=1.0, linestyle=(0, (3, 3)))
    names = shown_names([curve.variant for curve in curves], room=LEGEND_ROOM)
    for curve, name in zip(curves, names, strict=True):
        place = variants.index(curve.variant)
        color, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
        kept = [i for i, share in enumerate(curve.share) if share >= LEAST_SHARE]
        xs, ys = ([100 * v[i] for i in kept] for v in (curve.confidence, curve.accuracy))
        label = f"{name}  ECE {100 * curve.ece:.1f}"
        axes.plot(xs, ys, color=color, linewidth=1.5, alpha=0.85)
        sizes = [14 + 220 * curve.share[i] for i in kept]
        axes.scatter(xs, ys, s=sizes, color=color, marker=marker, linewidths=0)
        axes.plot([], [], color=color, marker=marker, markersize=6, label=label)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("confidence, %", fontsize=9)
    axes.set_ylabel("correct, %", fontsize=9)
    axes.tick_params(labelsize=8.5)
    bare(axes, style, keep=("left", "bottom"), grid="both")
    legend = axes.legend(
        loc="lower right",
        frameon=False,
        fontsize=8.5,
        labelcolor=style.ink,
        handlelength=1.6,
    )
    literal(legend.get_texts())
