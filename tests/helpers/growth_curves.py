"""How cost grows: the curves of docs/speed.md, their figures and their table.

``make growth-curves`` measures them on this machine, within a few minutes: a training step of CoOp
against the number of classes, of images in a batch and of context tokens, and what planning, status
and report take against the number of runs. One thread, ViT-B/16 with random weights, float32.
"""

import csv
import functools
import io
import math
import random
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure as Canvas

from analysis.figures.colors import PRINT
from analysis.figures.style import bare, series_style, settings
from analysis.report import build_report
from core.machine import processor
from core.seeding import Seeds
from core.train.fit import train_step
from core.train.model import RefinedMethod
from core.train.optimizers import SGD
from core.types import Batch, ClassNames, ImageFeatures
from experiments.run.published_flow.cases import objective_of, random_clip
from experiments.run.published_flow.memory import peak_above_start
from experiments.study.status import study_status
from methods.coop import CoOp
from refiners.null_refiner import NullRefiner
from tests.helpers.paths import GOLDEN_DATA
from tests.helpers.untrained_studies import grid_text, planned_grid, write_untrained

DOCS = Path("docs")
PAGE, TABLE = DOCS / "speed.md", DOCS / "speed_growth.csv"
HEADING, NEXT = "## How cost grows\n", "\n## "
CLASSES = (10, 30, 100, 300, 1000)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = (4, 8, 16, 32, 64)
STUDIES = ((5, 2, 1), (10, 2, 5), (20, 5, 10), (50, 20, 10))
"""Variants, datasets and seeds of the studies: 10, 100, 1,000 and 10,000 runs."""
ROUNDS, ENOUGH_SECONDS = 3, 4.0


class Point(NamedTuple):
    """One measurement: what of, against what, and how long it took. ``mib`` is the peak memory of a
    step above what is resident before it, None where it was not measured.
    """

    curve: str
    series: str
    x: int
    seconds: float
    mib: float | None = None


AXES = {
    "classes": "Classes (32 images, 4 context tokens)",
    "images": "Images in a batch (50 classes, 4 context tokens)",
    "context": "Context tokens (50 classes, 32 images)",
    "runs": "Runs of the study",
}
CACHED, PIXELS = "cached features", "pixels, encoded in the step"


def measured():
    """All points; the studies first, while the process is small."""
    torch.set_num_threads(1)
    yield from _studies()
    clip = random_clip()
    for classes in CLASSES:
        yield _step("classes", CACHED, classes, clip, classes=classes)
    for images in IMAGES:
        yield _step("images", CACHED, images, clip, images=images)
    for images in IMAGES:
        yield _step("images", PIXELS, images, clip, images=images, pixels=True)
    for context in CONTEXT:
        yield _step("context", CACHED, context, clip, context=context)


def _step(curve, series, x, clip, **shape):
    step = coop_step(clip, **shape)
    mib = peak_above_start(step)
    return Point(curve, series, x, _fastest(step), mib)


@functools.cache
def imagenet_names():
    """ImageNet's class names in a random order, always the same."""
    lines = (GOLDEN_DATA / "imagenet_classnames.txt").read_text().splitlines()
    names = [line.partition(" ")[2] for line in lines]
    random.Random(0).shuffle(names)
    return tuple(names)


def coop_step(clip, *, classes=50, images=32, context=4, pixels=False):
    """A training step of CoOp on random images, as a function."""
    names, seeds = ClassNames(names=imagenet_names()[:classes]), Seeds(0)
    method = CoOp(clip, names, seeds.at("method"), num_ctx=context, ctx_init="")
    model = RefinedMethod(method, NullRefiner(method.output(), seeds.at("refiner")))
    model.train()
    objective = objective_of(model)
    groups = [{"params": list(group.parameters)} for group in model.parameter_groups()]
    optimizer = SGD(lr=0.002).build(groups)
    drawn = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=drawn)
    size = (images, 3, *clip.spec.image_size)
    given = torch.randn(size, generator=drawn) if pixels else None
    pooled = torch.randn(images, clip.spec.joint_width, generator=drawn)
    features = ImageFeatures(pooled=pooled / pooled.norm(dim=-1, keepdim=True))

    def step():
        found = features
        if given is not None:
            with torch.no_grad():
                found = clip.encode_image(given)
        batch = Batch(labels=labels, features=found)
        return train_step(model, objective, optimizer, batch, nullcontext())

    return step


def _fastest(work):
    """The shortest of several calls, fewer where they take long."""
    times = []
    while len(times) < ROUNDS and sum(times) < ENOUGH_SECONDS:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _studies():
    """Seconds of CPU for planning, status and report of studies that were not trained."""
    with tempfile.TemporaryDirectory() as home:
        for shape in STUDIES:
            folder = Path(home) / "x".join(map(str, shape))
            text = grid_text(*shape, study=folder.name)
            made, planning = _timed(planned_grid, folder.with_suffix(".gin"), text)
            write_untrained(made, folder)
            runs = len(made.runs)
            yield Point("runs", "plan", runs, planning)
            yield Point("runs", "status", runs, _timed(study_status, folder)[1])
            out = Path(home) / "report"
            yield Point("runs", "report", runs, _timed(build_report, folder, out=out)[1])


def _timed(work, *given, **named):
    started = time.process_time()
    result = work(*given, **named)
    return result, time.process_time() - started


