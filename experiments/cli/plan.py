"""``plan``: what a grid costs on given hardware, before anything runs."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from core.suggestions import did_you_mean
from experiments.cli.console import console, print_json, print_notes, table
from experiments.cli.options import (
    LOCKSTEP,
    RUNS,
    Config,
    DataRoot,
    Json,
    Lockstep,
    Plugin,
    Runs,
    Set,
    make_runtime,
)

GPU_CHECK = Path("gpu_check") / "gpu_check.json"
NOT_MEASURED = "not measured"


def plan_command(
    config: Config,
    overrides: Set = None,
    plugin: Plugin = None,
    gpus: Annotated[int, typer.Option(help="GPUs of a node", min=1, max=1024)] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes", min=1, max=4096)] = 1,
    device_name: Annotated[
        str,
        typer.Option(
            help="The GPU, of those that were measured; default: that of --measured, or the one "
            "whose figures are shipped"
        ),
    ] = "",
    measured: Annotated[
        Path | None,
        typer.Option(help="A gpu_check.json; default: runs/gpu_check/gpu_check.json if it exists"),
    ] = None,
    cores_per_gpu: Annotated[int, typer.Option(help="CPU cores for each GPU", min=1)] = 8,
    decode_rate: Annotated[
        float | None,
        typer.Option(help="Images that a core decodes in a second; default: measured here, now"),
    ] = None,
    jobs_per_gpu: Annotated[int, typer.Option(help="Runs on a GPU at a time", min=1)] = 1,
    lockstep: Lockstep = LOCKSTEP,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a very large grid")] = False,
    as_json: Json = False,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
) -> None:
    """Hours, GPU hours, memory and disk of a grid, from measured steps. Needs no data and no GPU.

    Runs of the study that have finished are left out, and their seconds count for the others with
    the same settings. What nobody has measured is left out and named beside the sum.
    """
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from experiments.run.speed import decode_rate as measure_decoding
    from experiments.run.step_costs import read_step_costs
    from experiments.study.cost_plan import Hardware, plan_costs
    from experiments.study.past_costs import read_past

    if decode_rate is not None and not 0 < decode_rate < float("inf"):
        raise ValueError(f"--decode-rate must be a number above 0, got {decode_rate:g}")
    speeds = _speeds(measured, runs, device_name)
    runtime = make_runtime(runs, data_root, "cpu")
    made = _planned(config, overrides or [], runtime.data_root, yes=yes)
    hardware = Hardware(
        gpus=gpus,
        nodes=nodes,
        cores_per_gpu=cores_per_gpu,
        decoded_per_core=decode_rate or measure_decoding(),
        memory_gib=speeds.memory_gib,
        jobs_per_gpu=jobs_per_gpu,
        lockstep=lockstep,
    )
    costs = plan_costs(
        made,
        read_past(runs / made.grid.study, device_name),
        speeds=speeds,
        costs=read_step_costs(),
        hardware=hardware,
        runtime=runtime,
    )
    rows = _rows(costs)
    summary = _summary(costs, given=decode_rate is not None, together=speeds.runs_per_minute)
    if as_json:
        print_json({"variants": rows, **_figures(costs), "notes": summary})
        return
    columns = list(rows[0]) if rows else []
    values = [[str(row[column]) for column in columns] for row in rows]
    if rows:
        console().print(table(f"plan of {made.grid.study}", columns, values, numbers=4))
    for line in summary:
        print(line)


def _planned(config: str, overrides: list[str], data_root: Path | None, *, yes: bool) -> Any:
    """The ``Plan`` of a grid whose data nobody has read; prints its notes."""
    from experiments.configs import config_path, read_config_file
    from experiments.run.dataset_names import with_canonical_names
    from experiments.study.planner import plan

    given = read_config_file(config_path(config), overrides)
    made = plan(with_canonical_names(given, data_root), _by_name, yes=yes)
    print_notes(made.notes)
    return made


def _by_name(config: Any) -> dict[str, str]:
    """In place of the fingerprint of data that need not be here."""
    return {"dataset": str(config.bindings["experiment.dataset"])}


def _speeds(measured: Path | None, runs: Path, device_name: str) -> Any:
    """The ``GpuSpeeds`` to count with. Raises ValueError for a card that nobody has measured, and
    for a file that was asked for and has no speeds.
    """
    from experiments.run.gpu_speeds import checked_speeds, shipped_speeds

    own = measured or runs / GPU_CHECK
    known = [checked_speeds(own)] if measured or own.is_file() else []
    if known and not known[0].methods:
        if measured:
            raise ValueError(f"{own}: no speed was measured; run 'python main.py gpu-check' again")
        print_notes([f"{own} is not used: no speed was measured"])
        known = []
    known.append(shipped_speeds())
    if not device_name:
        return known[0]
    wanted = device_name.casefold()
    for speeds in known:
        if wanted in speeds.device.casefold():
            return speeds
    names = [speeds.device for speeds in known]
    raise ValueError(
        f"--device-name {device_name!r} was not measured{did_you_mean(device_name, names)}; there "
        f"are figures of {', '.join(names)}: run 'python main.py gpu-check' on yours"
    )


def _rows(costs: Any) -> list[dict[str, Any]]:
    """A row for each variant."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for run in costs.runs:
        groups[run.cell.variant].append(run)
    hours = f"{costs.unit} hours"
    return [
        {
            "variant": variant,
            "runs": len(found),
            "steps": sum(run.steps for run in found),
            "ms a step": _step(found),
            hours: _hours(found),
            "peak MiB": round(max(run.peak_mib for run in found)) or "unknown",
            "measured": "; ".join(sorted({run.basis or NOT_MEASURED for run in found})),
            NOT_MEASURED: "; ".join(sorted({gap.what for run in found for gap in run.gaps})),
        }
        for variant, found in groups.items()
    ]


