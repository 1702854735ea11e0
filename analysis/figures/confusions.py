"""Confusion pairs, true class -> predicted class: those that a part fixes or causes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.heatmap import paint
from analysis.figures.style import POINTS_PER_INCH, label_room, literal, shown_names, text_width
from analysis.stats import Array

CELL_WIDTH, CELL_HEIGHT = 0.72, 0.42
LABEL_ROOM, HEAD_ROOM = 200.0, 120.0
SMALL, SMALLER = 8.5, 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionPair:
    """Images of the class ``true`` that are predicted as ``predicted``."""

    dataset: str
    subset: str
    true: str
    predicted: str
    images: int = field(metadata={"in_files": False}, default=0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConfusionInfo:
    """Changes in the mean number of confused images, one row per entry of ``pairs`` and one column
    per entry of ``columns``; NaN where two variants were not scored on the same images.
    """

    pairs: tuple[ConfusionPair, ...]
    columns: tuple[str, ...]
    change: Array


def confusion_figure(info: ConfusionInfo, *, full: str, baseline: str) -> Figure | None:
    """Confusion pairs by what is compared; None where nothing changes.

    With ``full``, every column is that variant against the one in the column; without, every column
    is a variant against ``baseline``.
    """
    if not info.pairs:
        return None
    compared = (
        f"{full} with (vs) the variant at the head of the column, which lacks one part or all"
        if full
        else f"the variant at the head of the column with {baseline}"
    )
    return Figure(
        name="confusions",
        title=f"Confusions that {full} fixes and causes" if full else "Confusions that change most",
        caption="Rows are confusions: images of the upper class that are predicted as the lower "
        f"one. Numbers compare {compared}: how many images more (+, orange: caused) or fewer "
        "(−, blue: fixed) are confused, mean over seeds. A dot means that the two were not scored "
        "on the same images.",
        info=info,
        draw=partial(_draw, info),
    )


def _draw(info: ConfusionInfo, style: Style) -> Canvas:
    names = [name for pair in info.pairs for name in (pair.true, f"→ {pair.predicted}")]
    left = label_room(names, size=SMALL, room=LABEL_ROOM)
    right = label_room([_where(p) for p in info.pairs], size=SMALLER, room=HEAD_ROOM)
    heads = shown_names(info.columns, room=HEAD_ROOM, size=SMALL)
    longest = max(text_width(head, size=SMALL) for head in heads)
    above = (0.75 * longest + 16) / POINTS_PER_INCH
    beside = max(0.75 * longest / POINTS_PER_INCH + 0.1, right)
    width = left + CELL_WIDTH * len(heads) + beside
    height = above + CELL_HEIGHT * len(info.pairs) + 0.08
    canvas = Canvas(figsize=(width, height))
    box = (
        left / width,
        0.04 / height,
        CELL_WIDTH * len(heads) / width,
        CELL_HEIGHT * len(info.pairs) / height,
    )
    axes = canvas.add_axes(box)
    texts = np.array([[_signed(v) for v in row] for row in info.change], dtype=object)
    paint(axes, -info.change, texts, style)  # fewer confusions are better
    axes.xaxis.tick_top()
    axes.set_xticks([i + 0.5 for i in range(len(heads))])
    slanted: dict[str, Any] = {"rotation": 42, "ha": "left", "rotation_mode": "anchor"}
    literal(axes.set_xticklabels(heads, fontsize=SMALL, **slanted))
    axes.set_yticks([])
    axes.tick_params(length=0)
    _names(axes, info.pairs, style)
    return canvas


def _where(pair: ConfusionPair) -> str:
    return f"{pair.dataset}, {pair.subset}"


def _names(axes: Axes, pairs: Sequence[ConfusionPair], style: Style) -> None:
    """Left of a row the true class above the predicted one, right of it where it is."""
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    upper = shown_names([p.true for p in pairs], size=SMALL, room=LABEL_ROOM)
    lower = shown_names([f"→ {p.predicted}" for p in pairs], size=SMALL, room=LABEL_ROOM)
    wheres = shown_names([_where(p) for p in pairs], size=SMALLER, room=HEAD_ROOM)
    for row, (one, two, where) in enumerate(zip(upper, lower, wheres, strict=True)):
        soft: dict[str, Any] = {"fontsize": SMALLER, "color": style.soft, **beside}
        texts = [
            axes.text(-0.02, row + 0.3, one, fontsize=SMALL, ha="right", **beside),
            axes.text(-0.02, row + 0.7, two, fontsize=SMALL, ha="right", **beside),
            axes.text(1.02, row + 0.5, where, ha="left", **soft),
        ]
        literal(texts)


def _signed(value: float) -> str:
    if not np.isfinite(value):
        return ""
    rounded = round(float(value), 1) + 0.0
    return (f"{rounded:+.1f}" if rounded else "0").replace("-", "−")
