"""``train``: one run outside a study."""

import sys
from pathlib import Path
from statistics import fmean

import typer

from core.metrics import harmonic_mean
from core.store.names import RECORD_NAME, TRAIN_FOLDER
from core.store.record import RunRecord
from core.streams import one_line
from experiments.cli.console import console, percent, table
from experiments.cli.options import (
    RUNS,
    Config,
    DataRoot,
    Device,
    Json,
    RunFolder,
    Runs,
    Set,
    make_runtime,
)


def train_command(
    config: Config,
    overrides: Set = None,
    out: RunFolder = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train and evaluate one configuration."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.configs import config_path
    from experiments.run.standalone import train_one
    from experiments.study.progress import Bar

    runtime = make_runtime(runs, data_root, device)
    with Bar("epochs") as bar:
        folder, record = train_one(
            config_path(config),
            overrides or [],
            out,
            runs / TRAIN_FOLDER,
            runtime,
            on_progress=lambda epoch: bar.show(epoch["epoch"], epoch["epochs"]),
        )
    print_run(folder, record, as_json=as_json)
    if record.status != "finished":
        print(f"the run {record.status}: {one_line(record.message)}", file=sys.stderr)
        raise typer.Exit(1)


def print_run(folder: Path, record: RunRecord, *, as_json: bool) -> None:
    """Print the record of a run: its file, or a table."""
    if as_json:
        print((folder / RECORD_NAME).read_text(), end="")
    else:
        console().print(table(f"run {folder}", ["item", "value"], describe_run(record)))


def describe_run(record: RunRecord) -> list[tuple[str, str]]:
    """A record as rows of two columns, accuracies in percent."""
    rows = [
        ("dataset", record.dataset),
        *_rules(record),
        ("seed, shots", f"{'-' if record.seed is None else record.seed}, {record.shots}"),
        ("status", f"{record.status} {record.message}".strip()),
    ]
    rows += [(f"{e.target} accuracy %", percent(e.accuracy)) for e in record.evaluations]
    base, new = record.accuracy("base"), record.accuracy("new")
    if base is not None and new is not None:
        rows.append(("harmonic mean %", percent(harmonic_mean(base, new))))
    others = [e.accuracy for e in record.evaluations if e.dataset != record.dataset]
    if others:
        rows.append((f"average over {len(others)} targets %", percent(fmean(others))))
    if record.cost is not None:
        rows.append(("training seconds", f"{record.cost.train_seconds:.2f}"))
        rows.append(("trainable parameters", f"{record.cost.trainable_parameters:,}"))
    return rows


def _rules(record: RunRecord) -> list[tuple[str, str]]:
    """What the protocol allowed this run to see, and what it scored."""
    from experiments.run.protocols import protocol_of

    protocol = protocol_of(record.protocol)
    return [
        ("protocol", f"{protocol.name}: {protocol.summary}"),
        ("scored", protocol.scores),
        ("templates", protocol.templates),
        ("regime", f"{record.regime}: training sees {protocol.regimes[record.regime]}"),
        ("selection", f"{record.selection}: sees {protocol.selections[record.selection]}"),
    ]
