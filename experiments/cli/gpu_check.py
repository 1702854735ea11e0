"""``gpu-check``: whether every method works on a device as on the CPU, and how fast."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import Device


def gpu_check_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of what is found")] = Path(
        "runs/gpu_check"
    ),
    device: Device = "cuda",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time limit; what does not fit is left out")
    ] = 450.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="One backbone, no refiner in the speeds, few runs of the grid"
        ),
    ] = False,
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Of the speeds: an open_clip name, or mosaic; repeatable; default: ViT-B/16 and "
            "ViT-L/14",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Check this method only; repeatable")
    ] = None,
    sections: Annotated[
        list[str] | None,
        typer.Option(
            "--section", help="machine, agreement, faults, features, grid or speed; repeatable"
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Worker processes that compare the devices")
    ] = 4,
    matrix_side: Annotated[
        int, typer.Option("--matrix-side", min=16, help="Side of the matrices that are multiplied")
    ] = 8192,
) -> None:
    """Check a GPU: every method trains there as on the CPU, how fast, and studies run. Exit code 1
    where something differs, fails or is left out. Nothing is downloaded.
    """
    from experiments.study.gpu_check import (
        BACKBONES,
        JSON_NAME,
        PAGE_NAME,
        SHARES,
        GpuCheck,
        gpu_check,
    )

    check = GpuCheck(
        out=out,
        device=device,
        seconds=seconds,
        backbones=tuple(backbones or BACKBONES),
        methods=tuple(methods or ()),
        matrix_side=matrix_side,
        sections=tuple(sections or SHARES),
        jobs=jobs,
        quick=quick,
    )
    ok = gpu_check(check, lambda line: print(line, flush=True))
    found = "everything agrees" if ok else "something differs, failed or was left out"
    print(f"{found}: {out / PAGE_NAME}, {JSON_NAME}")
    raise typer.Exit(0 if ok else 1)
