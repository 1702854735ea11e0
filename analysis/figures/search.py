"""Figures of a hyperparameter search: history, slices, parallel coordinates, Pareto front."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from analysis.figures.colors import SERIES, Style
from analysis.figures.figure import Figure
from analysis.figures.style import POINTS_PER_INCH, bare, short
from analysis.read.search_trials import best_so_far, expected_best
from core.store.search import COST_OBJECTIVES, Trial

TITLES: Mapping[str, str] = {
    "history": "History of the search",
    "budget": "Expected best after b trials",
    "front": "Pareto front",
    "parallel": "Parallel coordinates",
    "slices": "Slices",
}
Shapes = Mapping[str, Mapping[str, Any]]
WIDTH, HEIGHT = 5.4, 3.0
SLICE_WIDTH, SLICE_HEIGHT = 3.4, 2.2
AXIS = 1.2


def scale_of(objective: str) -> float:
    """Accuracies are shown in percent, costs as they are."""
    return 1.0 if objective in COST_OBJECTIVES else 100.0


def axis_label(objective: str) -> str:
    """An objective with its unit."""
    return objective if objective in COST_OBJECTIVES else f"{objective}, %"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryInfo:
    """(number, value) of every complete trial, and the best value up to each trial."""

    trials: tuple[tuple[int, float], ...]
    best_so_far: tuple[tuple[int, float], ...]


def history(trials: Sequence[Trial], control: Sequence[Trial], objective: str) -> Figure | None:
    """Values in the order of trials with the best so far, and those of the random control."""
    if not any(trial.complete for trial in trials):
        return None
    rows = {"search": trials, "random search": control}
    return Figure(
        name="history",
        title=TITLES["history"],
        caption="Dots: complete trials; line: the best so far. Crosses at the bottom: trials "
        "without a value (failed, diverged or pruned).",
        info={
            name: HistoryInfo(
                trials=tuple((t.number, t.values[0]) for t in found if t.complete),
                best_so_far=tuple(best_so_far(found)),
            )
            for name, found in rows.items()
            if found
        },
        exact=True,
        draw=partial(_draw_history, {n: r for n, r in rows.items() if r}, objective),
    )


def _draw_history(rows: Mapping[str, Sequence[Trial]], objective: str, style: Style) -> Canvas:
    canvas, axes = _one()
    scale = scale_of(objective)
    for index, (name, trials) in enumerate(rows.items()):
        color = SERIES[(0, 6)[index]]
        done = [t for t in trials if t.complete]
        xs, ys = [t.number for t in done], [scale * t.values[0] for t in done]
        axes.plot(xs, ys, "os"[index], color=color, alpha=0.55, markersize=4.5, label=name)
        best = best_so_far(trials)
        line = [scale * value for _, value in best]
        axes.step([n for n, _ in best], line, where="post", color=color, linewidth=1.6)
        bad = [t.number for t in trials if t.state in ("failed", "diverged", "pruned")]
        place = axes.get_xaxis_transform()
        axes.plot(bad, [0.02] * len(bad), "x", color=color, markersize=5, transform=place)
    axes.set_xlabel("Trial")
    axes.set_ylabel(axis_label(objective))
    return _finished(canvas, axes, style)


def budget(trials: Sequence[Trial], control: Sequence[Trial], objective: str) -> Figure | None:
    """The expected best value after b trials, of the search and of the random control."""
    rows = {
        name: expected_best([t.values[0] for t in found if t.complete])
        for name, found in (("search", trials), ("random search", control))
    }
    rows = {name: curve for name, curve in rows.items() if len(curve) > 1}
    if not rows:
        return None
    return Figure(
        name="budget",
        title=TITLES["budget"],
        caption="The mean over all orders of the trials: what a smaller budget would have found. "
        "Exact for random search. A sampler that learns improves over its trials, so its curve is "
        "a summary, not a forecast.",
        info=rows,
        exact=True,
        draw=partial(_draw_budget, rows, objective),
    )


def _draw_budget(rows: Mapping[str, Sequence[float]], objective: str, style: Style) -> Canvas:
    canvas, axes = _one()
    for index, (name, curve) in enumerate(rows.items()):
        ys = [scale_of(objective) * value for value in curve]
        dashes = ("-", "--")[index]
        xs = range(1, len(ys) + 1)
        axes.plot(xs, ys, dashes, color=SERIES[(0, 6)[index]], linewidth=1.8, label=name)
    axes.set_xlabel("Trials b")
    axes.set_ylabel(axis_label(objective))
    return _finished(canvas, axes, style)


def _one() -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=(WIDTH, HEIGHT))
    return canvas, canvas.add_axes((0.13, 0.17, 0.84, 0.73))


def _finished(canvas: Canvas, axes: Axes, style: Style) -> Canvas:
    """Whole trials on the axis, and the legend above it, where no trial can be."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "ncols": 2}
    axes.legend(frameon=False, labelcolor=style.ink, fontsize=9, borderpad=0.0, **place)
    bare(axes, style, keep=("left", "bottom"), grid="y")
    return canvas


