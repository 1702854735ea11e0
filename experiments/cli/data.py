"""The ``data`` commands of the command line: list, check, shots, export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import Bar, console, table

data_app = typer.Typer(help="Datasets: list, check, write the images of a run, export.")

Root = Annotated[
    Path | None,
    typer.Option("--root", "--data-root", envvar="REFINELAB_DATA", help="Folder of datasets"),
]
Runs = Annotated[Path, typer.Option("--runs", help="Where the cache lives")]
Shots = Annotated[int, typer.Option(help="Training images a class; 0: all")]
Seed = Annotated[int, typer.Option(help="Seed of the few-shot draw")]
SplitSeed = Annotated[
    int, typer.Option(help="Seed of the split where a set has none; 0: the default")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]
RUNS = Path("runs")


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Datasets that can be read."""
    from core.data.catalog import dataset_names

    found = dataset_names()
    if as_json:
        rows = [{"name": name, "summary": text} for name, text in found]
        print(json.dumps({"datasets": rows}, indent=1))
    else:
        console().print(table("datasets", ["name", "summary"], found))


@data_app.command("check")
def data_check(
    name: str,
    root: Root = None,
    shots: Shots = 0,
    seed: Seed = 1,
    classes: Annotated[str, typer.Option(help="all, base or new")] = "all",
    split_seed: SplitSeed = 0,
    decode: Annotated[bool, typer.Option("--decode", help="Open every picture")] = False,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """What is there, what is missing, what differs from the published set; sha256 of listings."""
    from experiments.cli.data_commands import check_dataset, check_rows

    cache_dir = (runs / "cache").absolute()
    with Bar("opening pictures") as bar:
        found = check_dataset(
            name,
            root,
            cache_dir,
            shots=shots,
            seed=seed,
            classes=classes,
            split_seed=split_seed,
            decode=bar.show if decode else None,
        )
    if as_json:
        print(json.dumps(found))
    else:
        console().print(table(name, ["what", "value"], check_rows(found)))
    if found["problem"]:
        raise ValueError(found["problem"])


@data_app.command("shots")
def data_shots(
    name: str,
    out: Annotated[Path, typer.Argument(help="JSON file to write")],
    shots: Shots = 16,
    seed: Seed = 1,
    split_seed: SplitSeed = 0,
    first_run: Annotated[
        bool,
        typer.Option("--first-run", help="Draw like the published run that creates the split"),
    ] = False,
    root: Root = None,
    runs: Runs = RUNS,
) -> None:
    """Write the images of a few-shot draw to a file that a run can be given."""
    from experiments.cli.data_commands import draw_shots

    cache_dir = (runs / "cache").absolute()
    digest = draw_shots(
        name, out, root, cache_dir, shots=shots, seed=seed, split_seed=split_seed, first=first_run
    )
    print(f"wrote {out}; sha256 of its training list {digest}")


@data_app.command("export")
def data_export(name: str, out: Path, root: Root = None, runs: Runs = RUNS) -> None:
    """Write a dataset as image files with a split file, in the CoOp folder layout."""
    from experiments.cli.data_commands import export

    with Bar(f"writing {name}") as bar:
        split_file = export(name, out, root, (runs / "cache").absolute(), bar)
    print(f"wrote {split_file}; read it with experiment.dataset = 'folder/{out}'")
