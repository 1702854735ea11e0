"""Where the variance of each dataset's runs comes from: stacked bars by part and interaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from analysis.figures.colors import SERIES, Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, literal, name_rows, short
from analysis.stats import SEEDS, VarianceShares, VarianceSource

ROW, WIDTH = 0.34, 5.4
ABOVE, BELOW = 0.1, 0.55
LEGEND_ROW, COLUMNS = 0.24, 3
LEAST_LABEL = 0.07
HATCHES = ("////", "....", "xxxx")


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceInfo:
    """The shares of variance of one dataset by their printed source; empty where there are none,
    and ``reason`` says why.
    """

    dataset: str
    shares: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """How one source of variance is drawn: a part has a color, interactions and seeds a hatch."""

    source: VarianceSource
    color: str
    hatch: str = ""


def variance_figure(
    found: Mapping[str, VarianceShares], parts: Sequence[str], *, metric: str
) -> Figure | None:
    """A row per dataset; None where no dataset has shares. ``metric`` is the printed name."""
    shares = {dataset: one.by_source for dataset, one in found.items()}
    drawn = {dataset: by_source for dataset, by_source in shares.items() if by_source}
    if not drawn:
        return None
    return Figure(
        name="variance_shares",
        title=f"Where the variance of {metric} comes from",
        caption="Over the runs of each dataset on the whole grid: the share of their variance that "
        "each part explains alone, that two or more parts explain only jointly, and that is left "
        "to seeds. A description, not a test: with few seeds, part of every share is noise."
        + _notes(found),
        info=[
            VarianceInfo(
                dataset=dataset,
                shares={source.name: share for source, share in shares[dataset].items()},
                reason=one.reason,
            )
            for dataset, one in found.items()
        ],
        draw=partial(_draw, drawn, _bands(parts), metric),
    )


def _notes(found: Mapping[str, VarianceShares]) -> str:
    """The remarks about single datasets, grouped by remark."""
    remarks: dict[str, list[str]] = {}
    for dataset, shares in found.items():
        if shares.reason:
            remarks.setdefault(shares.reason, []).append(dataset)
    return "".join(f" {', '.join(names)}: {reason}." for reason, names in remarks.items())


def _bands(parts: Sequence[str]) -> list[Band]:
    colors = [c for c in SERIES if c != "#949494"]
    bands = [
        Band(
            source=VarianceSource(1, part),
            color=colors[i % len(colors)],
            hatch="" if i < len(colors) else "\\\\",
        )
        for i, part in enumerate(parts)
    ]
    for order in range(2, len(parts) + 1):
        hatch = HATCHES[(order - 2) % len(HATCHES)]
        bands.append(Band(source=VarianceSource(order), color="#949494", hatch=hatch))
    return [*bands, Band(source=SEEDS, color="")]


def _draw(
    shares: Mapping[str, Mapping[VarianceSource, float]],
    bands: Sequence[Band],
    metric: str,
    style: Style,
) -> Canvas:
    names = list(shares)
    rows = -(-len(bands) // COLUMNS)
    left, below = label_room(names), BELOW + LEGEND_ROW * rows
    width, height = left + WIDTH + 0.2, ABOVE + below + ROW * len(names)
    canvas = Canvas(figsize=(width, height))
    axes = canvas.add_axes((left / width, below / height, WIDTH / width, ROW * len(names) / height))
    for row, dataset in enumerate(names):
        start = 0.0
        for band in bands:
            share = shares[dataset].get(band.source, 0.0)
            axes.barh(row, 100 * share, left=100 * start, height=0.72, **_style(band, style))
            if share >= LEAST_LABEL:
                axes.text(100 * (start + share / 2), row, f"{100 * share:.0f}", **_number(style))
            start += share
    name_rows(axes, names)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"Share of the variance of {metric}, %", parse_math=False)
    bare(axes, style, grid="")
    legend = canvas.legend(
        [Patch(**_style(band, style)) for band in bands],
        [short(band.source.name) for band in bands],
        loc="lower left",
        bbox_to_anchor=(left / width, 0.0),
        ncols=COLUMNS,
        frameon=False,
        labelcolor=style.ink,
        fontsize=9,
        borderaxespad=0.0,
    )
    literal(legend.get_texts())
    return canvas


def _style(band: Band, style: Style) -> dict[str, Any]:
    return {
        "facecolor": band.color or style.paper,
        "edgecolor": style.soft if not band.color else style.paper,
        "hatch": band.hatch,
        "linewidth": 0.8,
    }


def _number(style: Style) -> dict[str, Any]:
    """A number on any band: dark on a pale plate."""
    plate = {"boxstyle": "round,pad=0.12", "facecolor": style.paper, "edgecolor": "none"}
    return {"ha": "center", "va": "center", "color": style.ink, "fontsize": 8.5, "bbox": plate}
