"""What all figures share: colors, fonts, and how a figure becomes SVG, PNG or PDF.

A figure is drawn in one of two styles. ``PAGE`` uses stand-ins that inline SVG swaps for the page's
own colors, so that one drawing is readable in light and in dark; ``PRINT`` is for paper. Colors are
safe for color-blind readers, and no meaning hangs on color alone. The bytes depend on the numbers
alone.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
# A letter that the font lacks is drawn as a box; tables and the page have it.

Grid = Literal["x", "y", "both", ""]
FONT_SIZE = 10.0
FONT = FontProperties(family="DejaVu Sans", size=FONT_SIZE)
MAX_LABEL_POINTS = 140.0
POINTS_AN_INCH = 72
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*")
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Colors of one medium."""

    ink: str
    rule: str
    soft: str
    paper: str
    better: str = "#0173b2"
    worse: str = "#d55e00"
    equivalent: str = "#029e73"
    undecided: str = "#8b9096"

    def of(self, verdict: str) -> str:
        """The color of a verdict word; that of undecided for any other text."""
        known = {"better": self.better, "worse": self.worse, "equivalent": self.equivalent}
        return known.get(verdict, self.undecided)


PAGE = Style(ink="#010203", rule="#040506", soft="#070809", paper="#fdfcfb")
PRINT = Style(ink="#1d2328", rule="#d5d9dd", soft="#5b656e", paper="#ffffff")

SERIES = (
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#949494",
    "#56b4e9",
)
"""seaborn's color-blind palette without the two that vanish on white paper."""

_PAGE_VARIABLES = {
    PAGE.ink: "currentColor",
    PAGE.rule: "var(--rule)",
    PAGE.soft: "var(--soft)",
    PAGE.paper: "var(--paper)",
    PAGE.better: "var(--mark-better)",
    PAGE.worse: "var(--mark-worse)",
    PAGE.equivalent: "var(--mark-equivalent)",
    PAGE.undecided: "var(--mark-undecided)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the report. ``values`` is what it shows, JSON-able; ``draw`` makes it in a style.

    ``name`` is the stem of its files. ``panels`` are the same numbers as separate small figures for
    narrow screens; a figure without panels is shown whole.
    """

    name: str
    title: str
    caption: str
    values: Any
    draw: Callable[[Style], Canvas]
    panels: tuple["Figure", ...] = field(default=())


def series_style(index: int) -> dict[str, Any]:
    """Color and marker of the i-th series; the pairs repeat after 80 series."""
    turn, color = divmod(index, len(SERIES))
    return {"color": SERIES[color], "marker": MARKERS[(index + turn) % len(MARKERS)]}


def _settings(style: Style) -> dict[str, Any]:
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
    }


def _saved(figure: Figure, style: Style, **how: Any) -> bytes:
    """The figure drawn and saved with our settings; matplotlib's own are back afterwards."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_settings(style)):
        figure.draw(style).savefig(buffer, **how)
    return buffer.getvalue()


_FILES: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": 150, "facecolor": PRINT.paper, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


def to_files(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and PDF by their endings, drawn once."""
    found = {}
    with matplotlib.rc_context(_settings(PRINT)):
        canvas = figure.draw(PRINT)
        for ending, how in _FILES.items():
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=ending, **how)
            found[ending] = buffer.getvalue()
    return found


def to_svg(figure: Figure, *, prefix: str) -> str:
    """The figure as inline SVG in the page's colors and font; ``prefix`` keeps its ids apart."""
    metadata = {"Date": None, "Creator": None}
    text = _saved(figure, PAGE, format="svg", transparent=True, metadata=metadata).decode()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r' id="([^"]+)"', rf' id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    svg = svg.replace("xlink:href", "href")
    for stand_in, variable in _PAGE_VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"(fill|stroke): (#ffffff|white)", r"\1: var(--paper)", svg)
    found = re.search(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', svg)
    assert found is not None
    return _opening(figure.title, found[1]) + svg[found.end() :]


def _opening(title: str, box: str) -> str:
    """The tag; width is natural size at most, so that a small figure is not blown up."""
    name = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    width = float(box.split()[2]) * 96 / POINTS_AN_INCH
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{name}" '
        f'style="width:{width:.0f}px;max-width:100%">'
    )


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
    """The name with so many of its characters, half of them from its end."""
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
    """The word with so many of its characters: its beginning, and its value where it has one."""
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
    return (1.06 * widest + 12) / POINTS_AN_INCH


def plain(texts: Iterable[Text]) -> None:
    """Never read names as mathematics."""
    for text in texts:
        text.set_parse_math(False)


def name_rows(
    axes: Axes,
    names: Sequence[str],
    *,
    size: float = FONT_SIZE,
    room: float = MAX_LABEL_POINTS,
) -> None:
    """One row a name, the first on top, names left of the axis."""
    axes.set_yticks(range(len(names)))
    shown = shown_names(names, size=size, room=room)
    labels = axes.set_yticklabels(shown, fontsize=size)
    plain(labels)
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
    plain(legend.get_texts())
