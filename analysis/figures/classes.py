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
from analysis.figures.style import (
    POINTS_PER_INCH,
    bare,
    label_room,
    literal,
    name_rows,
    shown_names,
    signed,
    text_width,
)

ROW, WIDTH, MARGIN = 0.46, 4.5, 0.12
ABOVE, BELOW = 0.34, 0.5
NUMBERS_ROOM, DATASET_ROOM = 92.0, 78.0
SMALL = 7.5
BAR, BARS, BAR_ROOM, MAX_BARS = 0.22, 2.2, 150.0, 40


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
        caption="Each mark is the change in accuracy on the test images of one class, in points, "
        "mean over seeds (▲ gain, ▼ loss); the line reaches from the lowest to the highest seed. "
        "At the right, the mean accuracy before and after, in %. The extremes of many classes are "
        "partly chance: trust a class whose whole line lies on one side of zero.",
        info=panels,
        draw=partial(_draw, panels, panels),
    )
    single = [replace(whole, info=[p], draw=partial(_draw, [p], panels)) for p in panels]
    return replace(whole, panels=tuple(single))


def _draw(
    panels: Sequence[ClassShiftInfo], family: Sequence[ClassShiftInfo], style: Style
) -> Canvas:
    """``family`` are the panels that share a scale."""
    rows = max(len(panel.shown) for panel in family)
    block = WIDTH + 3 * MARGIN
    width, height = block * len(panels), ABOVE + ROW * rows + BELOW
    canvas = Canvas(figsize=(width, height))
    shifts = [shift for panel in family for shift in panel.shown]
    ends = [e for s in shifts for e in (s.lowest, s.highest)]
    limits = (100 * min(0.0, *ends) - 1, 100 * max(0.0, *ends) + 1)
    several = len({shift.dataset for shift in shifts}) > 1
    for index, panel in enumerate(panels):
        num = len(panel.shown)
        box = (
            (index * block + MARGIN) / width,
            (height - ABOVE - ROW * num) / height,
            WIDTH / width,
            ROW * num / height,
        )
        axes = canvas.add_axes(box)
        _panel(axes, panel, style, limits=limits, several=several)
    return canvas


def _panel(
    axes: Axes, panel: ClassShiftInfo, style: Style, *, limits: tuple[float, float], several: bool
) -> None:
    for row, shift in enumerate(panel.shown):
        up = shift.difference > 0
        color = style.better if up else style.worse
        ends, place = [100 * shift.lowest, 100 * shift.highest], row + 0.2
        axes.plot([0, 0], [row, row + 0.4], color=style.ink, linewidth=0.8)
        axes.plot(limits, [row + 0.5, row + 0.5], color=style.rule, linewidth=0.6)
        axes.plot(ends, [place, place], color=color, linewidth=2.0, alpha=0.5)
        axes.plot([100 * shift.difference], [place], "^" if up else "v", color=color, markersize=7)
    _words(axes, panel.shown, style, several=several)
    axes.set_ylim(len(panel.shown) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.set_yticks([])
    axes.set_xlabel("change in accuracy, points", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8.5)
    title = f"{panel.subset} classes: {len(panel.shown)} of {panel.num_classes}"
    axes.set_title(title, loc="left", fontsize=9.5, parse_math=False)
    bare(axes, style, grid="")


def _words(axes: Axes, shown: Sequence[ClassShift], style: Style, *, several: bool) -> None:
    """Above every mark the class, the dataset where there are several, and both accuracies."""
    datasets = shown_names([s.dataset for s in shown], size=SMALL, room=DATASET_ROOM)
    taken = max(text_width(d, size=SMALL) for d in datasets) + 14 if several else 0.0
    room = WIDTH * POINTS_PER_INCH - NUMBERS_ROOM - taken
    classes = shown_names([s.name for s in shown], size=9, room=room)
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    for row, (shift, name, dataset) in enumerate(zip(shown, classes, datasets, strict=True)):
        place = row - 0.24
        change = signed(shift.difference, digits=1)
        numbers = f"{100 * shift.reference:.0f} → {100 * shift.variant:.0f}  ({change})"
        texts = [
            axes.text(0.0, place, name, fontsize=9, ha="left", **beside),
            axes.text(1.0, place, numbers, fontsize=8.5, ha="right", **beside),
        ]
        if several:
            start = (text_width(name, size=9) + 7) / (WIDTH * POINTS_PER_INCH)
            texts.append(
                axes.text(start, place, dataset, fontsize=SMALL, color=style.soft, **beside)
            )
        literal(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClass:
    """How many test images of a class one run predicts correctly."""

    name: str
    correct: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClassInfo:
    """The classes of one evaluation of a run that have test images, the most accurate first."""

    title: str
    accuracy: float
    classes: tuple[RunClass, ...]


def run_class_figure(panels: Sequence[RunClassInfo]) -> Figure | None:
    """Accuracy per class of one run, a panel per evaluation; None without evaluations."""
    if not panels:
        return None
    cut = any(len(panel.classes) > MAX_BARS for panel in panels)
    whole = Figure(
        name="classes",
        title="Accuracy per class",
        caption="Share of the test images of each class that are predicted correctly, in %, and "
        "the count. The dashed line is the accuracy over all images."
        + (f" The {MAX_BARS // 2} most and least accurate classes." if cut else ""),
        info=panels,
        draw=partial(_draw_run, panels),
    )
    single = [replace(whole, draw=partial(_draw_run, [panel])) for panel in panels]
    return replace(whole, panels=tuple(single))


def _draw_run(panels: Sequence[RunClassInfo], style: Style) -> Canvas:
    shown = [_kept(panel.classes) for panel in panels]
    names = [c.name for classes in shown for c in classes]
    left = label_room(names, size=8.5, room=BAR_ROOM)
    block, rows = left + BARS + 0.75, max(map(len, shown))
    width, height = block * len(panels), ABOVE + BAR * rows + BELOW
    canvas = Canvas(figsize=(width, height))
    for index, (panel, classes) in enumerate(zip(panels, shown, strict=True)):
        box = (
            (index * block + left) / width,
            (height - ABOVE - BAR * len(classes)) / height,
            BARS / width,
            BAR * len(classes) / height,
        )
        axes = canvas.add_axes(box)
        shares = [100 * c.correct / c.total for c in classes]
        axes.barh(range(len(classes)), shares, height=0.66, color=style.better, alpha=0.75)
        axes.axvline(100 * panel.accuracy, color=style.ink, linewidth=1, linestyle=(0, (4, 3)))
        for row, (one, share) in enumerate(zip(classes, shares, strict=True)):
            text = f"{share:.0f}  ({one.correct} of {one.total})"
            place = axes.get_yaxis_transform()
            axes.text(1.02, row, text, fontsize=7.5, va="center", color=style.soft, transform=place)
        name_rows(axes, [c.name for c in classes], size=8.5, room=BAR_ROOM)
        axes.set_xlim(0, 100)
        axes.set_xlabel("correct, %", fontsize=8.5)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.set_title(panel.title, loc="left", fontsize=9.5, parse_math=False)
        bare(axes, style)
    return canvas


def _kept(classes: tuple[RunClass, ...]) -> tuple[RunClass, ...]:
    """The classes that are shown: all, or as many from each end."""
    if len(classes) <= MAX_BARS:
        return classes
    return (*classes[: MAX_BARS // 2], *classes[-(MAX_BARS // 2) :])
