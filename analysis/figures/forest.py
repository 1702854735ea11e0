"""Forest plots: every variant's paired difference from a reference, with both intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import (
    POINTS_PER_INCH,
    bare,
    label_room,
    name_rows,
    short,
    signed,
    wrapped,
)
from analysis.stats import Interval
from analysis.text import label

PANEL_WIDTH = 4.3
ROW_HEIGHT = 0.34
ABOVE, BELOW = 0.35, 0.55
NUMBER_ROOM = 0.95
SMALL = 7.5
CAPTION = (
    "Point: mean paired difference. Thick bar: 95 % interval of the mean over these datasets. Thin "
    "line: 95 % interval of the mean over datasets like these. Small dots: single datasets. Gray "
    "band: differences that count as practically equivalent. Color and shape: the verdict on these "
    "datasets; after the number, the marks of both verdicts."
)
MARKER = {"better": "^", "worse": "v", "equivalent": "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """A variant's mean paired difference, fractions, with its intervals, the verdict on these
    datasets and the ``marks`` of both verdicts.

    ``per_dataset`` are the differences on single datasets, None where there is no pair.
    """

    variant: str
    verdict: str
    marks: str
    difference: float
    on_these_datasets: Interval | None
    on_datasets_like_these: Interval | None
    per_dataset: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestInfo:
    """The rows of one panel: the differences from ``reference`` on ``metric``. ``rope`` is half the
    width of the band that counts as practically equal, a fraction.
    """

    reference: str
    metric: str
    rope: float
    rows: tuple[ForestRow, ...]


def forests(panels: Sequence[Sequence[ForestInfo]], *, name: str = "forest") -> Figure | None:
    """All forest plots, a row of panels per reference; None where nothing is compared."""
    filled = [[panel for panel in row if panel.rows] for row in panels]
    filled = [row for row in filled if row]
    if not filled:
        return None
    return Figure(
        name=name,
        title="Forest plot of differences",
        caption=CAPTION,
        info=[panel for row in filled for panel in row],
        draw=partial(_draw_grid, filled),
        panels=tuple(_panel(panel, name) for row in filled for panel in row),
    )


def _panel(info: ForestInfo, name: str) -> Figure:
    return Figure(
        name=f"{name}_{info.reference}_{info.metric}",
        title=f"{label(info.metric)} against {info.reference}",
        caption=CAPTION,
        info=info,
        draw=partial(_draw_one, info),
    )


def _draw_one(info: ForestInfo, style: Style) -> Canvas:
    height = ABOVE + BELOW + ROW_HEIGHT * len(info.rows)
    canvas = Canvas(figsize=(PANEL_WIDTH, height))
    left = label_room(row.variant for row in info.rows)
    box = (
        left / PANEL_WIDTH,
        BELOW / height,
        (PANEL_WIDTH - left - NUMBER_ROOM) / PANEL_WIDTH,
        ROW_HEIGHT * len(info.rows) / height,
    )
    axes = canvas.add_axes(box)
    _axes(axes, info, style)
    axes.set_title(label(info.metric), loc="left", fontsize=10, parse_math=False)
    return canvas


def _draw_grid(grid: Sequence[Sequence[ForestInfo]], style: Style) -> Canvas:
    heights = [ABOVE + BELOW + ROW_HEIGHT * max(len(info.rows) for info in row) for row in grid]
    columns = max(map(len, grid))
    total, width = sum(heights) + (0.5 if columns > 1 else 0.8), PANEL_WIDTH * columns
    canvas = Canvas(figsize=(width, total))
    top = total
    for row, height in zip(grid, heights, strict=True):
        for column, info in enumerate(row):
            left = label_room(entry.variant for entry in info.rows)
            rows = ROW_HEIGHT * len(info.rows)
            box = (
                (column * PANEL_WIDTH + left) / width,
                (top - ABOVE - rows) / total,
                (PANEL_WIDTH - left - NUMBER_ROOM) / width,
                rows / total,
            )
            _axes(canvas.add_axes(box), info, style)
            title = f"{label(info.metric)} against {info.reference}"
            text = short(title, room=POINTS_PER_INCH * (PANEL_WIDTH - 0.2))
            place = (column * PANEL_WIDTH + 0.1) / width, (top - ABOVE + 0.1) / total
            canvas.text(*place, text, fontsize=10, color=style.ink, parse_math=False)
        top -= height
    text = wrapped(CAPTION, room=POINTS_PER_INCH * (width - 0.2), size=SMALL)
    canvas.text(0.1 / width, 0.06 / total, text, fontsize=SMALL, color=style.ink, va="bottom")
    return canvas


def _axes(axes: Axes, info: ForestInfo, style: Style) -> None:
    """Draw one panel, first variant on top, in percentage points."""
    axes.axvspan(-100 * info.rope, 100 * info.rope, color=style.soft, alpha=0.10, linewidth=0)
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    for y, row in enumerate(info.rows):
        _row(axes, y, row, style)
    name_rows(axes, [row.variant for row in info.rows])
    axes.set_xlabel(f"{label(info.metric)} difference, points", parse_math=False)
    bare(axes, style)


def _row(axes: Axes, y: int, row: ForestRow, style: Style) -> None:
    """One variant: datasets as dots, both intervals, the mean and its number."""
    color = style.of(row.verdict)
    dots = [100 * d for d in row.per_dataset if d is not None]
    if len(dots) > 1:
        axes.plot(dots, [y + 0.26] * len(dots), ".", color=color, alpha=0.55, markersize=3.5)
    if row.on_these_datasets:
        ends = [100 * v for v in row.on_these_datasets]
        (bar,) = axes.plot(ends, [y, y], color=color, linewidth=6, alpha=0.4)
        bar.set_solid_capstyle("butt")
    if interval := row.on_datasets_like_these:
        axes.plot([100 * v for v in interval], [y, y], color=color, linewidth=1.4)
    marker = MARKER.get(row.verdict, "o")
    face = color if marker != "o" else style.paper
    mean = [100 * row.difference]
    axes.plot(mean, [y], marker, color=color, markerfacecolor=face, markersize=6.5)
    beside, text = axes.get_yaxis_transform(), f"{signed(row.difference)} {row.marks}"
    axes.text(1.03, y, text, transform=beside, va="center", color=style.ink, clip_on=False)
