"""Accuracy per class: the classes that gain and lose most between two variants, and those of one
run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, literal, shown_names, signed

ROW, PLOT, NUMBERS, MARGIN = 0.34, 2.6, 1.15, 0.2
ABOVE, BELOW = 0.34, 0.5
LABEL_ROOM = 190.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShift:
    """Accuracy of one class with a variant and with its reference, means over seeds; ``lowest`` and
    ``highest`` are the extreme differences of single seeds.
    """

    dataset: str
    subset: str
    name: str
    images: int
    reference: float
    variant: float
    lowest: float
    highest: float

    @property
    def difference(self) -> float:
        """Variant minus reference."""
        return self.variant - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShiftInfo:
    """The classes of one subset that gain and lose most, from the largest gain down."""

    variant: str
    reference: str
    subset: str
    num_classes: int
    shown: tuple[ClassShift, ...]


def class_figure(panels: Sequence[ClassShiftInfo], *, name: str) -> Figure | None:
    """A panel per subset of the classes, on one scale; None where no class differs."""
    panels = [panel for panel in panels if panel.shown]
    if not panels:
        return None
    first = panels[0]
    whole = Figure(
        name=name,
        title=f"Classes that gain and lose most: {first.variant} against {first.reference}",
        caption="Each dot is the change in accuracy on the test images of one class, in points, "
        "mean over seeds (▲ gain, ▼ loss); the line reaches from the lowest to the highest seed. "
        "At the right, the mean accuracy before and after, in %. The extremes of many classes are "
        "partly chance: trust a class whose whole line lies on one side of zero.",
        info=panels,
        draw=partial(_draw, panels),
    )
    single = [replace(whole, info=[p], draw=partial(_draw, [p])) for p in panels]
    return replace(whole, panels=tuple(single), shared_rows=True)


def _draw(panels: Sequence[ClassShiftInfo], style: Style) -> Canvas:
    texts = [shift.name for panel in panels for shift in panel.shown]
    sets = {shift.dataset for panel in panels for shift in panel.shown}
    left = label_room(texts, size=9, room=LABEL_ROOM)
    left = max(left, label_room(sets, size=7, room=LABEL_ROOM) if len(sets) > 1 else 0.0)
    block = left + PLOT + NUMBERS + MARGIN
    rows = max(len(panel.shown) for panel in panels)
    width, height = block * len(panels), ABOVE + ROW * rows + BELOW
    canvas = Canvas(figsize=(width, height))
    ends = [e for panel in panels for s in panel.shown for e in (s.lowest, s.highest)]
    limits = (100 * min(0.0, *ends) - 1, 100 * max(0.0, *ends) + 1)
    for index, panel in enumerate(panels):
        num = len(panel.shown)
        box = (
            (index * block + left) / width,
            (height - ABOVE - ROW * num) / height,
            PLOT / width,
            ROW * num / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, panel, style, limits=limits, several=len(sets) > 1)
    return canvas


def _panel(
    axes: Axes, panel: ClassShiftInfo, style: Style, *, limits: tuple[float, float], several: bool
) -> None:
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    for row, shift in enumerate(panel.shown):
        up = shift.difference > 0
        color = style.better if up else style.worse
        ends = [100 * shift.lowest, 100 * shift.highest]
        axes.plot(ends, [row, row], color=color, linewidth=1.6, alpha=0.55)
        axes.plot([100 * shift.difference], [row], "^" if up else "v", color=color, markersize=7)
        axes.text(
            1.03,
            row,
            f"{100 * shift.reference:.0f} → {100 * shift.variant:.0f}  "
            f"({signed(shift.difference, digits=1)})",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=style.soft,
        )
    axes.set_ylim(len(panel.shown) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.set_yticks([])
    _names(axes, panel.shown, style, several=several)
    axes.set_xlabel("change in accuracy, points", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_title(
        f"{panel.subset} classes, {len(panel.shown)} of {panel.num_classes}",
        loc="left",
        fontsize=9.5,
    )
    bare(axes, style)


def _names(axes: Axes, shown: Sequence[ClassShift], style: Style, *, several: bool) -> None:
    """The name of the class beside its row and, where there are several, the dataset below it."""
    classes = shown_names([s.name for s in shown], size=9, room=LABEL_ROOM)
    datasets = shown_names([s.dataset for s in shown], size=7, room=LABEL_ROOM)
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "ha": "right",
        "va": "center",
    }
    for row, (name, dataset) in enumerate(zip(classes, datasets, strict=True)):
        place = row - 0.16 if several else row
        texts = [axes.text(-0.03, place, name, fontsize=9, **beside)]
        if several:
            lower = axes.text(-0.03, row + 0.24, dataset, fontsize=7, color=style.soft, **beside)
            texts.append(lower)
        literal(texts)
