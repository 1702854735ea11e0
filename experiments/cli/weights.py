"""The ``import`` and ``weights`` commands of the command line: what others trained."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.console import console, table
from experiments.configs import config_path

RUNS = Path("runs")


def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="model.pth.tar-N of a published trainer")],
    config: Annotated[str, typer.Argument(help="A .gin file or the name of a shipped one")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, on top of the file")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where runs and caches live")] = RUNS,
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", envvar="REFINELAB_DATA", help="Folder of datasets"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output")] = False,
) -> None:
    """Evaluate a published checkpoint with our code; writes a run folder like any other."""
    from experiments.run.checkpoint_import import import_checkpoint
    from experiments.run.run import Place
    from experiments.run.standalone import describe_run

    place = Place(cache_dir=(runs / "cache").absolute(), data_root=data_root, device=device)
    folder, record = import_checkpoint(
        checkpoint, config_path(config), overrides or [], out, runs / "imported", place
    )
    if as_json:
        print((folder / "record.json").read_text(), end="")
    else:
        console().print(table(f"run {folder}", ["what", "value"], describe_run(record)))


def weights_command(
    name: Annotated[str, typer.Argument(help="Model of open_clip, such as ViT-B-16")],
    tag: Annotated[str, typer.Argument(help="Pretrained tag, such as openai")],
) -> None:
    """Download a pretrained CLIP of open_clip. No other command downloads anything."""
    from core.clip.backbone import about, fetch, load_clip

    print(f"weights {tag!r} of {name!r}: {about(name, tag)}", flush=True)
    path = fetch(name, tag)
    clip = load_clip(name, tag)
    print(f"{clip.name} is there, fingerprint {clip.spec.fingerprint}: {path}")