def slices(trials: Sequence[Trial], shapes: Shapes, objective: str) -> tuple[Figure, ...]:
    """The first objective over every setting, one figure each; a trial that lacks it is absent."""
    done = [trial for trial in trials if trial.complete]
    return tuple(
        Figure(
            name=f"slice-{key}",
            title=key,
            caption="",
            info=[(t.params[key], t.values[0]) for t in done if key in t.params],
            exact=True,
            draw=partial(_draw_slice, done, key, shape, objective),
        )
        for key, shape in shapes.items()
        if done
    )


def _draw_slice(
    trials: Sequence[Trial], key: str, shape: Mapping[str, Any], objective: str, style: Style
) -> Canvas:
    canvas = Canvas(figsize=(SLICE_WIDTH, SLICE_HEIGHT))
    axes = canvas.add_axes((0.16, 0.15, 0.78, 0.68))
    for order, trial in enumerate(trials):
        if key in trial.params:
            x, y = position(shape, trial.params[key]), scale_of(objective) * trial.values[0]
            shade = 0.25 + 0.65 * order / max(len(trials) - 1, 1)
            axes.plot([x], [y], "o", color=SERIES[0], alpha=shade, markersize=4)
    marks = _marks(shape)
    room = SLICE_WIDTH * 0.75 * POINTS_PER_INCH / len(marks)
    words = [short(word, room=room, size=8) for _, word in marks]
    for text in axes.set_xticks([x for x, _ in marks], words):
        text.label1.set_parse_math(False)
    axes.set_xlim(-0.06, 1.06)
    axes.set_title(short(key, room=190, size=9), loc="left", fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.set_ylabel(axis_label(objective), fontsize=9)
    bare(axes, style, keep=("left", "bottom"), grid="y")
    return canvas


def position(shape: Mapping[str, Any], text: str) -> float:
    """Where a setting lies on its axis, from 0 (first or lowest) to 1."""
    if shape["kind"] == "choice":
        choices = shape["choices"]
        return choices.index(text) / max(len(choices) - 1, 1)  # type: ignore[no-any-return]
    low, high, value = float(shape["low"]), float(shape["high"]), float(text)
    if shape["log"]:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _marks(shape: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Positions and words on the axis of a setting: all choices, or the ends and the middle."""
    if shape["kind"] == "choice":
        return [(position(shape, text), text.lstrip("@")) for text in shape["choices"]]
    low, high = float(shape["low"]), float(shape["high"])
    middle = math.sqrt(low * high) if shape["log"] else (low + high) / 2
    return [(position(shape, str(v)), _number(v)) for v in (low, middle, high)]


def _number(value: float) -> str:
    """Three digits; thousands without an exponent."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelInfo:
    """A complete trial: its settings as text and its first objective."""

    trial: int
    params: Mapping[str, str]
    value: float


def parallel(trials: Sequence[Trial], shapes: Shapes, objective: str) -> Figure | None:
    """Parallel coordinates: one line per trial over all settings, the best tenth colored."""
    done = sorted((t for t in trials if t.complete), key=lambda t: t.values[0])
    if len(done) < 2:
        return None
    return Figure(
        name="parallel",
        title=TITLES["parallel"],
        caption="One line per complete trial, first choice or lowest value at the bottom; the best "
        "tenth of the trials is colored. A gap means that the trial does not have the setting.",
        info=[ParallelInfo(trial=t.number, params=t.params, value=t.values[0]) for t in done],
        exact=True,
        draw=partial(_draw_parallel, done, shapes, objective),
    )


def _draw_parallel(trials: Sequence[Trial], shapes: Shapes, objective: str, style: Style) -> Canvas:
    keys = list(shapes)
    canvas = Canvas(figsize=(max(WIDTH, AXIS * (len(keys) + 1)), 3.7))
    axes = canvas.add_axes((0.06, 0.17, 0.88, 0.76))
    values = [t.values[0] for t in trials]
    low, high = min(values), max(values)
    best = len(trials) - max(1, len(trials) // 10)
    for order, trial in enumerate(trials):
        ys = [position(shapes[k], trial.params[k]) if k in trial.params else math.nan for k in keys]
        ys.append((trial.values[0] - low) / (high - low) if high > low else 1.0)
        highlighted = order >= best
        color = SERIES[0] if highlighted else style.undecided
        weight: dict[str, Any] = {
            "linewidth": 1.7 if highlighted else 0.8,
            "alpha": 0.9 if highlighted else 0.4,
        }
        marker = "." if highlighted else ""
        axes.plot(range(len(ys)), ys, "-", color=color, marker=marker, **weight)
    scale = scale_of(objective)
    for index, key in enumerate(keys):
        for y, word in _marks(shapes[key]):
            _word(axes, index, y, word, style)
    for y, value in ((0.0, low), (1.0, high)):
        _word(axes, len(keys), y, f"{scale * value:.4g}", style)
    names = [*map(_axis_name, keys), axis_label(objective)]
    for text in axes.set_xticks(range(len(names)), names, fontsize=8):
        text.label1.set_parse_math(False)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.04, 1.04)
    bare(axes, style, keep=(), grid="x")
    return canvas


def _axis_name(key: str) -> str:
    """``Class.parameter`` in two lines."""
    room = 0.92 * AXIS * POINTS_PER_INCH
    owner, _, name = key.rpartition(".")
    return f"{short(owner, room=room, size=8)}\n{short(name, room=room, size=8)}"


def _word(axes: Axes, x: float, y: float, word: str, style: Style) -> None:
    """A value next to its axis: the ends outside the lines, others on a patch of paper."""
    inside = 0.0 < y < 1.0
    place = {0.0: ("top", -0.04), 1.0: ("bottom", 1.035)}.get(y, ("center", y))
    box = {"facecolor": style.paper, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    axes.text(
        x,
        place[1],
        short(word, room=0.9 * AXIS * POINTS_PER_INCH, size=7.5),
        ha="center",
        va=place[0],
        fontsize=7.5,
        color=style.soft,
        parse_math=False,
        bbox=box if inside else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontInfo:
    """A complete trial: its objectives, and whether it is on the Pareto front."""

    trial: int
    values: tuple[float, ...]
    front: bool


def front(
    trials: Sequence[Trial], numbers: Sequence[int], objectives: Sequence[str]
) -> Figure | None:
    """The first two objectives of every trial, and which trials are on the Pareto front."""
    done = [trial for trial in trials if trial.complete]
    if len(objectives) < 2 or not done:
        return None
    return Figure(
        name="front",
        title=TITLES["front"],
        caption="Complete trials by the first two objectives. Filled: on the Pareto front (nothing "
        "else is at least as good in every objective and better in one).",
        info=[FrontInfo(trial=t.number, values=t.values, front=t.number in numbers) for t in done],
        exact=True,
        draw=partial(_draw_front, done, frozenset(numbers), tuple(objectives)),
    )


def _draw_front(
    trials: Sequence[Trial], numbers: frozenset[int], objectives: Sequence[str], style: Style
) -> Canvas:
    canvas, axes = _one()
    first, second = (scale_of(name) for name in objectives[:2])
    for trial in trials:
        chosen = trial.number in numbers
        face = SERIES[0] if chosen else "none"
        x, y = second * trial.values[1], first * trial.values[0]
        axes.plot([x], [y], "o", color=SERIES[0], markerfacecolor=face, markersize=6)
        if chosen:
            axes.annotate(
                str(trial.number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
    axes.set_xlabel(axis_label(objectives[1]))
    axes.set_ylabel(axis_label(objectives[0]))
    bare(axes, style, keep=("left", "bottom"), grid="both")
    return canvas
