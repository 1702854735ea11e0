"""``diff``: compare two runs."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import console, table

Run = Annotated[Path, typer.Argument(help="Run folder")]


def diff_command(first: Run, second: Run) -> None:
    """Show the settings and machines in which two runs differ, and their scores side by side."""
    from analysis.sections.run_pair import machine_note, machine_rows, score_rows
    from experiments.study.status import diff

    names = [first.name, second.name]
    console().print(table("differences", ["setting", *names], diff(first, second)))
    machines = machine_rows(first, second)
    if machines:
        console().print(table("made by", ["what", *names], machines))
    scores = score_rows(first, second)
    columns = ["score", *names, "second - first"]
    console().print(table("scores", columns, scores, numbers=3))
    if note := machine_note(machines):
        print(note)