def _step(found: list[Any]) -> float | str:
    """Milliseconds of a step of a variant, those of finished runs not among them."""
    steps = [run.step_ms for run in found if run.step_ms is not None]
    if not all(run.is_known for run in found):
        return NOT_MEASURED
    return round(fmean(steps), 1) if steps else ""


def _hours(found: list[Any]) -> float | str:
    """Hours of a variant, as far as they are known; 0 where nothing is to do, and not otherwise."""
    known = [run for run in found if run.is_known and (run.seconds or not run.gaps)]
    hours = _rounded(sum(run.seconds for run in known) / 3600)
    if len(known) == len(found):
        return hours
    return f"{hours} without {len(found) - len(known)} runs" if known else NOT_MEASURED


def _rounded(hours: float) -> float:
    """Hours to two decimals, and small ones to two digits, so that none reads as nothing."""
    return round(hours, 2) if hours >= 0.1 else float(f"{hours:.2g}")


def _figures(costs: Any) -> dict[str, Any]:
    """The figures of the whole grid: hours are None where something in them was not measured, and
    those "at least" are of the rest.
    """
    hours = {
        "device_hours": costs.device_hours,
        "hours": costs.hours,
        "longest_hours": max((run.seconds for run in costs.runs), default=0.0) / 3600,
        "feature_hours": sum(costs.feature_seconds.values()) / 3600,
    }
    complete = not costs.gaps
    return {
        "runs": len(costs.runs),
        "done": costs.done,
        "failed": costs.failed,
        "devices": costs.hardware.total,
        "unit": costs.unit,
        "jobs_per_gpu": costs.hardware.jobs_per_gpu,
        "complete": complete,
        **{name: value if complete else None for name, value in hours.items()},
        "at_least": hours,
        "not_measured": [
            {
                "what": gap.what,
                "whole_runs": gap.whole,
                "runs": len(runs),
                "variants": sorted({run.cell.variant for run in runs}),
                "way_out": gap.way_out,
            }
            for gap, runs in costs.gaps.items()
        ],
        "peak_mib": max((run.peak_mib for run in costs.runs), default=0.0),
        "peak_mib_without_runs": sum(not run.peak_mib for run in costs.runs),
        "disk_bytes": costs.disk_bytes,
        "disk_bytes_without": [gap.what for gap in costs.disk_gaps],
    }


