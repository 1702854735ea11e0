"""``pretrain``: train the embedded benchmark's weights from scratch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from core.store.names import PRETRAIN_FOLDER
from experiments.cli.console import print_json
from experiments.cli.options import RUNS


def pretrain_command(
    out: Annotated[Path, typer.Option(help="Working folder")] = RUNS / PRETRAIN_FOLDER,
    steps: Annotated[
        int | None, typer.Option(help="Training steps; default: as for the shipped weights", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    processes: Annotated[int, typer.Option(help="Number of processes that draw images", min=1)] = 1,
) -> None:
    """Train the embedded benchmark's weights from scratch; rerun to continue after a stop."""
    from core.clip.backbone import build_open_clip
    from core.mosaic import pretrain
    from experiments.study.progress import Bar

    with Bar("drawing images") as bar:

        def show(step: int, total: int, values: Mapping[str, float]) -> None:
            if "images" in values:
                bar.show(values["images"], 1.0, "drawing images")
            else:
                bar.show(step, total, f"step {step} of {total}, loss {values['loss']:.3f}")

        more: dict[str, Any] = {} if steps is None else {"steps": steps}
        found = pretrain(
            out, build_open_clip, seed=seed, processes=processes, progress=show, **more
        )
    print_json(found)
