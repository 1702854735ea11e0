"""Figures: forest plots of paired differences and the base-new plane. Colours are safe for
colour-blind readers.

SVG is made for inlining into a page: text stays text, ink and rules take the page's colours, ids
carry a prefix, and the bytes depend on the numbers alone.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from analysis.compare import Block, Comparison
from analysis.results import Results
from analysis.tables import AVERAGE, Cell, MainTable, label, points

VERDICT_COLOURS = {"better": "#0173b2", "worse": "#d55e00", "undecided": "#8b9096"}
INK, RULE, SOFT = "#010203", "#040506", "#070809"
"""Stand-ins that become the page's text, rule and soft text colours in inline SVG."""
PRINT_COLOURS = {INK: "#1d2328", RULE: "#d5d9dd"}
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*")
MAX_LABEL_POINTS = 140.0
PANEL_WIDTH = 4.3
FONT_SIZE = 10.0
FONT = FontProperties(family="DejaVu Sans", size=FONT_SIZE)
ROW_HEIGHT = 0.34
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "refinelab",
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 100,
}


@contextmanager
def _style(colours: Mapping[str, str]) -> Iterator[None]:
    """Our settings with ink and rule in these colours, and matplotlib's as they were afterwards."""
    settings = {k: colours.get(v, v) if isinstance(v, str) else v for k, v in SETTINGS.items()}
    with matplotlib.rc_context({**seaborn.axes_style("ticks"), **settings}):
        yield


def forest_svg(block: Block, metric: str, *, prefix: str) -> str:
    """One metric's forest plot as inline SVG; ``prefix`` keeps its ids apart from other figures on
    the page.
    """
    family = _drawn(block, metric)
    with _style({}):
        figure = Figure(figsize=(PANEL_WIDTH, 0.75 + ROW_HEIGHT * len(family)))
        _forest_axes(figure.add_axes(_box(figure, family)), family, metric, INK, RULE)
        svg = _inline_svg(figure, prefix, f"{label(metric)} against {block.reference}")
    for verdict, colour in VERDICT_COLOURS.items():
        svg = svg.replace(colour, f"var(--mark-{verdict})")
    return svg


def forest_png(blocks: Sequence[Block], metrics: Sequence[str]) -> bytes:
    """All forest plots, a row a reference and a column a metric, for slides and papers. Empty where
    none exists.
    """
    grid = [(b, [(m, _drawn(b, m)) for m in metrics if _drawn(b, m)]) for b in blocks]
    grid = [(b, panels) for b, panels in grid if panels]
    if not grid:
        return b""
    heights = [0.95 + ROW_HEIGHT * max(len(f) for _, f in panels) for _, panels in grid]
    columns = max(len(panels) for _, panels in grid)
    ink, rule = PRINT_COLOURS[INK], PRINT_COLOURS[RULE]
    with _style(PRINT_COLOURS):
        figure = Figure(figsize=(PANEL_WIDTH * columns, sum(heights) + 0.45))
        total, top = figure.get_figheight(), sum(heights) + 0.45
        for (block, panels), height in zip(grid, heights, strict=True):
            for column, (metric, family) in enumerate(panels):
                left, _, width, _ = _box(figure, family)
                axes = figure.add_axes(
                    (
                        (column + left) / columns,
                        (top - 0.4 - ROW_HEIGHT * len(family)) / total,
                        width / columns,
                        ROW_HEIGHT * len(family) / total,
                    )
                )
                _forest_axes(axes, family, metric, ink, rule)
                title = f"{label(metric)} against {_short(block.reference)}"
                axes.set_title(title, loc="left", fontsize=10, parse_math=False)
            top -= height
        figure.text(0.01, 0.12 / total, FOREST_CAPTION, fontsize=7.5, color=ink)
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


FOREST_CAPTION = (
    "Points: mean paired difference. Thick bar: 95 % on these datasets (seeds resampled). "
    "Thin line: 95 % on datasets like these (datasets and seeds). Small dots: single datasets."
)


def _drawn(block: Block, metric: str) -> list[Comparison]:
    return [c for c in block.comparisons.get(metric, ()) if c.difference is not None]


