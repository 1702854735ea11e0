"""``bench``: the speed of this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from core.store.atomic import check_file
from experiments.cli.console import print_json
from experiments.cli.options import RUNS, Device, Json, Runs, cache_dir


def bench_command(
    repetitions: Annotated[
        int, typer.Option(min=1, help="Number of timed calls; their median is shown")
    ] = 5,
    images: Annotated[int, typer.Option(min=8, help="Number of JPEG files to decode")] = 256,
    runs: Runs = RUNS,
    device: Device = "cpu",
    as_json: Json = False,
    costs: Annotated[
        Path | None,
        typer.Option(help="Instead measure a step of every registered method, into this JSON file"),
    ] = None,
) -> None:
    """Measure how fast this machine decodes images, encodes them, and trains every method."""
    if costs is not None:
        _measure_costs(costs, device)
        return
    from experiments.run.runtime import Runtime
    from experiments.run.speed import measure

    runtime = Runtime(cache_dir=cache_dir(runs), device=device)
    found = []
    for speed in measure(runtime, repetitions=repetitions, images=images):
        found.append(speed)
        if not as_json:
            print(f"{speed.group:20} {speed.name:26} {speed.per_second:9.1f}/s {speed.ratio:6.2f}x")
    if as_json:
        print_json([asdict(speed) for speed in found])


def _measure_costs(path: Path, device: str) -> None:
    """Write what a step costs, and print it, cheapest first."""
    from experiments.run.step_costs import measure_step_costs, write_step_costs

    check_file(path, "--costs")
    found = measure_step_costs(device)
    write_step_costs(path, found)
    print(f"CoOp: {found.base_ms} ms a step on {found.device}")
    for name, ratio in sorted(found.ratios.items(), key=lambda pair: pair[1]):
        print(f"{name:26} {ratio:6.2f}x")
