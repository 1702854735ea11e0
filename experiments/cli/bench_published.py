"""``bench --against published``: our steps beside those of the released data flow."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from core.store.atomic import check_file, write_atomic
from core.suggestions import did_you_mean
from experiments.cli.console import console, print_json, table
from experiments.run.environment import describe_environment
from experiments.run.published_flow.cases import BACKBONE, CASES
from experiments.run.published_flow.compare import Bench, Setting, UnequalError, with_memory
from experiments.run.published_flow.tables import CellTable, FlowReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a person asked for."""

    against: str
    methods: str | None
    rounds: int
    threads: int
    classes: int
    backbone: str | None
    teacher: str | None
    memory: bool
    evaluation: bool
    markdown: bool
    as_json: bool
    out: Path | None
    device: str


def compare_with_published(asked: Comparison) -> None:
    """Compare, and print what was found. Raises ValueError for what cannot be compared, and where
    the two sides do not compute the same.
    """
    if asked.against != "published":
        raise ValueError(
            f"--against must be 'published', got {asked.against!r}; for two commits: "
            "make bench-compare REF=<commit>"
        )
    if asked.device != "cpu":
        raise ValueError(f"--against published runs on the CPU, got --device {asked.device}")
    if asked.out is not None:
        check_file(asked.out, "--out")
    methods = _methods(asked.methods)
    setting = Setting(
        classes=asked.classes,
        backbone=asked.backbone or BACKBONE,
        teacher=asked.teacher,
        rounds=asked.rounds,
        threads=asked.threads,
    )
    try:
        report = _compared(asked, setting, methods)
    except UnequalError as error:
        raise ValueError(str(error)) from error
    if asked.out is not None:
        write_atomic(asked.out, json.dumps(report.as_json(), indent=1) + "\n")
    if asked.as_json:
        print_json(report.as_json())
    else:
        _show(report, markdown=asked.markdown)


def _compared(asked: Comparison, setting: Setting, methods: tuple[str, ...]) -> FlowReport:
    bench = Bench(setting, _note)
    device = str(describe_environment("cpu")["device"])
    report = FlowReport(setting=setting, device=device, rates=bench.rates())
    for name in methods:
        if asked.evaluation:
            report = replace(report, evaluations=(*report.evaluations, bench.evaluation(name)))
            continue
        found = bench.steps(name, report.rates)
        _note(f"{found.title}: {found.ratio('fixed'):.2f}x on fixed views")
        report = replace(report, steps=(*report.steps, found))
    if asked.memory and not asked.evaluation:
        del bench
        report = replace(
            report, steps=tuple(with_memory(step, setting, _note) for step in report.steps)
        )
    return report


def _methods(given: str | None) -> tuple[str, ...]:
    """The names of cases, each once. Raises ValueError for another name."""
    names = tuple(dict.fromkeys(n.strip() for n in given.split(","))) if given else tuple(CASES)
    for name in names:
        if name not in CASES:
            raise ValueError(
                f"--method {name!r} has no released data flow here; known: {', '.join(CASES)}"
                f"{did_you_mean(name, CASES)}"
            )
    return names


def _show(report: FlowReport, *, markdown: bool) -> None:
    if markdown:
        print(f"{report.about()}.\n")
        print("\n\n".join(cells.markdown() for cells in report.tables()))
    else:
        for cells in report.tables():
            console().print(_terminal(cells))
        print(report.about())
    if report.equality():
        print(f"\n{report.equality()}")


def _terminal(cells: CellTable) -> object:
    return table(cells.title, cells.columns, cells.rows, numbers=len(cells.columns) - 1)


def _note(text: str) -> None:
    """Show progress on standard error."""
    print(text, file=sys.stderr, flush=True)
