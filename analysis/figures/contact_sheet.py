"""Contact sheets: strips of pictures under a heading, side by side where there is room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import POINTS_PER_INCH, literal, short, text_width
from analysis.stats import Array

Pixels = NDArray[np.uint8]
"""(height, width, 3)."""

WIDTH, MARGIN, COLUMNS = 4.25, 0.14, 3
HEAD, LINE, FOOT = 0.26, 0.19, 0.2
HEAD_SIZE, LINE_SIZE, FOOT_SIZE = 11.0, 9.5, 8.5
SHARP = 160
"""Pictures with fewer pixels are repeated up to this size, so that their pixels stay sharp."""
DIM = 0.22
GROUP_COLORS = (
    "#1f6fb4",
    "#e08a0b",
    "#12a06f",
    "#cf3b2e",
    "#d67bbf",
    "#7351b5",
    "#9a6a3a",
)
"""Seven hues that differ as tints of a gray picture, too; none is gray, which is no group."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """One picture with a line below it; ``box`` frames a part of it: left, top, right and bottom as
    fractions.
    """

    pixels: Pixels
    caption: str = ""
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """Pictures in a row under a heading and further lines. ``mark`` is the color of a square before
    the heading; ``keys`` are colored words below the lines.
    """

    heading: str
    lines: tuple[str, ...]
    tiles: tuple[Tile, ...]
    mark: str = ""
    keys: tuple[tuple[str, str], ...] = field(default=())


def contact_sheet(
    strips: Sequence[Strip], *, name: str, title: str, caption: str, info: Any, across: int
) -> Figure | None:
    """A figure with one panel per strip; None without strips. ``across`` pictures fill a row;
    ``info`` is what the files hold.
    """
    if not strips:
        return None
    whole = Figure(
        name=name,
        title=title,
        caption=caption,
        info=info,
        draw=partial(_draw, strips, across),
    )
    single = [replace(whole, draw=partial(_draw, [strip], across)) for strip in strips]
    return replace(whole, panels=tuple(single))


def pixels_of(png: bytes) -> Pixels:
    """The pixels of a PNG picture."""
    values = imread(BytesIO(png), format="png")[..., :3]
    return _rounded(255 * values)


def lit(pixels: Pixels, grid: tuple[int, int], weight: Sequence[float]) -> Pixels:
    """The picture with every patch as bright as its weight: the largest is unchanged."""
    share_P = np.asarray(weight, dtype=float)
    share_P = share_P / max(float(share_P.max(initial=0.0)), 1e-12)
    light = _per_pixel(pixels, grid, DIM + (1 - DIM) * share_P)
    return _rounded(pixels * light[..., None])


def tinted(
    pixels: Pixels, grid: tuple[int, int], group: Sequence[int], color_of: dict[int, str]
) -> Pixels:
    """The picture in gray with every patch tinted in the color of its group, if it has one."""
    gray = pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    colors = np.array([to_rgb(color_of.get(g, "#777777")) for g in group])
    known = np.array([0.62 if g in color_of else 0.0 for g in group])
    tint = np.stack([_per_pixel(pixels, grid, 255 * colors[:, i]) for i in range(3)], axis=-1)
    strength = _per_pixel(pixels, grid, known)[..., None]
    return _rounded(gray * (1 - strength) + tint * strength)


def _rounded(values: Array) -> Pixels:
    pixels: Pixels = np.rint(values).astype(np.uint8)
    return pixels


def _per_pixel(pixels: Pixels, grid: tuple[int, int], value_P: Array) -> Array:
    """The value of the patch that a pixel is in, (height, width)."""
    height, width = pixels.shape[:2]
    rows = np.arange(height) * grid[0] // height
    columns = np.arange(width) * grid[1] // width
    found: Array = np.asarray(value_P).reshape(grid)[rows[:, None], columns[None, :]]
    return found


def _height(strip: Strip, across: int) -> float:
    side = (WIDTH - MARGIN * (across - 1)) / across
    foot = FOOT if any(tile.caption for tile in strip.tiles) else 0.0
    lines = len(strip.lines) + bool(strip.keys)
    return HEAD + LINE * lines + 0.06 + (side if strip.tiles else 0.0) + foot


def _draw(strips: Sequence[Strip], across: int, style: Style) -> Canvas:
    columns = min(COLUMNS, len(strips))
    rows = math.ceil(len(strips) / columns)
    block = max(_height(strip, across) for strip in strips) + 0.22
    width, height = columns * (WIDTH + 0.3), rows * block
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for index, strip in enumerate(strips):
        row, column = divmod(index, columns)
        _strip(axes, strip, (0.15 + column * (WIDTH + 0.3), row * block + 0.1), across, style)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return canvas


def _strip(
    axes: Axes, strip: Strip, corner: tuple[float, float], across: int, style: Style
) -> None:
    left, top = corner
    start = left
    if strip.mark:
        axes.add_patch(Rectangle((left, top + 0.02), 0.13, 0.13, color=strip.mark, linewidth=0))
        start += 0.2
    room = (WIDTH - (start - left)) * POINTS_PER_INCH
    _write(axes, (start, top), strip.heading, HEAD_SIZE, style.ink, room=room)
    down = top + HEAD
    for line in strip.lines:
        _write(axes, (left, down), line, LINE_SIZE, style.soft)
        down += LINE
    if strip.keys:
        _keys(axes, strip.keys, (left, down), style)
        down += LINE
    side = (WIDTH - MARGIN * (across - 1)) / across
    for place, tile in enumerate(strip.tiles):
        x, y = left + place * (side + MARGIN), down + 0.06
        axes.imshow(_sharp(tile.pixels), extent=(x, x + side, y + side, y), aspect="auto", zorder=2)
        if tile.box is not None:
            _frame(axes, tile.box, (x, y), side)
        if tile.caption:
            below = (x, y + side + 0.05)
            room = (side + MARGIN / 2) * POINTS_PER_INCH
            _write(axes, below, tile.caption, FOOT_SIZE, style.soft, room=room)


def _frame(
    axes: Axes, box: tuple[float, float, float, float], corner: tuple[float, float], side: float
) -> None:
    """A white frame on a black one, which is seen on every picture."""
    (x0, y0, x1, y1), (x, y) = box, corner
    for color, thick in (("#000000", 2.2), ("#fefefe", 1.0)):
        place, size = (x + x0 * side, y + y0 * side), ((x1 - x0) * side, (y1 - y0) * side)
        frame = Rectangle(place, *size, fill=False, edgecolor=color, linewidth=thick, zorder=3)
        axes.add_patch(frame)


def _keys(
    axes: Axes, keys: Sequence[tuple[str, str]], corner: tuple[float, float], style: Style
) -> None:
    x, y = corner
    for text, color in keys:
        wide = 0.19 + text_width(text, size=LINE_SIZE) / POINTS_PER_INCH + 0.12
        if x + wide > corner[0] + WIDTH:
            return
        axes.add_patch(Rectangle((x, y + 0.02), 0.11, 0.11, color=color, linewidth=0))
        _write(axes, (x + 0.16, y), text, LINE_SIZE, style.soft)
        x += wide


def _write(
    axes: Axes,
    corner: tuple[float, float],
    text: str,
    size: float,
    color: str,
    *,
    room: float = WIDTH * POINTS_PER_INCH,
) -> None:
    shown = short(text, room=room, size=size)
    literal([axes.text(*corner, shown, fontsize=size, color=color, va="top", ha="left")])


def _sharp(pixels: Pixels) -> Pixels:
    times = max(1, SHARP // max(pixels.shape[:2]))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
