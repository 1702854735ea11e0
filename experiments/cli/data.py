"""``data``: list datasets, check one, write a few-shot draw to a file, export one."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.console import console, print_json, table
from experiments.cli.options import RUNS, Json, Plugin, Runs, Set, cache_dir, make_runtime

DEFAULT_CONFIG = "mosaic"  # whose other settings do not concern the data

data_app = typer.Typer(help="Datasets: list, check, write a few-shot draw, export.")

Root = Annotated[
    Path | None,
    typer.Option("--root", "--data-root", envvar="REFINELAB_DATA", help="Folder of datasets"),
]
Shots = Annotated[int, typer.Option(help="Training images per class (0: all)")]
Seed = Annotated[int, typer.Option(help="Seed of the few-shot draw")]
SplitSeed = Annotated[
    int,
    typer.Option(
        help="Seed of the split for a dataset without a split of its own (0: the default)"
    ),
]
Fractions = Annotated[
    str | None,
    typer.Option(
        help="TRAIN,VAL,TEST fractions of a dataset without a split of its own, such as 0.6,0.1,0.3"
    ),
]


@data_app.command("list")
def data_list(plugin: Plugin = None, as_json: Json = False) -> None:
    """List the datasets that can be read."""
    from core.data.catalog import dataset_names

    found = dataset_names()
    if as_json:
        print_json({"datasets": [{"name": name, "summary": text} for name, text in found]})
    else:
        console().print(table("datasets", ["name", "summary"], found))


@data_app.command("check")
def data_check(
    name: Annotated[str | None, typer.Argument(help="Default: the dataset of --config")] = None,
    root: Root = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="Take the settings of this configuration, as train does"),
    ] = None,
    overrides: Set = None,
    shots: Annotated[int | None, typer.Option(help="Training images per class (0: all)")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the few-shot draw")] = None,
    classes: Annotated[str, typer.Option(help="all, base or new")] = "all",
    split_seed: Annotated[int | None, SplitSeed.__metadata__[0]] = None,
    split_fractions: Fractions = None,
    template: Annotated[str | None, typer.Option(help="Prompt template with one {}")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Check the data against this protocol too")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Open every image that was not opened before")
    ] = False,
    content: Annotated[
        bool,
        typer.Option("--content", help="Also find training images among test images by content"),
    ] = False,
    plugin: Plugin = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Check a dataset: what is present, how it is read, what is missing, what differs from the
    published one.

    Any setting of a run can be given by --config and --set as to train; the run is then checked
    too.
    """
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.run.dataset_check import check_dataset
    from experiments.study.progress import Bar

    given = {
        "dataset": name,
        "shots": shots,
        "seed": seed,
        "split_seed": split_seed,
        "split_fractions": None if split_fractions is None else fractions_of(split_fractions),
        "template": template,
        "protocol": protocol,
    }
    name, run, settings = requested(given, config, overrides or [], classes)
    with Bar("opening images") as bar:
        found = check_dataset(
            name,
            make_runtime(runs, root, "cpu"),
            settings,
            config=run,
            content=content,
            decode=bar.show if decode else None,
        )
    if as_json:
        print(json.dumps(found))
    else:
        console().print(table(name, ["what", "value"], check_rows(found)))
    if found["problem"]:
        raise ValueError(found["problem"])


def requested(
    given: Mapping[str, Any], config: str | None, overrides: list[str], classes: str
) -> tuple[str, Any, Any]:
    """The dataset, the ``Config`` of the run where one is asked about, and the ``DataSettings``.

    Raises ValueError where no dataset is named, or two are.
    """
    from experiments.configs import config_path
    from experiments.run.data_inputs import planned
    from experiments.run.dataset_check import DataSettings, settings_of
    from experiments.run.standalone import load_run_config

    named = {key: value for key, value in given.items() if value is not None}
    if config is None and not overrides and "protocol" not in named:
        if "dataset" not in named:
            raise ValueError("name a dataset, or a configuration with --config")
        name = named.pop("dataset")
        if "split_fractions" in named:
            named["fractions"] = split_fractions_of(named.pop("split_fractions"))
        return name, None, DataSettings(classes=classes, **named)
    chosen = any(line.strip().startswith("experiment.dataset") for line in overrides)
    sources = chosen + ("dataset" in named)
    if sources > 1 or (config is None and not sources):
        raise ValueError("name one dataset: as the argument, by --set, or by --config")
    lines = [f"experiment.{key}={value!r}" for key, value in named.items()]
    run = load_run_config(config_path(config or DEFAULT_CONFIG), [*overrides, *lines])
    name = planned(run)[0].dataset
    return name, run, settings_of(run, classes)


