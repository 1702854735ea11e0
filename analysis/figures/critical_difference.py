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
from analysis.text import counted

LINE = 0.27
BAR = 0.13
MIDDLE = 3.6
MARGIN = 0.3
BEYOND, CLEAR = 0.05, 0.06
APART = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """Variants from the best to the worst mean rank, and the ``groups`` of neighbors in which no
    pair differs. ``apart`` counts the pairs that do not differ and share no group, ``untested``
    those without a test.
    """

    variants: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    groups: tuple[tuple[str, ...], ...]
    apart: int = 0
    untested: int = 0


def critical_difference(info: RankInfo, *, alpha: float) -> Figure | None:
    """Variants by mean rank; a bar joins neighbors no two of which differ. None for fewer than two
    variants.
    """
    if len(info.variants) < 2:
        return None
    return Figure(
        name="critical_difference",
        title="Critical-difference diagram",
        caption="Mean rank over datasets, 1 is best. A bar joins neighbors no two of which differ "
        f"about datasets like these (t over dataset means, adjusted by Holm, alpha {alpha:g}), and "
        f"crosses nobody else. Joined does not mean equal.{_unjoined(info)}",
        info=info,
        draw=partial(_draw, info),
    )


def _unjoined(info: RankInfo) -> str:
    """What the absence of a bar does not mean."""
    said = ""
    if info.apart:
        said += (
            f" {counted(info.apart, 'more pair')} without a difference cannot be joined, because "
            "a variant that differs from one of the two ranks between them."
        )
    if info.untested:
        said += f" {counted(info.untested, 'pair')} without a test cannot be joined either."
    return said


def _levels(bars: Sequence[tuple[float, float]]) -> list[int]:
    """The row of every bar, the first in which it is clear of the others; in the order of their
    beginnings.
    """
    last: list[float] = []
    rows = []
    for start, end in bars:
        row = next((i for i, taken in enumerate(last) if taken + CLEAR < start), len(last))
        last[row : row + 1] = [end]
        rows.append(row)
    return rows


def _ends(stretch: tuple[int, int], at: Sequence[float]) -> tuple[float, float]:
    """Where a bar begins and ends: a little beyond its members, never at a neighbor."""
    first, last = stretch
    before = at[first] - at[first - 1] if first else math.inf
    after = at[last + 1] - at[last] if last + 1 < len(at) else math.inf
    return at[first] - min(BEYOND, before / 3), at[last] + min(BEYOND, after / 3)


def _draw(info: RankInfo, style: Style) -> Canvas:
    names, ranks = info.variants, info.mean_ranks
    half, middle = math.ceil(len(names) / 2), max(MIDDLE, APART * len(names))
    shown = shown_names(names)
    widest = max(map(text_width, map(_numbered, shown, ranks)))
    room = 1.06 * widest / POINTS_PER_INCH + MARGIN
    low = math.floor(min(ranks))
    high = max(math.ceil(max(ranks)), low + 1)
    at = [room + (rank - low) * middle / (high - low) for rank in ranks]
    bars = _bars(info, at)
    levels = _levels(bars)
    below = 0.5 + 0.2 + BAR * (1 + max(levels, default=0))
    width, height = middle + 2 * room, below + LINE * half + 0.2
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    _ruler(axes, room, middle, low, high, style)
    _names(axes, shown, ranks, at, (room, width, below, half), style)
    for level, ends in zip(levels, bars, strict=True):
        y = 0.5 + 0.16 + BAR * level
        (line,) = axes.plot(ends, [y, y], color=style.ink, linewidth=3.4, zorder=3)
        line.set_solid_capstyle("butt")
    return canvas


def _bars(info: RankInfo, at: Sequence[float]) -> list[tuple[float, float]]:
    """Where the bar of every group begins and ends."""
    index_of = {name: i for i, name in enumerate(info.variants)}
    places = [[index_of[name] for name in group] for group in info.groups]
    return sorted(_ends((min(group), max(group)), at) for group in places)


def _numbered(name: str, rank: float) -> str:
    return f"{rank:.2f}  {name}"


def _ruler(axes: Axes, room: float, middle: float, low: int, high: int, style: Style) -> None:
    axes.plot([room, room + middle], [0.5, 0.5], color=style.ink, linewidth=1.0)
    step = max(1, math.ceil((high - low) / 10))
    for rank in range(low, high + 1, step):
        x = room + (rank - low) * middle / (high - low)
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
