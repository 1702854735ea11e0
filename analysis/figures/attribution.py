"""The attribution figure: what each part is worth, how certain that is, which parts need others.

Three panels share their rows, one per part. Left: from all parts off to all on, one Shapley value
per step. Middle: the same value between the effect of the part alone (add-one-in) and of removing
it from the full set (leave-one-out): where these two lie apart, the part's worth depends on the
others. Right: the pairwise interactions that make the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.figures.colors import SERIES, Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, literal, shown_names, signed
from analysis.stats import Array, Attribution, PartEffect
from analysis.text import marks

ROW = 0.46
ABOVE, BELOW = 0.62, 0.62
STEPS, MARKS, PAIR = 3.5, 3.5, 0.66
NUMBER_ROOM = 0.75
GAP = 0.35
PANELS = ("steps", "marks", "pairs")
MARK_STYLE = {
    "add_one_in": ("o", SERIES[1], -0.24, "alone (add one in)"),
    "shapley": ("D", "", 0.0, "Shapley value"),
    "leave_one_out": ("s", SERIES[2], 0.24, "in the full set (leave one out)"),
}
CAPTIONS = {
    "steps": "From all off to all on: each step is the Shapley value of a part; pale steps are "
    "undecided.",
    "marks": "Circle: the part alone; diamond: its Shapley value; square: what the full set loses "
    "without it. Where they lie apart, the part's worth depends on the others. Thick bar: 95 % "
    "interval for these datasets; thin line: for datasets like these.",
    "pairs": "Beyond the sum: what two parts add together beyond their separate effects, with the "
    "others off.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionInfo:
    """What the parts are worth: ``parts`` in the order of the rows, ``base`` and ``full`` the mean
    scores with all of them off and on, and every effect. ``metric`` is the printed name,
    ``direction`` -1 where less of it is better.
    """

    metric: str
    direction: int
    parts: tuple[str, ...]
    complete: bool
    base: float | None
    full: float | None
    effects: tuple[PartEffect, ...]

    def estimated(self, kind: str) -> dict[tuple[str, ...], tuple[PartEffect, float]]:
        """The effects of one kind that have a value, with it, by their parts."""
        return {
            e.parts: (e, e.value) for e in self.effects if e.kind == kind and e.value is not None
        }


def attribution_figure(found: Attribution, *, metric: str, direction: int = 1) -> Figure | None:
    """The figure of a toggle grid; panels without numbers are left out, None without any."""
    info = AttributionInfo(
        metric=metric,
        direction=direction,
        parts=found.by_value(direction),
        complete=found.complete,
        base=found.base,
        full=found.full,
        effects=found.effects,
    )
    shown = [name for name, has in zip(PANELS, _present(info), strict=True) if has]
    if not shown:
        return None
    panels = tuple(
        Figure(
            name=f"attribution_{name}",
            title=f"Attribution: {name}",
            caption=CAPTIONS[name],
            info=None,
            draw=partial(_draw, info, (name,)),
        )
        for name in shown
    )
    return Figure(
        name="attribution",
        title=f"What each part is worth, in points of {metric}",
        caption=" ".join([*(CAPTIONS[name] for name in shown), *_assumed(found)]),
        info=info,
        draw=partial(_draw, info, tuple(shown)),
        panels=panels,
        shared_rows=True,
    )


def _assumed(found: Attribution) -> list[str]:
    """What the numbers assume, as sentences."""
    known = dict.fromkeys(a for effect in found.effects for a in effect.assumptions)
    return [f"Assumed where the table says so: {', and '.join(known)}."] if known else []


def _present(info: AttributionInfo) -> tuple[bool, bool, bool]:
    steps = len(info.estimated("shapley")) == len(info.parts) and info.base is not None
    marks = any(info.estimated(kind) for kind in MARK_STYLE)
    pairs = any(len(parts) == 2 for parts in info.estimated("interaction"))
    return steps, marks, pairs


def _draw(info: AttributionInfo, shown: Sequence[str], style: Style) -> Canvas:
    parts = info.parts
    rows = len(parts) + 2
    left = max(label_room(parts), label_room(["all off"]))
    widths = {"steps": STEPS, "marks": MARKS + NUMBER_ROOM, "pairs": PAIR * len(parts)}
    width = left + sum(widths[s] for s in shown) + GAP * (len(shown) - 1) + 0.25
    height = ABOVE + BELOW + ROW * rows
    canvas = Canvas(figsize=(width, height))
    x = left
    for index, name in enumerate(shown):
        inner = widths[name] - (NUMBER_ROOM if name == "marks" else 0)
        box = (x / width, BELOW / height, inner / width, ROW * rows / height)
        axes = canvas.add_axes(box)
        drawing = {"steps": _steps, "marks": _marks, "pairs": _pairs}[name]
        drawing(axes, info, style)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_yticks(range(rows))
        ends = ("all off", "all on") if "steps" in shown else ("", " ")
        ticks = [ends[0], *parts, ends[1]]
        literal(axes.set_yticklabels(shown_names(ticks) if index == 0 else [""] * rows))
        axes.tick_params(axis="y", length=0)
        x += widths[name] + GAP
    return canvas


def _title(axes: Axes, text: str, style: Style, *, below: str = "") -> None:
    """A title, and a line below it that says how to read the panel."""
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold", pad=22)
    axes.annotate(
        below,
        (0, 1),
        xytext=(0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=7.2,
        color=style.soft,
    )


def _steps(axes: Axes, info: AttributionInfo, style: Style) -> None:
    """From all off to all on."""
    assert info.base is not None
    at = 100 * info.base
    last = len(info.parts) + 1
    worth = info.estimated("shapley")
    axes.plot([at], [0], "o", color=style.ink, markersize=7)
    spots = [at]
    for row, part in enumerate(info.parts, start=1):
        effect, value = worth[part,]
        step = 100 * value
        color = style.toward(info.direction * step)
        sure = effect.judgment.these.decided
        axes.plot([at, at], [row - 1, row + 0.36], color=style.soft, linewidth=0.8, zorder=1)
        axes.barh(
            row, step, left=at, height=0.62, color=color, alpha=0.85 if sure else 0.32, zorder=2
        )
        axes.barh(row, step, left=at, height=0.62, fill=False, edgecolor=color, zorder=3)
        whisker = effect.judgment.these.interval
        if whisker is not None:
            ends = [at + 100 * v for v in whisker]
            axes.plot(ends, [row, row], color=style.ink, linewidth=1.1, zorder=4)
            spots += ends
        at += step
        spots.append(at)
    axes.plot([at, at], [last - 1, last], color=style.soft, linewidth=0.8, zorder=1)
    axes.plot([at], [last], "o", color=style.ink, markersize=7)
    room = 0.16 * max(max(spots) - min(spots), 1e-6)
    axes.set_xlim(min(spots) - 0.5 * room, max(spots) + 0.5 * room)
    _end(axes, info.base, 0, "")
    _end(axes, at / 100, last, f"  ({signed(at / 100 - info.base)})")
    axes.set_xlabel(f"{info.metric}, %", parse_math=False)
    below = "Step: Shapley value; line: 95 %, these datasets; pale: undecided"
    _title(axes, "From all off to all on", style, below=below)
    bare(axes, style)


def _end(axes: Axes, value: float, row: int, more: str) -> None:
    """The score of all off or all on, written toward the middle of the panel."""
    right = 100 * value > sum(axes.get_xlim()) / 2
    text, shift = f"{100 * value:.2f}{more}", -8 if right else 8
    axes.annotate(
        text.strip(),
        (100 * value, row),
        (shift, 0),
        textcoords="offset points",
        va="center",
        ha="right" if right else "left",
    )


def _marks(axes: Axes, info: AttributionInfo, style: Style) -> None:
    """Add-one-in, Shapley value and leave-one-out side by side."""
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    known = {kind: info.estimated(kind) for kind in MARK_STYLE}
    used = [kind for kind, found in known.items() if found]
    for row, part in enumerate(info.parts, start=1):
        ends = []
        for kind, (marker, color, shift, _) in MARK_STYLE.items():
            if (part,) not in known[kind]:
                continue
            effect, value = known[kind][part,]
            y = row + (shift if len(used) > 1 else 0.0)
            _mark(axes, effect, value, y, marker, color or style.ink)
            if kind != "shapley":
                ends.append((100 * value, y))
        if len(ends) == 2:
            axes.plot(*zip(*ends, strict=True), color=style.soft, linewidth=0.9, zorder=1)
        best = known["shapley"].get((part,)) or known["leave_one_out"].get((part,))
        if best is not None:
            beside = axes.get_yaxis_transform()
            axes.text(1.03, row, signed(best[1]), transform=beside, va="center", color=style.ink)
    axes.set_xlabel(f"{info.metric}, points", parse_math=False)
    several = len(used) > 1
    _title(axes, "Alone, averaged, in the full set" if several else "What a part is worth", style)
    handles = [_handle(kind, style) for kind in used]
    axes.legend(
        handles,
        [MARK_STYLE[kind][3] for kind in used],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=7.2,
        handletextpad=0.1,
        columnspacing=0.7,
        borderaxespad=0.1,
        labelcolor=style.ink,
    )
    bare(axes, style)


def _handle(kind: str, style: Style) -> Line2D:
    marker, color, _, _ = MARK_STYLE[kind]
    return Line2D([], [], linestyle="", marker=marker, color=color or style.ink, markersize=5)


def _mark(axes: Axes, effect: PartEffect, value: float, y: float, marker: str, color: str) -> None:
    if these := effect.judgment.these.interval:
        ends = [100 * v for v in these]
        (bar,) = axes.plot(ends, [y, y], color=color, linewidth=4.5, alpha=0.35)
        bar.set_solid_capstyle("butt")
    if like := effect.judgment.like.interval:
        ends = [100 * v for v in like]
        axes.plot(ends, [y, y], color=color, linewidth=1.2)
    axes.plot([100 * value], [y], marker, color=color, markersize=5.5, zorder=3)


def _pairs(axes: Axes, info: AttributionInfo, style: Style) -> None:
    """Interactions of pairs below the diagonal, rows aligned with the other panels."""
    parts = info.parts
    k = len(parts)
    values: Array = np.full((k + 2, k), np.nan)
    known = {frozenset(names): found for names, found in info.estimated("interaction").items()}
    texts = np.full(values.shape, "", dtype=object)
    for i, one in enumerate(parts):
        for j, two in enumerate(parts[:i]):
            if found := known.get(frozenset((one, two))):
                effect, value = found
                values[i + 1, j] = value
                decided = effect.judgment.these.decided or effect.judgment.like.decided
                texts[i + 1, j] = signed(value) + (marks(effect.judgment) if decided else "")
    _paint_lower(axes, values, texts, info.direction, style)
    below = "Pairs, points; marks: these, like these" if k > 3 else ""
    _title(axes, "Beyond the sum", style, below=below)
    for j, shown in enumerate(shown_names(parts[:-1], room=72, size=8.5)):
        place: dict[str, Any] = {"ha": "right", "va": "top", "rotation_mode": "anchor"}
        text = axes.text(j + 0.1, k + 0.62, shown, fontsize=8.5, rotation=30, **place)
        text.set_parse_math(False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    bare(axes, style, keep=(), grid="")


def _paint_lower(axes: Axes, values: Array, texts: Array, direction: int, style: Style) -> None:
    """Cells centered on whole numbers, so that the rows are those of the neighbors."""
    rows, columns = values.shape
    most = max(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)), 1e-6)
    for i in range(1, rows - 1):
        for j in range(columns):
            if not np.isfinite(values[i, j]):
                continue
            value = float(values[i, j])
            color = style.toward(direction * value)
            strength = 0.58 * min(1.0, abs(value) / most)
            box = Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=color, alpha=strength, lw=0)
            axes.add_patch(box)
            axes.text(j, i, texts[i, j], ha="center", va="center", fontsize=8, color=style.ink)
    axes.set_xlim(-0.5, columns - 0.5)
