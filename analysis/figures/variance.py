"""Where the variance of each dataset's runs comes from: stacked bars by part and interaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from analysis.figures.style import SERIES, Figure, Style, bare, label_room, name_rows, plain, short
from analysis.stats.attribution import VarianceShares
from analysis.text import rounded

ROW, WIDTH = 0.34, 5.4
ABOVE, BELOW = 0.1, 0.55
LEGEND_ROW, COLUMNS = 0.24, 3
LEAST_LABEL = 0.07
HATCHES = ("////", "....", "xxxx")
SEEDS = "seeds"
ORDER_WORDS = {2: "two together", 3: "three together"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The style of one kind of share: a part has a color, interactions and seeds a hatch too."""

    name: str
    color: str
    hatch: str = ""


def by_order(found: VarianceShares) -> dict[str, float]:
    """Shares of one dataset: a part each, interactions by how many parts they join, seeds."""
    if found.shares is None:
        return {}
    shares: dict[str, float] = {}
    for parts, share in found.shares.items():
        name = parts[0] if len(parts) == 1 else order_name(len(parts))
        shares[name] = shares.get(name, 0.0) + share
    return {**shares, SEEDS: found.seeds or 0.0}


def order_name(order: int) -> str:
    """The name of the interactions of so many parts."""
    return ORDER_WORDS.get(order, f"{order} together")


def variance_figure(
    found: Mapping[str, VarianceShares], parts: Sequence[str], *, what: str
) -> Figure | None:
    """A row a dataset; None where no dataset has shares."""
    shown = {dataset: by_order(shares) for dataset, shares in found.items()}
    drawn = {dataset: shares for dataset, shares in shown.items() if shares}
    if not drawn:
        return None
    return Figure(
        name="variance_shares",
        title=f"Where the variance of {what} comes from",
        caption="Each dataset's runs on the whole grid: the share of their variance that each part "
        "explains by itself, that two or more parts explain only together, and that is left to "
        "seeds. A description, not a test: with few seeds a part of every share is noise."
        + _notes(found),
        values=[
            {
                "dataset": dataset,
                "shares": {name: rounded(share) for name, share in shown[dataset].items()},
                "reason": found[dataset].reason,
            }
            for dataset in found
        ],
        draw=partial(_draw, drawn, _bands(parts), what),
    )


def _notes(found: Mapping[str, VarianceShares]) -> str:
    """What is to be known about single datasets, grouped by what it is."""
    remarks: dict[str, list[str]] = {}
    for dataset, shares in found.items():
        if shares.reason:
            remarks.setdefault(shares.reason, []).append(dataset)
    return "".join(f" {', '.join(names)}: {reason}." for reason, names in remarks.items())


def _bands(parts: Sequence[str]) -> list[Band]:
    colors = [c for c in SERIES if c != "#949494"]
    bands = [
        Band(name=part, color=colors[i % len(colors)], hatch="" if i < len(colors) else "\\\\")
        for i, part in enumerate(parts)
    ]
    for order in range(2, len(parts) + 1):
        hatch = HATCHES[(order - 2) % len(HATCHES)]
        bands.append(Band(name=order_name(order), color="#949494", hatch=hatch))
    return [*bands, Band(name=SEEDS, color="")]


def _draw(
    shares: Mapping[str, Mapping[str, float]], bands: Sequence[Band], what: str, style: Style
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
            share = shares[dataset].get(band.name, 0.0)
            axes.barh(row, 100 * share, left=100 * start, height=0.72, **_style(band, style))
            if share >= LEAST_LABEL:
                axes.text(100 * (start + share / 2), row, f"{100 * share:.0f}", **_number(style))
            start += share
    name_rows(axes, names)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"share of the variance of {what}, percent", parse_math=False)
    bare(axes, style, grid="")
    legend = canvas.legend(
        [Patch(**_style(band, style)) for band in bands],
        [short(band.name) for band in bands],
        loc="lower left",
        bbox_to_anchor=(left / width, 0.0),
        ncols=COLUMNS,
        frameon=False,
        labelcolor=style.ink,
        fontsize=9,
        borderaxespad=0.0,
    )
    plain(legend.get_texts())
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
