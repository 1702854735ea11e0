"""``bench``: the speed of this machine, and ours against the released data flow."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from core.store.atomic import check_file
from experiments.cli.console import print_json
from experiments.cli.options import RUNS, Device, Json, Runs, cache_dir

Against = Annotated[
    str | None,
    typer.Option(
        help="Instead compare training steps with the released data flow: published; or with "
        "another commit of this project: its name"
    ),
]
Methods = Annotated[
    str | None, typer.Option("--method", help="Methods of --against, separated by commas")
]
Rounds = Annotated[int | None, typer.Option(min=1, help="Interleaved rounds of --against (3)")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of --against (1)")]
Classes = Annotated[int | None, typer.Option(min=2, help="Number of classes of --against (50)")]
Backbone = Annotated[
    str | None, typer.Option(help="Backbone of --against: an open_clip name, or mosaic")
]
TeacherBackbone = Annotated[
    str | None, typer.Option("--teacher", help="Backbone of PromptKD's teacher in --against")
]
WithMemory = Annotated[
    bool, typer.Option("--memory", help="Also measure the peak memory of a step, with --against")
]
WithEvaluation = Annotated[
    bool, typer.Option("--evaluation", help="Compare evaluation instead of training in --against")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Tables of --against in Markdown")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write --against as JSON here")]


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
    against: Against = None,
    methods: Methods = None,
    rounds: Rounds = None,
    threads: Threads = None,
    classes: Classes = None,
    backbone: Backbone = None,
    teacher: TeacherBackbone = None,
    memory: WithMemory = False,
    evaluation: WithEvaluation = False,
    markdown: Markdown = False,
    out: Out = None,
) -> None:
    """Measure how fast this machine decodes images, encodes them, and trains every method."""
    asked = {
        "--method": methods,
        "--rounds": rounds,
        "--threads": threads,
        "--classes": classes,
        "--backbone": backbone,
        "--teacher": teacher,
        "--memory": memory,
        "--evaluation": evaluation,
        "--markdown": markdown,
        "--out": out,
    }
    if against is not None:
        _compare(against, asked, device, as_json=as_json)
        return
    for option, value in asked.items():
        if value is not None and value is not False:
            raise ValueError(f"{option} belongs to --against; add --against published, or leave it")
    if costs is not None:
        _measure_costs(costs, device)
    else:
        _measure_speed(runs, device, repetitions=repetitions, images=images, as_json=as_json)


def _compare(against: str, asked: Mapping[str, Any], device: str, *, as_json: bool) -> None:
    """Our steps beside those of the released data flow, or of another commit."""
    if device != "cpu":
        raise ValueError(f"--against runs on the CPU, got --device {device}; leave --device out")
    if asked["--out"] is not None:
        check_file(asked["--out"], "--out")
    if against == "published":
        from experiments.cli.bench_published import compare_with_published

        compare_with_published(asked, as_json=as_json)
        return
    from experiments.cli.bench_compare import compare_with_commit

    compare_with_commit(against, asked, as_json=as_json)


def _measure_speed(
    runs: Path, device: str, *, repetitions: int, images: int, as_json: bool
) -> None:
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
