"""The attribution figure: what every part is worth, how sure that is, and which parts need others.

Three panels share their rows, one a part. Left: the way from all off to all on, a step of the
Shapley value a part. Middle: the same value between the part alone (add-one-in) and the part taken
out of the whole (leave-one-out): where these two lie apart, the part's worth depends on the others.
Right: the interactions of pairs that make the difference.
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

from analysis.figures.style import (
    SERIES,
    Figure,
    Style,
    bare,
    label_room,
    plain,
    shown_names,
    signed,
)
from analysis.stats import Array
from analysis.stats.attribution import Attribution, PartEffect
from analysis.text import rounded, rounded_ends, rounded_p

ROW = 0.46
ABOVE, BELOW = 0.62, 0.62
STEPS, MARKS, PAIR = 3.5, 3.5, 0.66
NUMBER_ROOM = 0.75
GAP = 0.35
PANELS = ("steps", "marks", "pairs")
MARK_STYLE = {
    "add_one_in": ("o", SERIES[1], -0.24, "alone (add one in)"),
    "shapley": ("D", "", 0.0, "share (Shapley)"),
    "leave_one_out": ("s", SERIES[2], 0.24, "in the whole (leave one out)"),
}
CAPTIONS = {
    "steps": "From all off to all on: a step of the Shapley value a part; pale ones are undecided.",
    "marks": "Marks: circle the part alone, diamond its Shapley value, square what the whole "
    "loses without it; far apart means that its worth depends on the others. Thick bar: 95 % on "
    "these datasets, thin line: on datasets like these.",
    "pairs": "Together beyond the sum: what two parts do together beyond what they do one by "
    "one, the others off.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What the figure shows: effects by kind and part, scores of the ends, names for people."""

    found: Attribution
    labels: tuple[str, ...]
    base: float | None
    full: float | None
    what: str

    @property
    def order(self) -> tuple[int, ...]:
        """Parts, the most valuable first."""
        known = {e.parts[0]: size(e) for kind in reversed(MARK_ORDER) for e in self.single(kind)}
        values = [known.get(p, -np.inf) for p in self.found.parts]
        return tuple(int(i) for i in np.argsort([-v for v in values], kind="stable"))

    def single(self, kind: str) -> tuple[PartEffect, ...]:
        """Effects of one kind that have a number."""
        return tuple(e for e in self.found.of(kind) if e.value is not None)

    def effect(self, kind: str, part: str) -> PartEffect | None:
        """The effect of one part, None where it was refused."""
        return next((e for e in self.single(kind) if e.parts == (part,)), None)


def size(effect: PartEffect) -> float:
    """The value of an effect that has one."""
    assert effect.value is not None
    return effect.value


MARK_ORDER = ("shapley", "main", "leave_one_out", "add_one_in")


def attribution_figure(shares: Shares) -> Figure | None:
    """The figure for a toggle grid; panels without numbers are left out, None without any."""
    shown = [name for name, has in zip(PANELS, _present(shares), strict=True) if has]
    if not shown:
        return None
    panels = tuple(
        Figure(
            name=f"attribution_{name}",
            title=f"Attribution: {name}",
            caption=CAPTIONS[name],
            values=None,
            draw=partial(_draw, shares, (name,)),
        )
        for name in shown
    )
    return Figure(
        name="attribution",
        title=f"What every part is worth, in points of {shares.what}",
        caption=" ".join(CAPTIONS[name] for name in shown),
        values=shares_values(shares),
        draw=partial(_draw, shares, tuple(shown)),
        panels=panels,
    )


def _present(shares: Shares) -> tuple[bool, bool, bool]:
    steps = len(shares.single("shapley")) == len(shares.found.parts) and shares.base is not None
    marks = any(shares.single(kind) for kind in MARK_STYLE)
    pairs = any(len(e.parts) == 2 for e in shares.single("interaction"))
    return steps, marks, pairs


def shares_values(shares: Shares) -> dict[str, Any]:
    """Every number of the figure, fractions."""
    return {
        "metric": shares.what,
        "parts": [shares.found.parts[i] for i in shares.order],
        "complete": shares.found.complete,
        "base": rounded(shares.base),
        "full": rounded(shares.full),
        "effects": [effect_record(e) for e in shares.found.effects],
    }


def effect_record(effect: PartEffect) -> dict[str, Any]:
    """One effect for files."""
    return {
        "kind": effect.kind,
        "parts": list(effect.parts),
        "value": rounded(effect.value),
        "on_these_datasets": rounded_ends(effect.on_these_datasets),
        "on_datasets_like_these": rounded_ends(effect.on_datasets_like_these),
        "p": rounded_p(effect.p),
        "holm_p": rounded_p(effect.holm_p),
        "verdict": effect.verdict,
        "decided_by": effect.decided_by,
        "reason": effect.reason,
    }


def _draw(shares: Shares, shown: Sequence[str], style: Style) -> Canvas:
    parts = [shares.found.parts[i] for i in shares.order]
    labels = [shares.labels[i] for i in shares.order]
    rows = len(parts) + 2
    left = max(label_room(labels), label_room(["all off"]))
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
        drawing(axes, shares, parts, labels, style)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_yticks(range(rows))
        ends = ("all off", "all on") if "steps" in shown else ("", " ")
        ticks = [ends[0], *labels, ends[1]]
        plain(axes.set_yticklabels(shown_names(ticks) if index == 0 else [""] * rows))
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


