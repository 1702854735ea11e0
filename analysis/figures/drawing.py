"""How a figure becomes SVG, PNG or PDF: the one place that calls matplotlib to save."""

import io
import re
from collections.abc import Collection, Mapping
from typing import Any

import matplotlib

from analysis.figures.colors import PAGE, PAGE_VARIABLES, PRINT, Style
from analysis.figures.figure import Figure
from analysis.figures.style import POINTS_PER_INCH, settings


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


def to_files(figure: Figure, endings: Collection[str] = tuple(_FILES)) -> dict[str, bytes]:
    """The figure as PNG and PDF, or some of these, by their endings, drawn once."""
    found = {}
    with matplotlib.rc_context(settings(PRINT)):
        canvas = figure.draw(PRINT)
        for ending, how in _FILES.items():
            if ending not in endings:
                continue
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