def _summary(costs: Any, *, given: bool, together: Mapping[int, float]) -> list[str]:
    """What the figures add up to, and where they come from. ``together`` has the runs a minute of a
    small study by the number of runs at a time, where they were measured.
    """
    figures, hardware = _figures(costs), costs.hardware
    hours = figures["at_least"]
    devices = f"{hardware.total} {costs.unit}{'s' * (hardware.total > 1)}"
    bases = sorted({run.basis for run in costs.runs if run.basis})
    much = "about" if figures["complete"] else "at least"
    local = "".join(f", without {gap.what}" for gap in costs.disk_gaps)
    lines = [
        f"{figures['runs']} runs to do, {figures['done']} done{_failed(costs)}: {much} "
        f"{hours['device_hours']:.1f} {costs.unit} hours, {_shown(hours['hours'], 2)} hours "
        f"on {devices}{_without(costs)} (the longest run: {_shown(hours['longest_hours'], 2)}; "
        "starting, saving and waiting are not counted)",
        *_ways_out(costs),
        f"image features, once for all runs: {_shown(hours['feature_hours'], 2)} of these hours",
        f"disk: about {_shown(figures['disk_bytes'] / 1e9, 2)} GB for run folders, features and "
        f"crops{local}",
        *([_memory(costs)] if costs.on_gpus else []),
        *([_at_a_time(costs, together)] if hardware.jobs_per_gpu > 1 else []),
        *([f"measured: {'; '.join(bases)}"] if bases else []),
        f"decoding: {hardware.decoded_per_core:.0f} images/s a core "
        f"({'as given' if given else 'measured on this machine just now'}), "
        f"{hardware.cores_per_gpu} cores for each GPU, ahead of the steps",
    ]
    derived = sorted({text for run in costs.runs for text in run.derived})
    if derived:
        lines.append(f"arithmetic: {'; '.join(derived)}")
    return lines


def _shown(value: float, digits: int) -> str:
    """A figure with so many decimals, or two digits where these would show nothing of it."""
    return f"{value:.{digits}f}" if value >= 10**-digits or not value else f"{value:.2g}"


def _without(costs: Any) -> str:
    """What is in none of the hours, in words."""
    words = []
    if unknown := costs.unknown:
        variants = ", ".join(sorted({run.cell.variant for run in unknown}))
        words.append(f"{_runs(unknown)} of {variants}")
    for gap, runs in costs.gaps.items():
        if not gap.whole:
            words.append(f"{gap.what}{f' in {_runs(runs)}' if runs else ''}")
    return f", without {' and '.join(words)}: {NOT_MEASURED}" if words else ""


def _ways_out(costs: Any) -> list[str]:
    """A line for each way in which what was not measured can be measured."""
    ways: dict[str, list[str]] = defaultdict(list)
    for gap in costs.gaps:
        ways[gap.way_out].append(gap.what)
    return [f"{NOT_MEASURED}: {', '.join(whats)}; {way}" for way, whats in ways.items()]


def _runs(runs: Any) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _memory(costs: Any) -> str:
    """Whether the runs of a GPU fit into its memory."""
    hardware, unknown = costs.hardware, [run for run in costs.runs if not run.peak_mib]
    if len(unknown) == len(costs.runs):
        return f"GPU memory: {NOT_MEASURED}"
    need = max(run.peak_mib * run.together for run in costs.runs) * hardware.jobs_per_gpu / 1024
    line = f"GPU memory: {need:.1f} GiB for {hardware.jobs_per_gpu} of the largest runs at a time"
    if any(run.together > 1 for run in costs.runs):
        line += ", less where runs in lockstep share it"
    if unknown:
        line += f", without {_runs(unknown)} whose memory is {NOT_MEASURED}"
    if hardware.memory_gib is None:
        return line
    fits = "fits into" if need <= hardware.memory_gib else "does NOT fit into"
    return f"{line}, which {fits} {hardware.memory_gib:g} GiB"


def _failed(costs: Any) -> str:
    """The runs that are not run again by themselves, in words."""
    return f", {costs.failed} failed or diverged before" if costs.failed else ""


def _at_a_time(costs: Any, together: Mapping[int, float]) -> str:
    """What the hours assume of several runs on a GPU at a time."""
    jobs = costs.hardware.jobs_per_gpu
    line = (
        f"{jobs} runs on a GPU at a time: the hours are those of one after the other; whether "
        "several are faster depends on the method"
    )
    if 1 not in together or jobs not in together:
        return f"{line}, and was {NOT_MEASURED}"
    gain = together[jobs] / together[1]
    return f"{line}; the small grid of gpu-check finished {gain:.2f} times as many runs a minute so"
