"""Effects by level: the effect of another level of a factor, over the levels of all others."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import Style
from analysis.figures.figure import Figure
from analysis.figures.style import bare, label_room, name_rows, signed
from analysis.stats import PartEffect

ROW, WIDTH = 0.32, 3.4
ABOVE, BELOW, NUMBER_ROOM = 0.15, 0.6, 0.75


def level_figure(effects: Sequence[PartEffect], *, metric: str) -> Figure | None:
    """Each level minus the first of its factor; ``parts`` of an effect are factor, first level,
    level. None without effects. ``metric`` is the printed name.
    """
    shown = [(e, e.value) for e in effects if e.value is not None]
    if not shown:
        return None
    return Figure(
        name="levels",
        title=f"Effects by level, in points of {metric}",
        caption="Each level minus the first of its factor, over the combinations of the other "
        "factors that have both. Thick bar: 95 % interval for these datasets; thin line: for "
        "datasets like these; filled: significant after Holm within the factor.",
        info=tuple(effects),
        draw=partial(_draw, shown, metric),
    )


def _name(effect: PartEffect) -> str:
    factor, first, level = effect.parts
    return f"{factor}: {level.lstrip('@')} − {first.lstrip('@')}"


def _draw(effects: Sequence[tuple[PartEffect, float]], metric: str, style: Style) -> Canvas:
    names = [_name(effect) for effect, _ in effects]
    left = label_room(names, room=230)
    width, height = left + WIDTH + NUMBER_ROOM, ABOVE + BELOW + ROW * len(names)
    canvas = Canvas(figsize=(width, height))
    box = (left / width, BELOW / height, WIDTH / width, ROW * len(names) / height)
    axes = canvas.add_axes(box)
    axes.axvline(0.0, color=style.ink, linewidth=0.8)
    for row, (effect, value) in enumerate(effects):
        color = style.of(effect.judgment.these.word)
        for interval, thick in (
            (effect.judgment.these.interval, True),
            (effect.judgment.like.interval, False),
        ):
            if interval is not None:
                ends = [100 * v for v in interval]
                (line,) = axes.plot(ends, [row, row], color=color, linewidth=6 if thick else 1.4)
                line.set(solid_capstyle="butt", alpha=0.4 if thick else 1.0)
        sure = effect.judgment.these.decided
        face = color if sure else style.paper
        mean = [100 * value]
        axes.plot(mean, [row], "o", color=color, markerfacecolor=face, markersize=6.5)
        place = axes.get_yaxis_transform()
        axes.text(1.03, row, signed(value), transform=place, va="center", color=style.ink)
    name_rows(axes, names, room=230)
    axes.set_xlabel(f"{metric} difference, points", parse_math=False)
    bare(axes, style)
    return canvas