def load_split(
    name: str, root: Path | None, cache: Path, split_seed: int, split_fractions: str | None
) -> Any:
    """The ``Dataset`` of a name, split as asked. Raises ValueError where that has no effect."""
    from core.data.catalog import load_dataset
    from experiments.run.preflight import reading_of

    shares = None if split_fractions is None else fractions_of(split_fractions)
    fractions = None if shares is None else split_fractions_of(shares)
    dataset = load_dataset(
        name, root=root, cache_dir=cache, fractions=fractions, split_seed=split_seed
    )
    given = {"split_seed": split_seed != 0, "split_fractions": fractions is not None}
    for key, is_given in given.items():
        if is_given and key not in reading_of(dataset).split_settings:
            option = f"--{key.replace('_', '-')}"
            raise ValueError(
                f"{option} has no effect on {dataset.name}, whose split does not depend on it "
                f"({reading_of(dataset).layout}); remove it"
            )
    return dataset


def fractions_of(text: str) -> tuple[float, ...]:
    """``0.5,0.2,0.3`` as numbers. Raises ValueError."""
    try:
        values = tuple(float(word) for word in text.strip("() ").split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ValueError(f"--split-fractions must be TRAIN,VAL,TEST, got {text!r}")
    return values


def split_fractions_of(values: tuple[float, ...]) -> Any:
    """The ``SplitFractions`` of three numbers. Raises ValueError."""
    from core.data.splits import SplitFractions

    train, val, test = values
    return SplitFractions(train=train, val=val, test=test)


def check_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The findings of ``check_dataset`` as rows: listings as length and hash, lists as text."""
    for key, value in found.items():
        if key in ("train", "val", "test"):
            yield key, value["n"]
            yield f"{key} sha256", value["sha256"]
        elif key == "there":
            for path, present in value.items():
                yield path, "present" if present else "missing"
        elif key == "missing" and value is not None:
            yield "missing", f"{value['count']} of {value['total']}, first {value['first']}"
        elif key == "images":
            yield key, ", ".join(f"{part} {count}" for part, count in value.items())
        elif key == "class_names":
            yield "class names", ", ".join(value)
        elif isinstance(value, list):
            yield from ((key, line) for line in value or ["nothing"])
        elif value not in ("", None):
            yield key.replace("_", " "), value


@data_app.command("shots")
def data_shots(
    name: str,
    out: Annotated[Path, typer.Argument(help="JSON file to write")],
    shots: Shots = 16,
    seed: Seed = 1,
    split_seed: SplitSeed = 0,
    split_fractions: Fractions = None,
    first_run: Annotated[
        bool,
        typer.Option("--first-run", help="Draw as the published run that creates the split does"),
    ] = False,
    root: Root = None,
    plugin: Plugin = None,
    runs: Runs = RUNS,
) -> None:
    """Write the images of a few-shot draw to a file for experiment.shots_file."""
    from core.data.benchmarks.definitions import BENCHMARKS
    from core.data.benchmarks.read_benchmark import first_run as first_run_of
    from core.data.dataset_names import data_root
    from core.data.fewshot import few_shot
    from core.data.shots import write_shots

    cache = cache_dir(runs)
    if first_run:
        if name not in BENCHMARKS or split_seed not in (0, seed) or split_fractions is not None:
            raise ValueError(
                "--first-run draws split and shots with the same seed and exists only for the "
                f"benchmarks, got {name!r} and split seed {split_seed}; leave one out"
            )
        drawn = first_run_of(name, root=data_root(root), cache_dir=cache, shots=shots, seed=seed)
    else:
        full = load_split(name, root, cache, split_seed, split_fractions)
        drawn = few_shot(full, shots=shots, seed=seed)
    digest = write_shots(out, drawn)
    print(f"wrote {out}; sha256 of its training list {digest}")


@data_app.command("export")
def data_export(
    name: str,
    out: Path,
    split_seed: SplitSeed = 0,
    split_fractions: Fractions = None,
    root: Root = None,
    plugin: Plugin = None,
    runs: Runs = RUNS,
) -> None:
    """Write a dataset as image files with a split file, in the CoOp folder layout."""
    from core.data.export import export_dataset
    from experiments.study.progress import Bar

    with Bar(f"writing {name}") as bar:
        dataset = load_split(name, root, cache_dir(runs), split_seed, split_fractions)
        split_file = export_dataset(dataset, out, bar.show)
    print(f"wrote {split_file}; read it with experiment.dataset = 'folder/{out}'")
