"""A figure: an info record with what it shows, and a function that draws it in a style.

Each file of this folder defines the info records of one topic and a function that makes the figure
from them; the sections fill the records. What report.json says about a figure follows from its
record alone.
"""

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure as Canvas

from analysis.figures.style import PAGE, PAGE_VARIABLES, POINTS_PER_INCH, PRINT, Style, settings
from analysis.stats import Interval
from analysis.text import rounded, rounded_ends, rounded_p


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the report. ``info`` is what it shows; ``draw`` makes it in a style.

    ``name`` is the stem of its files. ``panels`` are the same numbers as separate small figures for
    narrow screens; a figure without panels is shown whole, and so are, where there is room, panels
    that have ``shared_rows``. The numbers of an ``exact`` figure are written to files without
    rounding.
    """

    name: str
    title: str
    caption: str
    info: Any
    draw: Callable[[Style], Canvas]
    panels: tuple["Figure", ...] = ()
    exact: bool = False
    shared_rows: bool = False

    @property
    def values(self) -> Any:
        """What the figure shows, as JSON values, see ``values_of``."""
        return values_of(self.info, exact=self.exact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """A number with its two 95 % intervals, None where one does not exist."""

    value: float
    on_these_datasets: Interval | None = None
    on_datasets_like_these: Interval | None = None


def values_of(info: Any, *, exact: bool = False) -> Any:
    """An info record as JSON values: fractions rounded as files store them unless ``exact``, None
    for NaN.

    A dataclass becomes an object of its fields: a field named ``p`` or ``..._p`` holds a p value, a
    mapping whose metadata say ``inline`` joins the object, and ``in_files=False`` leaves a field
    out.
    """
    if info is None or isinstance(info, str | bool | int):
        return info
    if isinstance(info, float):
        return (info if exact else rounded(info)) if math.isfinite(info) else None
    if isinstance(info, Interval):
        return rounded_ends(info)
    if isinstance(info, np.ndarray):
        return values_of(info.tolist(), exact=exact)
    if isinstance(info, Mapping):
        return {str(key): values_of(value, exact=exact) for key, value in info.items()}
    if is_dataclass(info):
        return _object(info, exact)
    return [values_of(entry, exact=exact) for entry in info]


def _object(info: Any, exact: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(info):
        value, name = getattr(info, each.name), each.name
        if not each.metadata.get("in_files", True):
            continue
        if each.metadata.get("inline"):
            found |= values_of(value, exact=exact)
        elif name == "p" or name.endswith("_p"):
            found[name] = rounded_p(value)
        else:
            found[name] = values_of(value, exact=exact)
    return found


def _saved(figure: Figure, style: Style, **how: Any) -> bytes:
    """The figure drawn and saved with our settings; matplotlib's own are restored afterwards."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings(style)):
        figure.draw(style).savefig(buffer, **how)
    return buffer.getvalue()


_FILES: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": 150, "facecolor": PRINT.paper, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


def to_files(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG and PDF by their endings, drawn once."""
    found = {}
    with matplotlib.rc_context(settings(PRINT)):
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
    for stand_in, variable in PAGE_VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r"(fill|stroke): (#ffffff|white)", r"\1: var(--paper)", svg)
    found = re.search(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', svg)
    assert found is not None
    return _opening(figure.title, found[1]) + svg[found.end() :]


def _opening(title: str, box: str) -> str:
    """The tag; width is natural size at most, so that a small figure is not blown up."""
    name = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    width = float(box.split()[2]) * 96 / POINTS_PER_INCH
    return (
        f'<svg viewBox="{box}" role="img" aria-label="{name}" '
        f'style="width:{width:.0f}px;max-width:100%">'
    )
