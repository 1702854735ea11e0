"""The critical-difference diagram: mean ranks, and which variants a matrix of p values groups.

The groups come from Holm-adjusted pairwise tests, not from a critical difference of mean ranks:
that distance would depend on which other variants are in the table (Benavoli, Corani, Mangili, JMLR
17, 2016). So no distance is drawn, only the groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import POINTS_PER_INCH, shown_names, text_width

LINE = 0.27
BAR = 0.13
MIDDLE = 3.6
MARGIN = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """Variants from the best to the worst mean rank, and the ``groups`` of them in which no pair
    differs.
    """

    variants: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    groups: tuple[tuple[str, ...], ...]


def critical_difference(info: RankInfo, *, alpha: float) -> Figure | None:
    """Variants by mean rank; a bar joins those between which no pair differs. None for fewer than
    two variants.
    """
    if len(info.variants) < 2:
        return None
    return Figure(
        name="critical_difference",
        title="Critical-difference diagram",
        caption="Mean rank over datasets, 1 is best. A bar joins variants no two of which differ "
        f"about datasets like these (t over dataset means, adjusted by Holm, alpha {alpha:g}). "
        "Joined does not mean equal.",
        info=info,
        draw=partial(_draw, info),
    )


def _draw(info: RankInfo, style: Style) -> Canvas:
    names, ranks = info.variants, info.mean_ranks
    index_of = {name: i for i, name in enumerate(names)}
    groups = [sorted(index_of[name] for name in group) for group in info.groups]
    half = math.ceil(len(names) / 2)
    shown = shown_names(names)
    widest = max(map(text_width, map(_numbered, shown, ranks)))
    room = 1.06 * widest / POINTS_PER_INCH + MARGIN
    bars = 0.2 + BAR * len(groups)
    height = 0.5 + bars + LINE * half + 0.2
    width = MIDDLE + 2 * room
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    low, high = math.floor(min(ranks)), math.ceil(max(ranks))
    high = max(high, low + 1)
    scale = MIDDLE / (high - low)
    at = [room + (rank - low) * scale for rank in ranks]
    _ruler(axes, room, scale, low, high, style)
    _names(axes, shown, ranks, at, (room, width, 0.5 + bars, half), style)
    for level, group in enumerate(groups):
        ends = [at[group[0]] - 0.05, at[group[-1]] + 0.05]
        y = 0.5 + 0.16 + BAR * level
        (line,) = axes.plot(ends, [y, y], color=style.ink, linewidth=3.4, zorder=3)
        line.set_solid_capstyle("round")
    return canvas


def _numbered(name: str, rank: float) -> str:
    return f"{rank:.2f}  {name}"


def _ruler(axes: Axes, room: float, scale: float, low: int, high: int, style: Style) -> None:
    axes.plot([room, room + MIDDLE], [0.5, 0.5], color=style.ink, linewidth=1.0)
    step = max(1, math.ceil((high - low) / 10))
    for rank in range(low, high + 1, step):
        x = room + (rank - low) * scale
        axes.plot([x, x], [0.43, 0.5], color=style.ink, linewidth=1.0)
        axes.text(x, 0.38, str(rank), ha="center", va="bottom", color=style.ink, fontsize=9)
    axes.text(0.05, 0.42, "mean rank", ha="left", va="center", color=style.soft, fontsize=8.5)


def _names(
    axes: Axes,
    names: Sequence[str],  # as shown
    ranks: Sequence[float],
    at: Sequence[float],
    frame: tuple[float, float, float, int],
    style: Style,
) -> None:
    """The better half on the left, the other on the right, each joined to its rank."""
    room, width, top, half = frame
    for index, (name, rank, x) in enumerate(zip(names, ranks, at, strict=True)):
        left = index < half
        y = top + LINE * (index if left else len(names) - 1 - index) + 0.12
        edge = room - 0.1 if left else width - room + 0.1
        axes.plot([x, x, edge], [0.5, y, y], color=style.soft, linewidth=0.8, zorder=1)
        side = "right" if left else "left"
        shift = -0.05 if left else 0.05
        shown = f"{name}  {rank:.2f}" if left else _numbered(name, rank)
        text = axes.text(edge + shift, y, shown, ha=side, va="center", color=style.ink)
        text.set_parse_math(False)
