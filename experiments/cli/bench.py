"""``bench``: the speed of this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

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
) -> None:
    """Measure how fast this machine decodes images, encodes them, and trains every method."""
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