def _steps(
    axes: Axes, shares: Shares, parts: Sequence[str], labels: Sequence[str], style: Style
) -> None:
    """From all off to all on."""
    assert shares.base is not None
    at = 100 * shares.base
    last = len(parts) + 1
    axes.plot([at], [0], "o", color=style.ink, markersize=7)
    spots = [at]
    for row, part in enumerate(parts, start=1):
        effect = shares.effect("shapley", part)
        assert effect is not None
        step = 100 * size(effect)
        color = style.better if step >= 0 else style.worse
        sure = effect.verdict in ("better", "worse")
        axes.plot([at, at], [row - 1, row + 0.36], color=style.soft, linewidth=0.8, zorder=1)
        axes.barh(
            row, step, left=at, height=0.62, color=color, alpha=0.85 if sure else 0.32, zorder=2
        )
        axes.barh(row, step, left=at, height=0.62, fill=False, edgecolor=color, zorder=3)
        whisker = effect.on_datasets_like_these or effect.on_these_datasets
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
    _end(axes, shares.base, 0, "")
    if shares.full is not None:
        _end(axes, shares.full, last, f"  ({signed(shares.full - shares.base)})")
    axes.set_xlabel(f"{shares.what}, %", parse_math=False)
    below = "Step: Shapley value; line: 95 %, datasets like these; pale: undecided"
    _title(axes, "From all off to all on", style, below=below)
    bare(axes, style)


def _end(axes: Axes, value: float, row: int, more: str) -> None:
    """The score of all off or all on, written towards the middle of the panel."""
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


def _marks(
    axes: Axes, shares: Shares, parts: Sequence[str], labels: Sequence[str], style: Style
) -> None:
    """Add-one-in, Shapley value and leave-one-out side by side."""
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    used = [kind for kind in MARK_STYLE if shares.single(kind)]
    for row, part in enumerate(parts, start=1):
        ends = []
        for kind, (marker, color, shift, _) in MARK_STYLE.items():
            effect = shares.effect(kind, part)
            if effect is None:
                continue
            shift = shift if len(used) > 1 else 0.0
            _mark(axes, effect, row + shift, marker, color or style.ink)
            if kind != "shapley":
                ends.append((100 * size(effect), row + shift))
        if len(ends) == 2:
            axes.plot(*zip(*ends, strict=True), color=style.soft, linewidth=0.9, zorder=1)
        best = shares.effect("shapley", part) or shares.effect("leave_one_out", part)
        if best is not None:
            place = axes.get_yaxis_transform()
            text = signed(size(best))
            axes.text(1.03, row, text, transform=place, va="center", color=style.ink)
    axes.set_xlabel(f"{shares.what}, points", parse_math=False)
    several = len(used) > 1
    _title(axes, "Alone, shared, in the whole" if several else "What a part is worth", style)
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


def _mark(axes: Axes, effect: PartEffect, y: float, marker: str, color: str) -> None:
    if effect.on_these_datasets is not None:
        ends = [100 * v for v in effect.on_these_datasets]
        (bar,) = axes.plot(ends, [y, y], color=color, linewidth=4.5, alpha=0.35)
        bar.set_solid_capstyle("butt")
    if effect.on_datasets_like_these is not None:
        ends = [100 * v for v in effect.on_datasets_like_these]
        axes.plot(ends, [y, y], color=color, linewidth=1.2)
    axes.plot([100 * size(effect)], [y], marker, color=color, markersize=5.5, zorder=3)


def _pairs(
    axes: Axes, shares: Shares, parts: Sequence[str], labels: Sequence[str], style: Style
) -> None:
    """Interactions of pairs below the diagonal, rows aligned with the other panels."""
    k = len(parts)
    values: Array = np.full((k + 2, k), np.nan)
    known = {frozenset(e.parts): e for e in shares.single("interaction") if len(e.parts) == 2}
    texts = np.full(values.shape, "", dtype=object)
    for i, one in enumerate(parts):
        for j, two in enumerate(parts[:i]):
            if effect := known.get(frozenset((one, two))):
                values[i + 1, j] = size(effect)
                glyph = {"better": "▲", "worse": "▼"}.get(effect.verdict, "")
                texts[i + 1, j] = signed(size(effect)) + glyph
    _paint_lower(axes, values, texts, style)
    below = "Two parts, points; ▲▼ not luck" if k > 3 else ""
    _title(axes, "Together beyond the sum", style, below=below)
    for j, shown in enumerate(shown_names(labels[:-1], room=72, size=8.5)):
        place: dict[str, Any] = {"ha": "right", "va": "top", "rotation_mode": "anchor"}
        text = axes.text(j + 0.1, k + 0.62, shown, fontsize=8.5, rotation=30, **place)
        text.set_parse_math(False)
    axes.set_xticks([])
    axes.tick_params(length=0)
    bare(axes, style, keep=(), grid="")


def _paint_lower(axes: Axes, values: Array, texts: Array, style: Style) -> None:
    """Cells centered on whole numbers, so that the rows are those of the neighbors."""
    rows, columns = values.shape
    most = max(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)), 1e-6)
    for i in range(1, rows - 1):
        for j in range(columns):
            if not np.isfinite(values[i, j]):
                continue
            value = float(values[i, j])
            color = style.better if value >= 0 else style.worse
            strength = 0.58 * min(1.0, abs(value) / most)
            box = Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=color, alpha=strength, lw=0)
            axes.add_patch(box)
            axes.text(j, i, texts[i, j], ha="center", va="center", fontsize=8, color=style.ink)
    axes.set_xlim(-0.5, columns - 0.5)
