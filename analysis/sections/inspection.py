"""What one run has learned: its classes, confusions, calibration, training, memory, attention and
context words.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from analysis.figures.calibration import ReliabilityInfo, reliability_figure
from analysis.figures.classes import RunClass, RunClassInfo, run_class_figure
from analysis.figures.contact_sheet import (
    GROUP_COLORS,
    Strip,
    Tile,
    contact_sheet,
    lit,
    pixels_of,
    tinted,
)
from analysis.figures.figure import Figure
from analysis.figures.training import TrainingInfo, run_training_figure
from analysis.read.predictions import class_counts
from analysis.sections.section import Section, Topic, make_sentence, running_text
from analysis.text import Column, Columns, Kind, counted, points, share_text, table
from core.metrics import expected_calibration_error
from core.store.epochs import NOT_TERMS, numbers_of
from core.store.inspection import AttentionView, ContextView, Inspection, Neighbor, SlotView
from core.store.record import Evaluation
from core.store.run_facts import devices_of, is_own

ALIKE = 0.9
"""A mean cosine between slots above which a memory says the same thing in every slot."""


def _title(scored: Evaluation, run: Inspection) -> str:
    where = "" if is_own(run.record, scored) else f"{scored.dataset}, "
    return f"{where}{scored.classes} classes"


def summary(run: Inspection) -> str:
    """The run in one line: what was trained, on how much, how well it scores, and what its record
    says besides.
    """
    record, settings = run.record, run.settings
    parts = [settings.get(f"experiment.{name}", "").lstrip("@") for name in ("method", "refiner")]
    trained = " with ".join(part for part in parts if part and part != "NullRefiner")
    shots = f", {counted(record.shots, 'shot')}" if record.shots else ""
    scores = (f"{points(e.accuracy)} % on {_title(e, run)}" for e in record.evaluations)
    devices = devices_of(record)
    moved = f"trained on {', then '.join(devices)}" if len(devices) > 1 else ""
    told = "; ".join(filter(None, (record.message, moved)))
    besides = f" ({told})" if told else ""
    return f"{trained}{shots}: {', '.join(scores)}{besides}."


def _classes(run: Inspection) -> Sequence[Section]:
    panels = []
    for e in run.record.evaluations:
        zipped = zip(e.class_names, e.correct, e.total, strict=True)
        classes = [RunClass(name=n, correct=c, total=t) for n, c, t in zipped if t]
        classes.sort(key=lambda c: -c.correct / c.total)
        info = RunClassInfo(title=_title(e, run), accuracy=e.accuracy, classes=tuple(classes))
        panels.append(info)
    return [_with_figure("classes", run_class_figure(panels))]


def _confusions(run: Inspection) -> Sequence[Section]:
    several = len({(c.dataset, c.subset) for c in run.confused}) > 1
    strips = [
        Strip(
            heading=c.true,
            lines=(
                f"→ {c.predicted}",
                f"{c.count} of {counted(c.images, 'image')}"
                + (f" ({c.dataset}, {c.subset})" if several else ""),
            ),
            tiles=tuple(
                Tile(pixels=pixels_of(e.png), caption=f"{100 * e.confidence:.0f} %")
                for e in c.examples
            ),
        )
        for c in run.confused
    ]
    drawn = contact_sheet(
        strips,
        name="confusions",
        title="Most frequent confusions",
        caption="The true class, and below it the predicted one (→), with the most confident "
        "errors; below each picture "
        "the confidence in the wrong class. The pictures are what the model sees, after resizing "
        "and cropping.",
        info=run.confused,
        across=5,
    )
    reason = "" if drawn else "every test image is predicted correctly"
    return [_with_figure("confusions", drawn, reason)]


def _calibration(run: Inspection) -> Sequence[Section]:
    scored, curves = {e.target: e for e in run.record.evaluations}, []
    for predicted in run.predictions:
        e = scored[predicted.target]
        bins = [b for b in class_counts(e, predicted).bins or () if b.images]
        curves.append(
            ReliabilityInfo(
                variant=run.record.variant,
                subset=_title(e, run).removesuffix(" classes"),
                ece=expected_calibration_error(bins),
                confidence=tuple(b.confidence / b.images for b in bins),
                accuracy=tuple(b.correct / b.images for b in bins),
                share=tuple(b.images / predicted.num_images for b in bins),
            )
        )
    return [_with_figure("calibration", reliability_figure(curves, pooled=""))]


def _training(run: Inspection) -> Sequence[Section]:
    logged = [numbers_of(epoch) for epoch in run.epochs]
    names = dict.fromkeys(name for numbers in logged for name in numbers if name not in NOT_TERMS)
    curves = [_curve(run.record.variant, name, logged) for name in names]
    reason = "" if curves else "this run trained nothing, so it logged no epochs"
    return [_with_figure("training", run_training_figure(curves), reason)]


def _curve(variant: str, name: str, logged: Sequence[Mapping[str, float]]) -> TrainingInfo:
    """A logged number in the epochs that have it."""
    found = {i: numbers[name] for i, numbers in enumerate(logged, start=1) if name in numbers}
    values = tuple(found.values())
    return TrainingInfo(
        variant=variant,
        dataset=name,
        seeds=1,
        epochs=tuple(found),
        mean=values,
        lowest=values,
        highest=values,
    )


def _slot_colors(run: Inspection) -> dict[int, str]:
    """A color for each of the slots that are nearest to most patches."""
    return {view.slot: color for view, color in zip(run.slots, GROUP_COLORS, strict=False)}


def _memory(run: Inspection) -> Sequence[Section]:
    colors = _slot_colors(run)
    strips = [_slot_strip(view, colors) for view in run.slots]
    which = "Each block is a slot of the memory"
    if len(run.slots) < run.num_slots:
        which += f": the {len(run.slots)} of {run.num_slots} that are the nearest of most patches"
    drawn = contact_sheet(
        strips,
        name="memory",
        title="What the memory has learned",
        caption=f"{which}. Under its number stand the class texts nearest to it, with their "
        "cosines (1: same direction). The frames mark the patches nearest to it among "
        f"{counted(run.num_images, 'test image')}, at most one of an image, with what surrounds "
        "them and the cosine below. Squares are the colors of the next figure.",
        info=run.slots,
        across=6,
    )
    reason = run.not_shown.get("memory", "")
    said = running_text(_memory_texts(run)) if not reason else ()
    return [
        Section(
            key="memory",
            sentences=said,
            figures=(drawn,) if drawn else (),
            reason=reason,
        )
    ]


def _slot_strip(view: SlotView, colors: dict[int, str]) -> Strip:
    name = f"Slot {view.slot + 1}" + (f", {view.label}" if view.label else "")
    near = f": nearest to {100 * view.share:.0f} % of all patches" if view.patches else ""
    return Strip(
        heading=name + near,
        lines=tuple(f"{t.name}  {share_text(t.value)}" for t in view.texts),
        tiles=tuple(
            Tile(pixels=pixels_of(p.png), caption=share_text(p.cosine), box=p.box)
            for p in view.patches
        ),
        mark=colors.get(view.slot, "") if view.patches else "",
    )


def _listed(near: Sequence[Neighbor]) -> str:
    return ", ".join(f"{n.name} {share_text(n.value)}" for n in near)


def _memory_texts(run: Inspection) -> list[str]:
    texts = []
    if run.slot_cosine is not None:
        alike = (
            "they are nearly the same, so reading them tells little about the class"
            if run.slot_cosine > ALIKE
            else "0 is unrelated, 1 the same"
        )
        cosine = share_text(run.slot_cosine)
        texts.append(f"The mean cosine between two slots is {cosine}: {alike}.")
    if "patches" in run.not_shown:
        texts.append(f"Patches cannot be shown: {run.not_shown['patches']}.")
    return texts


def _attention(run: Inspection) -> Sequence[Section]:
    colors = _slot_colors(run)
    keys = tuple((f"slot {slot + 1}", color) for slot, color in colors.items())
    strips = [_attention_strip(view, colors, keys) for view in run.attention]
    beside = (
        " At the right, every patch in the color of its nearest slot; gray is another slot."
        if any(view.slots for view in run.attention)
        else ""
    )
    if "adaptation" in run.not_shown:
        beside += f" The {run.not_shown['adaptation']}."
    drawn = contact_sheet(
        strips,
        name="attention",
        title="Where the image tower looks",
        caption="At the left the image; beside it the same image with every patch as bright as "
        "the attention that CLS, the token that becomes the image feature, pays to it in the last "
        f"block (mean over heads).{beside}",
        info=run.attention,
        across=3,
    )
    return [_with_figure("attention", drawn, run.not_shown.get("attention", ""))]


def _attention_strip(
    view: AttentionView, colors: dict[int, str], keys: tuple[tuple[str, str], ...]
) -> Strip:
    pixels = pixels_of(view.image.png)
    tiles = [
        Tile(pixels=pixels, caption="image"),
        Tile(pixels=lit(pixels, view.grid, view.attention), caption="attention of CLS"),
    ]
    if view.slots:
        tinting = tinted(pixels, view.grid, view.slots, colors)
        tiles.append(Tile(pixels=tinting, caption="nearest slot"))
    wrong = view.image.predicted != view.image.true
    outcome = f"predicted as {view.image.predicted}" if wrong else "predicted correctly"
    present = set(view.slots)
    return Strip(
        heading=view.image.true,
        lines=(f"{outcome}, confidence {100 * view.image.confidence:.0f} %",),
        tiles=tuple(tiles),
        keys=tuple(key for key, slot in zip(keys, colors, strict=True) if slot in present),
    )


CONTEXT_COLUMNS: Columns[ContextView] = (
    Column("vector", "Context vector", Kind.NAME, lambda v: v.name),
    Column("cosine", "Nearest by cosine", Kind.TEXT, lambda v: _listed(v.by_cosine)),
    Column("distance", "Nearest by distance", Kind.TEXT, lambda v: _listed(v.by_distance)),
)


def _context(run: Inspection) -> Sequence[Section]:
    lead = make_sentence(
        "A context vector stands in the prompt where a word would. These are the words of the "
        "vocabulary whose embeddings are nearest to it, by cosine (1: same direction) and by "
        "Euclidean distance (0: same vector). A vector that started from a word and still has "
        "cosine near 1 has hardly moved; one that is far from every word has no meaning in words."
    )
    return [
        Section(
            key="context",
            sentences=(lead,),
            tables=(table("context", "Nearest words", CONTEXT_COLUMNS, run.context),),
            reason=run.not_shown.get("context", ""),
        )
    ]


def _with_figure(key: str, drawn: Figure | None, reason: str = "") -> Section:
    return Section(key=key, figures=(drawn,) if drawn else (), reason=reason)


class Shown(NamedTuple):
    """A topic of the page, its heading and its name in the navigation."""

    title: str
    nav: str
    topic: Topic[Inspection]


def _topic(key: str, build: Callable[[Inspection], Sequence[Section]]) -> Topic[Inspection]:
    files = {"context": CONTEXT_COLUMNS} if key == "context" else {}
    return Topic(key=key, build=build, files=files)


TOPICS = (
    Shown("What the memory has learned", "Memory", _topic("memory", _memory)),
    Shown("Where the image tower looks", "Attention", _topic("attention", _attention)),
    Shown("Most frequent confusions", "Confusions", _topic("confusions", _confusions)),
    Shown("Accuracy per class", "Classes", _topic("classes", _classes)),
    Shown("Calibration", "Calibration", _topic("calibration", _calibration)),
    Shown("Training curves", "Training", _topic("training", _training)),
    Shown("Words near the context", "Context words", _topic("context", _context)),
)
