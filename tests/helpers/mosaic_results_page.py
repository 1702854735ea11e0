"""docs/results_mosaic.md, written from finished studies of the embedded benchmark.

``make mosaic-results`` runs the studies, which takes hours on two cores and can be interrupted, and
then writes the page. Every number and every verdict comes from the runs; what is typed here is what
was asked and how it was set up.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from analysis.read.results import Results
from analysis.read.study_folder import load_study
from analysis.render.markdown import escape_markdown, table_markdown
from analysis.report import CHAPTERS
from analysis.search_report import build_search_report
from analysis.sections.analysis import Analysis
from analysis.sections.headline import EMBEDDED_CAVEAT
from analysis.sections.section import Section
from analysis.text import Show, Table, counted

PAGE = Path("docs/results_mosaic.md")
WIDTH = 120


class Study(NamedTuple):
    """A study of the page: its folder, the command that runs it, its question and its setup.

    ``costs``: the page shows what a run of each variant costs.
    """

    name: str
    command: str
    question: str
    setup: str
    costs: bool = False


TUNED = (
    "One budget for all: 10 epochs, batch 32, 16 shots, no augmentation (CoPrompt: one augmented "
    "view, which it needs). Each row was tuned by a search of its own over the rate of its "
    "optimizer, one strength of the method and that of the refiner's regularization: 6 random "
    "trials on validation images of mosaic/land and mosaic/textures, one seed, without test images "
    "and new classes. Six trials are few, and equal for all: a row says what a method reaches with "
    "this effort."
)
STUDIES = (
    Study(
        "demo",
        "python main.py grid demo",
        "Which part of TextRefiner helps CoOp?",
        "15 epochs, lr 0.02. The learning rate is twice that of the next study and the number of "
        "epochs half, so that the demo takes minutes.",
    ),
    Study(
        "mosaic_sets",
        "python main.py grid mosaic_sets",
        "Does TextRefiner help on all six datasets, at two learning rates?",
        "30 epochs, lr 0.01 and lr 0.05.",
    ),
    Study(
        "does_the_cache_work",
        "python main.py grid does_the_cache_work",
        "Does the cache work?",
        "As released, the cache returns almost the same vector for every class: cosines lie in "
        "[-1, 1] and the softmax has no temperature. Would a selective read help? Read temperature "
        "(1 as released, 0.05) x write (sum as released, mean) x slots (25 as released, 100). The "
        "baseline is TextRefiner with NoCache: the same linear adapter of the text, without "
        "memory. The variant full is the refiner as released. 15 epochs, lr 0.02.",
    ),
    Study(
        "caches_x_aggregations",
        "python main.py grid caches_x_aggregations",
        "Which memory, and which way to use it?",
        "Five caches x three aggregations on CoOp. The variant full is EmaCache with "
        "LinearAggregation, as released; -cache is NoCache. 15 epochs, lr 0.02.",
    ),
    Study(
        "methods_x_refiners",
        "python main.py grid methods_x_refiners",
        "Does TextRefiner help on every base method?",
        "Five methods, each alone and with TextRefiner as released. One budget for all: 15 epochs, "
        "batch 32, no augmentation, and ten times the published rate for the methods trained with "
        "SGD, a rule that was fixed before the first run and not changed afterwards. SEP keeps its "
        "published Adam rate. PromptKD has no larger model here: its teacher is the frozen CLIP "
        "itself, and it sees the unlabeled images of both halves (regime limited), so it is never "
        "ranked with the others.",
    ),
    Study(
        "sep_scopes",
        "python main.py grid sep_scopes",
        "SEP: batch-coupled as released, or batch-invariant?",
        "The release averages token power over the batch and lets its fusion attend over the batch "
        "axis, so that a prediction depends on the other images of the test batch. The baseline is "
        "the default here, batch-invariant. 15 epochs at the published rate.",
    ),
)
METHODS_ALL = (
    Study(
        "methods_all",
        "make methods-all",
        "Every method, alone and with TextRefiner: which is best at its own settings?",
        TUNED,
        costs=True,
    ),
    Study(
        "methods_all_few_shot",
        "make methods-all",
        "And where every class has training images?",
        "The few-shot protocol, 16 shots of all classes, for the methods that score only classes "
        "they were trained on, with zero-shot and CoOp beside them; tuned as above, on the "
        "validation images of the base classes.",
        costs=True,
    ),
)
SEARCH = Study(
    "search_text_refiner",
    "python main.py search search_text_refiner --control",
    "Does a search over TextRefiner's settings pay?",
    "60 trials of TPE, 15 epochs each. The search saw only few-shot training and validation images "
    "of base classes. The control is a random search of equal budget over the same space. Both "
    "winners and the default (TextRefiner as released, lr 0.02) were then trained with fresh seeds "
    "and scored once on test images.",
)
INTRODUCTION = """# Results on Mosaic

