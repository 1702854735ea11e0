"""``train``: one run outside a study."""

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import typer

from core.metrics import harmonic_mean
from core.store.names import RECORD_NAME, TRAIN_FOLDER
from core.store.record import RunRecord
from core.store.run_facts import devices_of, short_counts, target_scores
from core.streams import one_line
from experiments.cli.console import console, percent, print_notes, table
from experiments.cli.options import (
    MLFLOW,
    RUNS,
    Config,
    DataRoot,
    Device,
    Json,
    NoTrack,
    Plugin,
    RunFolder,
    Runs,
    Set,
    Track,
    make_runtime,
    track_choice,
)
from experiments.run.runtime import Runtime


def train_command(
    config: Config,
    overrides: Set = None,
    plugin: Plugin = None,
    out: RunFolder = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    track: Track = MLFLOW,
    no_track: NoTrack = False,
    as_json: Json = False,
) -> None:
    """Train and evaluate one configuration."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.configs import config_path
    from experiments.run.standalone import train_one
    from experiments.study.progress import Bar
    from experiments.study.trackers import make_tracker

    runtime, mirrors = make_runtime(runs, data_root, device), track_choice(track, no_track)
    lines = data_lines(config, overrides or [], runtime, as_json=as_json)

    def show(epoch: Mapping[str, float]) -> None:
        print_once(lines, as_json=as_json)
        bar.show(epoch["epoch"], epoch["epochs"])

    with Bar("epochs") as bar:
        folder, record = train_one(
            config_path(config),
            overrides or [],
            out,
            runs / TRAIN_FOLDER,
            runtime,
            on_progress=show,
        )
    print_once(lines, as_json=as_json)
    print_run(folder, record, as_json=as_json)
    tracker = make_tracker(runs / TRAIN_FOLDER, mirrors, extra=[folder])
    tracker.finished(folder)
    if warning := tracker.close():
        print(warning, file=sys.stderr)
    if record.status != "finished":
        print(f"the run {record.status}: {one_line(record.message)}", file=sys.stderr)
        raise typer.Exit(1)


def data_lines(config: str, overrides: list[str], runtime: Runtime, *, as_json: bool) -> list[str]:
    """How the data of a run were read; beside JSON only what was found on disk.

    Raises ValueError for data that cannot be read, and for an image that cannot be decoded.
    """
    from experiments.configs import config_path
    from experiments.run.preflight import preflight, require_readable
    from experiments.run.standalone import read_run_config
    from experiments.study.progress import Bar

    given, notes = read_run_config(config_path(config), overrides)
    found = preflight([given], runtime)
    print_notes(notes)
    with Bar("opening images") as bar:
        require_readable(found.decode(runtime, progress=bar.show), runtime)
    return [*found.lines(on_disk=as_json), *found.notes()]


def print_once(lines: list[str], *, as_json: bool) -> None:
    """Print lines and forget them: with the first epoch, when nothing can be refused any more, or
    at the end; on standard error beside JSON.
    """
    for line in lines:
        print(line, file=sys.stderr if as_json else sys.stdout)
    lines.clear()


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
        *_cautions(record),
        ("status", f"{record.status} {record.message}".strip()),
    ]
    rows += [(f"{e.target} accuracy %", percent(e.accuracy)) for e in record.evaluations]
    base, new = record.accuracy("base"), record.accuracy("new")
    if base is not None and new is not None:
        rows.append(("harmonic mean %", percent(harmonic_mean(base, new))))
    others = [e.accuracy for e in target_scores(record)]
    if others:
        rows.append((f"average over {len(others)} targets %", percent(fmean(others))))
    if record.cost is not None:
        rows.append(("training seconds", f"{record.cost.train_seconds:.2f}"))
        rows.append(("trainable parameters", f"{record.cost.trainable_parameters:,}"))
    return rows


def _cautions(record: RunRecord) -> list[tuple[str, str]]:
    """What a reader of the accuracies has to know about the images and the devices of the run."""
    from experiments.run.protocols import LABELED

    rows = []
    if short := short_counts(record):
        used = str(min(short)) if min(short) == max(short) else f"{min(short)} to {max(short)}"
        text = (
            f"{len(short)} of {len(record.drawn_per_class)} trained classes have fewer than "
            f"{record.shots} training images: {used}"
        )
        rows.append(("shots used", text))
    if len(devices := devices_of(record)) > 1:
        rows.append(("trained on", ", then ".join(devices)))
    if record.shared_images:
        labeled = record.regime == LABELED
        so = "so the accuracies are too high" if labeled else "without their labels"
        rows.append(("test images seen in training", f"{record.shared_images}, {so}"))
    return rows


def _epochs(record: RunRecord) -> list[tuple[str, str]]:
    """Which epoch is reported, where that is a choice."""
    if record.selection == "last" or not record.selected_epoch:
        return []
    stopped = record.stopped_epoch
    early = f"; stopped early, after epoch {stopped}" if stopped is not None else ""
    return [("reported epoch", f"{record.selected_epoch}{early}")]


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
        *_epochs(record),
    ]
