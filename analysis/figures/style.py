"""What all figures share: colors, fonts, names that fit, axes.

A figure is drawn in one of two styles. ``PAGE`` uses stand-ins that inline SVG swaps for the page's
own colors, so that one drawing is readable in light and in dark; ``PRINT`` is for paper. Colors are
safe for color-blind readers, and no meaning rests on color alone. The bytes depend on the numbers
alone.
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import seaborn
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from analysis.figures.colors import SERIES, Style

warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
# A letter that the font lacks is drawn as a box; tables and the page have it.

Grid = Literal["x", "y", "both", ""]
FONT_SIZE = 10.0
FONT = FontProperties(family="DejaVu Sans", size=FONT_SIZE)
MAX_LABEL_POINTS = 140.0
POINTS_PER_INCH = 72
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*")
ELLIPSIS = "…"


def series_style(index: int) -> dict[str, Any]:
    """Color and marker of the i-th series; the pairs repeat after 80 series."""
    turn, color = divmod(index, len(SERIES))
    return {"color": SERIES[color], "marker": MARKERS[(index + turn) % len(MARKERS)]}


def settings(style: Style) -> dict[str, Any]:
    """The settings of matplotlib while a figure is drawn."""
    return {
        **seaborn.axes_style("ticks"),
        "svg.fonttype": "none",
        "svg.hashsalt": "refinelab",
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",
        "font.size": FONT_SIZE,
        "axes.edgecolor": style.rule,
        "axes.labelcolor": style.ink,
        "axes.unicode_minus": True,
        "text.color": style.ink,
        "xtick.color": style.ink,
        "ytick.color": style.ink,
        "figure.dpi": 100,
        "image.composite_image": False,
        "image.interpolation": "none",
    }


@functools.lru_cache(maxsize=10_000)
def text_width(text: str, *, size: float = FONT_SIZE) -> float:
    """Width of a text in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FONT, ismath=False)
    return float(width) * size / FONT_SIZE


def short(name: str, *, room: float = MAX_LABEL_POINTS, size: float = FONT_SIZE) -> str:
    """The name, cut in its middle where it is wider than ``room`` points: ends tell names apart."""
    if text_width(name, size=size) <= room:
        return name
    low, high = 0, len(name)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(_cut(name, middle), size=size) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return _cut(name, low)


def _cut(name: str, kept: int) -> str:
    """The name cut to ``kept`` characters, half of them from its end."""
    tail = (kept + 1) // 2
    return name[: kept - tail] + ELLIPSIS + (name[-tail:] if tail else "")


def shown_names(
    names: Iterable[str], *, room: float = MAX_LABEL_POINTS, size: float = FONT_SIZE
) -> list[str]:
    """The names of one figure, those that are too wide shortened so that all still differ.

    Cut in the middle where that tells them apart, otherwise word by word, otherwise numbered.
    """
    full = list(names)
    for way in (short, _short_words):
        texts = [way(n, room=room, size=size) for n in full]
        if len(set(texts)) == len(set(full)):
            return texts
    numbers = {n: str(i) for i, n in enumerate(dict.fromkeys(full), start=1)}
    return [f"{numbers[n]} {short(n, room=0.8 * room, size=size)}" for n in full]


def _short_words(name: str, *, room: float, size: float) -> str:
    """The name with every word cut to as many characters as fit."""
    words = name.split()
    for kept in range(max(map(len, words), default=0), 0, -1):
        text = " ".join(_cut_word(w, kept) for w in words)
        if text_width(text, size=size) <= room:
            return text
    return short(name, room=room, size=size)


def _cut_word(word: str, kept: int) -> str:
    """The word cut to ``kept`` characters: its beginning, and its value where it has one."""
    if len(word) <= kept + 1:
        return word
    setting, equals, value = word.partition("=")
    if not equals:
        return word[:kept] + ELLIPSIS
    setting, value = setting.rpartition(".")[2], value[: max(1, kept // 2)]
    head = max(1, kept - len(value))
    return (setting if len(setting) <= head + 1 else setting[:head] + ELLIPSIS) + equals + value


def wrapped(text: str, *, room: float, size: float) -> str:
    """The text in lines of at most ``room`` points."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size=size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def label_room(
    names: Iterable[str], *, size: float = FONT_SIZE, room: float = MAX_LABEL_POINTS
) -> float:
    """Inches that the longest of the shortened names needs beside an axis."""
    shown = shown_names(names, size=size, room=room)
    widest = max((text_width(n, size=size) for n in shown), default=0.0)
    return (1.06 * widest + 12) / POINTS_PER_INCH


def literal(texts: Iterable[Text]) -> None:
    """Never read these texts as mathematics."""
    for text in texts:
        text.set_parse_math(False)


def name_rows(
    axes: Axes,
    names: Sequence[str],
    *,
    size: float = FONT_SIZE,
    room: float = MAX_LABEL_POINTS,
) -> None:
    """One row per name, the first on top, names left of the axis."""
    axes.set_yticks(range(len(names)))
    shown = shown_names(names, size=size, room=room)
    labels = axes.set_yticklabels(shown, fontsize=size)
    literal(labels)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def bare(axes: Axes, style: Style, *, keep: Sequence[str] = ("bottom",), grid: Grid = "x") -> None:
    """Only the axes that carry numbers, and light grid lines."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side in keep)
    if grid:
        axes.grid(axis=grid, color=style.rule, linewidth=0.6)
    axes.set_axisbelow(True)


def signed(value: float, *, digits: int = 2) -> str:
    """A difference in points with its sign and a typographic minus."""
    rounded = round(100 * value, digits) + 0.0
    text = f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"
    return text.replace("-", "−")


def series_legend(
    axes: Axes, names: Sequence[str], style: Style, *, at: tuple[float, float] = (1.03, 1.01)
) -> None:
    """Names with their color and marker, right of the axes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", markersize=7, **series_style(i)) for i in range(len(names))
    ]
    legend = axes.legend(
        handles,
        [f" {n}" for n in shown_names(names)],
        loc="upper left",
        bbox_to_anchor=at,
        frameon=False,
        labelcolor=style.ink,
        borderaxespad=0.0,
    )
    literal(legend.get_texts())