def _width(text: str) -> float:
    """Width of a text in points at the font size of the figures."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FONT, ismath=False)
    return float(width)


def _short(name: str, *, room: float = MAX_LABEL_POINTS) -> str:
    """The name, cut with an ellipsis where it is wider than ``room`` points."""
    if _width(name) <= room:
        return name
    kept = name
    while kept and _width(f"{kept}…") > room:
        kept = kept[:-1]
    return f"{kept}…"


def _box(figure: Figure, family: Sequence[Comparison]) -> tuple[float, float, float, float]:
    """Axes box: room on the left for the longest name, on the right for the number."""
    longest = max((_width(_short(c.variant)) for c in family), default=0.0)
    left = (1.05 * longest + 12) / (72 * PANEL_WIDTH)
    height = figure.get_figheight()
    return left, 0.55 / height, 0.84 - left, 1 - 0.75 / height


def _forest_axes(
    axes: Axes, family: Sequence[Comparison], metric: str, ink: str, rule: str
) -> None:
    """Draw one family, first variant on top, in percentage points."""
    axes.axvline(0.0, color=ink, linewidth=0.8)
    for row, comparison in enumerate(family):
        _forest_row(axes, row, comparison, ink)
    axes.set_yticks(range(len(family)))
    axes.set_yticklabels([_short(c.variant) for c in family], parse_math=False)
    axes.set_ylim(len(family) - 0.5, -0.5)
    axes.set_xlabel(f"{label(metric)} difference, points", parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=rule, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _forest_row(axes: Axes, row: int, c: Comparison, ink: str) -> None:
    """One variant: datasets as dots, both intervals, the mean and its number."""
    assert c.difference is not None
    colour = VERDICT_COLOURS.get(c.verdict, VERDICT_COLOURS["undecided"])
    dots = [100 * d for d in c.per_dataset if d is not None]
    if len(dots) > 1:
        axes.plot(dots, [row + 0.26] * len(dots), ".", color=colour, alpha=0.55, markersize=3.5)
    if c.seeds_only:
        ends = [100 * v for v in c.seeds_only]
        (bar,) = axes.plot(ends, [row, row], color=colour, linewidth=6, alpha=0.4)
        bar.set_solid_capstyle("butt")
    if interval := c.two_level or (c.t_interval if not c.seeds_only else None):
        axes.plot([100 * v for v in interval], [row, row], color=colour, linewidth=1.4)
    marker = {"better": "^", "worse": "v"}.get(c.verdict, "o")
    face = colour if marker != "o" else "white"
    mean = [100 * c.difference]
    axes.plot(mean, [row], marker, color=colour, markerfacecolor=face, markersize=6.5)
    number = points(c.difference, sign=True).replace("-", "−")
    place = axes.get_yaxis_transform()
    axes.text(1.03, row, number, transform=place, va="center", color=ink, clip_on=False)


def plane_svg(results: Results, table: MainTable, *, prefix: str) -> str:
    """Average base against average new accuracy, with curves of equal HM.

    Empty without base and new averages. An inert copy of another variant is not drawn again.
    """
    dataset = AVERAGE if AVERAGE in table.datasets else table.datasets[0]
    if not {"base", "new"} <= set(table.metrics[dataset]):
        return ""
    cells = {
        v: (table.cells[v, dataset, "base"], table.cells[v, dataset, "new"])
        for v in results.variants
        if v not in results.aliases
    }
    shown = {v: pair for v, pair in cells.items() if pair[0].mean is not None}
    if not shown:
        return ""
    with _style({}):
        height = max(4.4, 0.5 + 0.235 * len(shown))
        figure = Figure(figsize=(7.0, height))
        axes = figure.add_axes((0.1, 0.57 / height, 0.52, 1 - 0.75 / height))
        handles = _plane_points(axes, list(shown.values()))
        _equal_hm(axes)
        axes.set_xlabel("Base accuracy, %")
        axes.set_ylabel("New accuracy, %")
        names = [f" {_short(v)}" for v in shown]
        place = {"loc": "upper left", "bbox_to_anchor": (1.03, 1.01), "frameon": False}
        for text in axes.legend(handles, names, **place).get_texts():
            text.set_parse_math(False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        return _inline_svg(figure, prefix, "Base against new accuracy")


def _plane_points(axes: Axes, pairs: Sequence[tuple[Cell, Cell]]) -> list[Line2D]:
    """Draw (base, new) cells with their half widths; the legend's handles in the same order."""
    palette = seaborn.color_palette("colorblind").as_hex()
    handles = []
    for index, (base, new) in enumerate(pairs):
        assert base.mean is not None and new.mean is not None
        turn, colour = divmod(index, len(palette))
        look = {"marker": MARKERS[(index + turn) % len(MARKERS)], "color": palette[colour]}
        look |= {"linestyle": "", "markersize": 7}
        axes.errorbar(
            [100 * base.mean],
            [100 * new.mean],
            xerr=[100 * (base.half_width or 0.0)],
            yerr=[100 * (new.half_width or 0.0)],
            elinewidth=0.9,
            alpha=0.9,
            **look,
        )
        handles.append(Line2D([], [], **look))
    return handles


def _equal_hm(axes: Axes) -> None:
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
        axes.plot(*zip(*seen, strict=True), ":", color=RULE, linewidth=1.3, zorder=0)
        x, y = seen[-2]
        axes.annotate(
            f"HM {hm:g}",
            (x, y),
            xytext=(-2, 5),
            textcoords="offset points",
            fontsize=7,
            ha="right",
            color=SOFT,
        )
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)


def _inline_svg(figure: Figure, prefix: str, title: str) -> str:
    """SVG text of a figure without prolog, in the page's colours, scaling to the width of its
    box.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", svg)
    svg = re.sub(r' id="([^"]+)"', rf' id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)").replace(SOFT, "var(--soft)")
    svg = re.sub(r"(fill|stroke): (#ffffff|white)", r"\1: var(--paper)", svg)
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(title), svg, count=1)


def _opening(title: str) -> str:
    name = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    name = name.replace("\\", "\\\\")
    return rf'<svg viewBox="\1" role="img" aria-label="{name}">'
