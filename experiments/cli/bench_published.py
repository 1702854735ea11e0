"""``bench --against published``: our steps beside those of the released data flow."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.store.atomic import write_atomic
from core.suggestions import did_you_mean
from experiments.cli.console import console, print_json, table
from experiments.run.environment import describe_environment
from experiments.run.published_flow.cases import BACKBONE, CASES
from experiments.run.published_flow.compare import Bench, FlowSetting, UnequalError, with_memory
from experiments.run.published_flow.tables import CellTable, FlowReport


def compare_with_published(asked: Mapping[str, Any], *, as_json: bool) -> None:
    """Compare, and print what was found; ``asked`` are the options by name. Raises ValueError for
    what cannot be compared, and where the two sides do not compute the same.
    """
    out: Path | None = asked["--out"]
    methods = methods_named(asked["--method"])
    setting = FlowSetting(
        classes=asked["--classes"] or 50,
        backbone=asked["--backbone"] or BACKBONE,
        teacher=asked["--teacher"],
        rounds=asked["--rounds"] or 3,
        threads=asked["--threads"] or 1,
    )
    try:
        report = _compared(setting, methods, asked)
    except UnequalError as error:
        raise ValueError(str(error)) from error
    if out is not None:
        write_atomic(out, json.dumps(report.as_json(), indent=1) + "\n")
    if as_json:
        print_json(report.as_json())
    else:
        _show(report, markdown=asked["--markdown"])


def _compared(
    setting: FlowSetting, methods: tuple[str, ...], asked: Mapping[str, Any]
) -> FlowReport:
    bench = Bench(setting, _note)
    device = str(describe_environment("cpu")["device"])
    report = FlowReport(setting=setting, device=device, product=bench.product, rates=bench.rates())
    for name in methods:
        if asked["--evaluation"]:
            report = replace(report, evaluations=(*report.evaluations, bench.evaluation(name)))
            continue
        found = bench.steps(name, report.rates)
        _note(f"{found.title}: {found.ratio('fixed'):.2f}x on fixed views")
        report = replace(report, steps=(*report.steps, found))
    if asked["--memory"]:
        del bench  # its frozen models would stay beside those of the other processes
        steps = tuple(with_memory(step, setting, _note) for step in report.steps)
        report = replace(report, steps=steps)
    return report


def methods_named(given: str | None) -> tuple[str, ...]:
    """The names of cases, each once. Raises ValueError for another name."""
    if given is None:
        return tuple(CASES)
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
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
