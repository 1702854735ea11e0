"""Forest plots: every variant's paired difference from a reference, with both intervals."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import (
    POINTS_AN_INCH,
    Figure,
    Style,
    bare,
    label_room,
    name_rows,
    short,
    signed,
    wrapped,
)
from analysis.sections.comparisons import Block, Comparison
from analysis.text import label, rounded, rounded_ends

PANEL_WIDTH = 4.3
ROW_HEIGHT = 0.34
ABOVE, BELOW = 0.35, 0.55
NUMBER_ROOM = 0.68
SMALL = 7.5
CAPTION = (
    "Point: mean paired difference. Thick bar: 95 % on these datasets (seeds resampled). "
    "Thin line: 95 % on datasets like these (datasets and seeds). Small dots: single datasets. "
    "Grey band: differences that count as practically equal."
)
MARKER = {"better": "^", "worse": "v", "equivalent": "s"}


def forests(
    blocks: Sequence[Block], metrics: Sequence[str], *, rope: float, name: str = "forest"
) -> Figure | None:
    """All forest plots, a row a reference and a column a metric; None where nothing is compared.

    ``rope`` is half the width of the band that counts as practically equal, a fraction.
    """
    grid = [[_panel(b, m, rope=rope, name=name) for m in metrics] for b in blocks]
    panels = [[p for p in row if p is not None] for row in grid]
    panels = [row for row in panels if row]
    if not panels:
        return None
    families = [[_drawn(b, m) for m in metrics if _drawn(b, m)] for b in blocks]
    titles = [
        [f"{label(m)} against {b.reference}" for m in metrics if _drawn(b, m)] for b in blocks
    ]
    filled = [(f, t) for f, t in zip(families, titles, strict=True) if f]
    return Figure(
        name=name,
        title="Forest plot of differences",
        caption=CAPTION,
        values=[p.values for row in panels for p in row],
        draw=partial(_draw_grid, filled, rope),
        panels=tuple(p for row in panels for p in row),
    )


def _panel(block: Block, metric: str, *, rope: float, name: str) -> Figure | None:
    family = _drawn(block, metric)
    if not family:
        return None
    return Figure(
        name=f"{name}_{block.reference}_{metric}",
        title=f"{label(metric)} against {block.reference}",
        caption=CAPTION,
        values={
            "reference": block.reference,
            "metric": metric,
            "rope": rope,
            "rows": [_row_values(c) for c in family],
        },
        draw=partial(_draw_one, family, metric, rope),
    )


def _row_values(c: Comparison) -> dict[str, Any]:
    return {
        "variant": c.variant,
        "verdict": c.verdict,
        "difference": rounded(c.difference),
        "on_these_datasets": rounded_ends(c.seeds_only),
        "on_datasets_like_these": rounded_ends(c.two_level),
        "per_dataset": [rounded(d) for d in c.per_dataset],
    }


def _drawn(block: Block, metric: str) -> list[Comparison]:
    return [c for c in block.comparisons.get(metric, ()) if c.difference is not None]


def _draw_one(family: Sequence[Comparison], metric: str, rope: float, style: Style) -> Canvas:
    height = ABOVE + BELOW + ROW_HEIGHT * len(family)
    canvas = Canvas(figsize=(PANEL_WIDTH, height))
    left = label_room(c.variant for c in family)
    box = (
        left / PANEL_WIDTH,
        BELOW / height,
        (PANEL_WIDTH - left - NUMBER_ROOM) / PANEL_WIDTH,
        ROW_HEIGHT * len(family) / height,
    )
    axes = canvas.add_axes(box)
    _axes(axes, family, metric, rope, style)
    axes.set_title(f"{label(metric)}", loc="left", fontsize=10, parse_math=False)
    return canvas


def _draw_grid(
    grid: Sequence[tuple[Sequence[Sequence[Comparison]], Sequence[str]]], rope: float, style: Style
) -> Canvas:
    heights = [ABOVE + BELOW + ROW_HEIGHT * max(map(len, families)) for families, _ in grid]
    columns = max(len(families) for families, _ in grid)
    total, width = sum(heights) + (0.5 if columns > 1 else 0.8), PANEL_WIDTH * columns
    canvas = Canvas(figsize=(width, total))
    top = total
    for (families, titles), height in zip(grid, heights, strict=True):
        for column, (family, title) in enumerate(zip(families, titles, strict=True)):
            left, rows = label_room(c.variant for c in family), ROW_HEIGHT * len(family)
            box = (
                (column * PANEL_WIDTH + left) / width,
                (top - ABOVE - rows) / total,
                (PANEL_WIDTH - left - NUMBER_ROOM) / width,
                rows / total,
            )
            axes = canvas.add_axes(box)
            _axes(axes, family, title.split(" against ")[0], rope, style)
            text = short(title, room=POINTS_AN_INCH * (PANEL_WIDTH - 0.2))
            place = (column * PANEL_WIDTH + 0.1) / width, (top - ABOVE + 0.1) / total
            canvas.text(*place, text, fontsize=10, color=style.ink, parse_math=False)
        top -= height
    text = wrapped(CAPTION, room=POINTS_AN_INCH * (width - 0.2), size=SMALL)
    canvas.text(0.1 / width, 0.06 / total, text, fontsize=SMALL, color=style.ink, va="bottom")
    return canvas


def _axes(axes: Axes, family: Sequence[Comparison], metric: str, rope: float, style: Style) -> None:
    """Draw one family, first variant on top, in percentage points."""
    axes.axvspan(-100 * rope, 100 * rope, color=style.soft, alpha=0.10, linewidth=0)
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    for row, comparison in enumerate(family):
        _row(axes, row, comparison, style)
    name_rows(axes, [c.variant for c in family])
    axes.set_xlabel(f"{label(metric)} difference, points", parse_math=False)
    bare(axes, style)


def _row(axes: Axes, row: int, c: Comparison, style: Style) -> None:
    """One variant: datasets as dots, both intervals, the mean and its number."""
    assert c.difference is not None
    color = style.of(c.verdict)
    dots = [100 * d for d in c.per_dataset if d is not None]
    if len(dots) > 1:
        axes.plot(dots, [row + 0.26] * len(dots), ".", color=color, alpha=0.55, markersize=3.5)
    if c.seeds_only:
        ends = [100 * v for v in c.seeds_only]
        (bar,) = axes.plot(ends, [row, row], color=color, linewidth=6, alpha=0.4)
        bar.set_solid_capstyle("butt")
    if interval := c.two_level or (c.t_interval if not c.seeds_only else None):
        axes.plot([100 * v for v in interval], [row, row], color=color, linewidth=1.4)
    marker = MARKER.get(c.verdict, "o")
    face = color if marker != "o" else style.paper
    mean = [100 * c.difference]
    axes.plot(mean, [row], marker, color=color, markerfacecolor=face, markersize=6.5)
    place = axes.get_yaxis_transform()
    text = signed(c.difference)
    axes.text(1.03, row, text, transform=place, va="center", color=style.ink, clip_on=False)