def slope(points):
    """The exponent at the large end: the slope between the last two points of a log-log curve."""
    if len(points) < 2:
        return math.nan
    (one, two) = sorted(points, key=lambda p: p.x)[-2:]
    return math.log(two.seconds / one.seconds) / math.log(two.x / one.x)


def series_of(points, curve):
    """The points of a curve, by series."""
    found = {}
    for point in points:
        if point.curve == curve:
            found.setdefault(point.series, []).append(point)
    return found


def table_text(points):
    """The points as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Point._fields)
    for p in points:
        mib = "" if p.mib is None else f"{p.mib:.0f}"
        writer.writerow([p.curve, p.series, p.x, f"{p.seconds:.4g}", mib])
    return buffer.getvalue()


def read_table(text):
    """The points of a CSV."""
    return [
        Point(r["curve"], r["series"], int(r["x"]), float(r["seconds"]), float(r["mib"] or "nan"))
        for r in csv.DictReader(io.StringIO(text))
    ]


def figure(points, curves, value, label, *, slopes=True):
    """A log-log panel a curve, drawn for paper."""
    canvas = Canvas(figsize=(3.6 * len(curves) + 0.2, 3.1))
    for index, curve in enumerate(curves, start=1):
        axes = canvas.add_subplot(1, len(curves), index)
        for number, (name, found) in enumerate(series_of(points, curve).items()):
            text = f"{name}, slope {slope(found):.2f}" if slopes else name
            xs, ys = [p.x for p in found], [getattr(p, value) for p in found]
            axes.plot(xs, ys, label=text, linewidth=1.2, markersize=5, **series_style(number))
        _log_axes(axes, [p for found in series_of(points, curve).values() for p in found], value)
        axes.set_xlabel(AXES[curve], fontsize=9)
        axes.set_ylabel(label if index == 1 else "", fontsize=9)
        axes.tick_params(labelsize=8)
        bare(axes, PRINT, keep=("left", "bottom"), grid="both")
        axes.legend(frameon=False, fontsize=8, labelcolor=PRINT.ink, loc="best")
    canvas.tight_layout()
    return canvas


def _log_axes(axes, points, value):
    """Logarithmic axes: a tick at every size that was measured, and at powers of ten of costs."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({p.x for p in points})
    axes.set_xticks(sizes, labels=[f"{x:,}" for x in sizes])
    costs = [getattr(p, value) for p in points]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    powers = [10.0**n for n in range(low, max(high, low + 1) + 1)]
    axes.set_yticks(powers, labels=[f"{power:g}" for power in powers])
    axes.set_ylim(powers[0], powers[-1] * 3)
    axes.minorticks_off()


def write_figures(points, folder):
    """The figures as small PNG files; returns their names."""
    steps = ("classes", "images", "context")
    made = {
        "speed_steps.png": lambda: figure(points, steps, "seconds", "Seconds a step"),
        "speed_memory.png": lambda: figure(
            points, steps, "mib", "Peak MiB of a step", slopes=False
        ),
        "speed_runs.png": lambda: figure(points, ("runs",), "seconds", "CPU seconds"),
    }
    for name, draw in made.items():
        with matplotlib.rc_context(settings(PRINT)):
            draw().savefig(
                folder / name, dpi=110, facecolor=PRINT.paper, metadata={"Software": None}
            )
    return tuple(made)


@functools.cache
def machine():
    """What the figures hold for."""
    return f"{processor()}; 1 thread, torch {torch.__version__}, float32"


def section(points, where):
    """The part of the page that tells of the curves."""
    ends = {
        (curve, name): (found[-1], slope(found))
        for curve in AXES
        for name, found in series_of(points, curve).items()
    }
    rows = [
        f"| {curve} | {name} | {last.x:,} | {last.seconds:.3g} | "
        f"{'–' if last.mib is None or math.isnan(last.mib) else format(last.mib, ',.0f')} | "
        f"{rate:.2f} |"
        for (curve, name), (last, rate) in ends.items()
    ]
    return "\n".join(
        [
            HEADING,
            "A training step of CoOp (ViT-B/16, random weights) and the commands that handle many "
            "runs, on one machine;",
            "`make growth-curves` measures them again and writes this section.",
            f"Machine: {where}.",
            "",
            "![Seconds a step](speed_steps.png)",
            "",
            "![Peak memory of a step](speed_memory.png)",
            "",
            "![Seconds against the number of runs](speed_runs.png)",
            "",
            "The slope is that of the last two points of a log-log curve: 1 is linear, 0 is "
            "constant. Every point is in",
            "[speed_growth.csv](speed_growth.csv). Steps are the fastest of three calls; memory is "
            "above what is resident",
            "before the step; plan, status and report are CPU seconds of studies with stored "
            "predictions and default options. The wall",
            "clock of steps counts what else the machine did.",
            "",
            "| against | what | largest | seconds there | peak MiB | slope there |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def with_section(page, text):
    """The page with its section on growth replaced, or added at the end."""
    before, found, after = page.partition(HEADING)
    rest = after[after.index(NEXT) :] if found and NEXT in after else ""
    return before.rstrip("\n") + "\n\n" + text.rstrip("\n") + "\n" + rest


def main():
    points = []
    for point in measured():
        points.append(point)
        print(*point, flush=True)
    TABLE.write_text(table_text(points))
    write_figures(points, DOCS)
    PAGE.write_text(with_section(PAGE.read_text(), section(points, machine())))


if __name__ == "__main__":
    main()