Results on the embedded benchmark show that the software works. They are no evidence that a method
is good on photographs. Base-to-new, 16 shots, last epoch, CPU; accuracies in percent, ± the half
width of the 95 % t interval over seeds; zero-shot has no randomness and is a single measurement.
Verdicts are about *these datasets* and about *datasets like these*, see [reading the
report](reading_the_report.md). `make mosaic-results` runs the studies and writes this page from
their runs."""


def page(runs: Path) -> str:
    """The page, from the studies below ``runs``."""
    parts = [INTRODUCTION]
    for study in (*STUDIES, *METHODS_ALL):
        parts += _study(study, runs / study.name)
    parts += _search(SEARCH, runs / SEARCH.name)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _study(study: Study, folder: Path) -> Iterator[str]:
    analysis = Analysis(results=load_study(folder), folder=folder, image_runs=0)
    built = {
        section.key: section
        for chapter in CHAPTERS
        if chapter.key in ("headline", "results", "cost")
        for section in chapter.built(analysis).sections
    }
    results = analysis.results
    size = (
        f"{counted(len(results.variants), 'variant')}, {counted(len(results.datasets), 'dataset')},"
        f" {counted(len(results.planned_seeds), 'seed')}."
    )
    yield from _head(study, f"{size} {study.setup}", f"python main.py report runs/{study.name}")
    yield _said(built["headline"])
    yield _table(built["headline"].table("answer"), Show.MARKDOWN)
    yield _table(built["results"].table("main"), Show.PAGE)
    if study.costs:
        (costs,) = built["cost"].tables
        yield _table(costs, Show.PAGE)
    if unfinished := _unfinished(results):
        yield unfinished
    if said := [s for s in built["remarks"].sentences if s.text != EMBEDDED_CAVEAT]:
        yield "\n".join(f"* {escape_markdown(s.text)}" for s in said)


def _unfinished(results: Results) -> str:
    """Which variants lack runs because their study was ended early."""
    missing = Counter(p.variant for p in results.problems if p.kind == "missing")
    if not missing:
        return ""
    planned = len(results.datasets) * len(results.planned_seeds)
    shown = ", ".join(f"{name} {count}" for name, count in missing.items())
    return (
        f"The study was ended before its last run, and the same command goes on. Of {planned} runs "
        f"each, there are missing: {shown}. What is compared is what both sides have."
    )


def _search(study: Study, folder: Path) -> Iterator[str]:
    report = build_search_report(folder, out=folder / "report")
    yield from _head(study, study.setup, f"python main.py report runs/{study.name}")
    built = {s.key: s for chapter in report.chapters for s in chapter.sections}
    yield _said(built["headline"])
    yield _table(built["headline"].table("answer"), Show.MARKDOWN)
    yield _table(built["judgment"].tables[0], Show.PAGE)


def _head(study: Study, setup: str, report: str) -> Iterator[str]:
    yield f"## {study.question}"
    yield f"```\n{study.command}\n{report}\n```"
    yield setup


def _said(section: Section) -> str:
    """The answer, a line for each scope."""
    return "\n".join(f"* **{escape_markdown(s.text)}**" for s in section.sentences)


def _table(found: Table, where: Show) -> str:
    shown = found.visible_in(where)
    assert shown is not None, found.title
    return table_markdown(shown)


if __name__ == "__main__":
    PAGE.write_text(page(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")), encoding="utf-8")
