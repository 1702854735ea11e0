"""RefineLab: ablation grids and significance reports for prompt tuning of CLIP.

Exit codes: 0 good, 1 some runs failed, 2 bad input, 3 interrupted and resumable.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.cli.console import Bar, config_path, console, percent, table
from experiments.cli.data import data_app
from experiments.cli.report import export_command, report_command
from experiments.cli.search import pages_of, search_command
from experiments.cli.weights import import_command, weights_command

app = typer.Typer(
    help=(__doc__ or "").splitlines()[0],
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, on top of the file")]
Runs = Annotated[Path, typer.Option("--runs", help="Where studies, caches and MLflow live")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="REFINELAB_DATA", help="Folder of datasets")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output")]
Config = Annotated[str, typer.Argument(help="A .gin file or the name of a shipped one")]
Study = Annotated[Path, typer.Argument(help="Folder of a study, such as runs/demo")]
RUNS = Path("runs")


def _place(runs: Path, data_root: Path | None, device: str) -> Any:
    from experiments.run.run import Place

    return Place(cache_dir=(runs / "cache").absolute(), data_root=data_root, device=device)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, default=str))


@app.command("list")
def list_(topic: Annotated[str, typer.Argument()] = "", as_json: Json = False) -> None:
    """What can be named in a configuration: methods, refiners, parts, datasets, protocols."""
    from experiments.cli.listing import TOPICS, listing

    found = {t: listing(t) for t in ([topic] if topic else TOPICS)}
    if as_json:
        _print_json(found)
        return
    for name, rows in found.items():
        keys = [key for key in rows[0] if key not in ("parameters", "rules")]
        console().print(table(name, keys, [[row[key] for key in keys] for row in rows]))
        for row in rows if topic else ():
            for parameter in row.get("parameters", ()):
                key = f"{row['name']}.{parameter['name']}"
                print(f"  {key} = {parameter['default']}  ({parameter['type']})")
            for term, rule in row.get("rules", {}).items():
                print(f"  {row['name']}: {term}: {rule}")


@app.command()
def train(
    config: Config,
    overrides: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder")] = None,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train and evaluate one configuration."""
    from experiments.run.standalone import describe_run, train_one

    place = _place(runs, data_root, device)
    with Bar("epochs") as bar:
        folder, record = train_one(
            config_path(config),
            overrides or [],
            out,
            runs / "train",
            place,
            on_progress=lambda e: bar.show(e["epoch"], e["epochs"]),
        )
    if as_json:
        print((folder / "record.json").read_text(), end="")
    else:
        console().print(table(f"run {folder}", ["what", "value"], describe_run(record)))
    if record.status != "finished":
        print(f"the run {record.status}: {record.message}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a finished run")],
    dataset: Annotated[str, typer.Option(help="Dataset; default: the run's own")] = "",
    classes: Annotated[str, typer.Option(help="all, base or new; default: the protocol's")] = "",
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Score a finished run again, on its own classes or on another dataset; never retrains."""
    from experiments.run.standalone import evaluate_run

    scores = evaluate_run(run_dir, dataset, classes, _place(runs, data_root, device))
    if as_json:
        _print_json(
            [
                {
                    "target": s.target,
                    "dataset": s.dataset,
                    "classes": s.classes,
                    "accuracy": s.accuracy,
                    "correct": s.correct,
                    "total": s.total,
                }
                for s in scores
            ]
        )
        return
    rows = [
        (s.target, s.dataset, percent(s.accuracy), sum(s.correct), sum(s.total)) for s in scores
    ]
    columns = ["target", "dataset", "accuracy %", "correct", "total"]
    console().print(table(str(run_dir), columns, rows, numbers=3))


@app.command()
def grid(
    config: Config,
    overrides: Set = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 runs in this one")] = -1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, run nothing")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed")] = False,
    track: Annotated[bool, typer.Option(help="Mirror runs in MLflow")] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a very large grid")] = False,
    steal_lock: Annotated[bool, typer.Option("--steal-lock", hidden=True)] = False,
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Run a study: variants x datasets x seeds. The same command again finishes what is left."""
    from experiments.cli.grid import print_plan, run_grid

    place = _place(runs, data_root, device)
    if dry_run:
        print_plan(config_path(config), overrides or [], runs, place, jobs=jobs, yes=yes)
        return
    outcome = run_grid(
        config_path(config),
        overrides or [],
        runs,
        place,
        jobs=jobs,
        yes=yes,
        track=track,
        retry_failed=retry_failed,
        steal_lock=steal_lock,
    )
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(study: Study, as_json: Json = False) -> None:
    """How far a study or a search is, what failed, and who works on it."""
    from experiments.cli.grid import print_status
    from experiments.search.status import is_search, print_search_status, search_status
    from experiments.study.status import study_status

    search = is_search(study)
    found = search_status(study) if search else study_status(study)
    if as_json:
        _print_json(found)
    elif search:
        print_search_status(found)
    else:
        print_status(found)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Run folder")],
    second: Annotated[Path, typer.Argument(help="Run folder")],
) -> None:
    """The settings in which two runs differ, and their scores side by side."""
    from analysis.sections.run_pair import score_rows
    from experiments.study.status import diff as differing

    names = [first.name, second.name]
    console().print(table("differences", ["setting", *names], differing(first, second)))
    scores = score_rows(first, second)
    console().print(table("scores", ["what", *names, "second - first"], scores, numbers=3))


@app.command()
def rerun(
    study: Study,
    run: Annotated[str, typer.Argument(help="Identity of a run, or its beginning")],
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Run one cell of a study again."""
    from experiments.cli.grid import rerun_cell
    from experiments.search.status import is_search, refuse_rerun

    if is_search(study):
        refuse_rerun(study, run)
    raise typer.Exit(rerun_cell(study, run, _place(runs, data_root, device)).exit_code)


@app.command()
def sync(study: Study) -> None:
    """Write into MLflow what it lacks of a study; never writes a run twice."""
    from experiments.study.tracking import sync as synchronize

    found = synchronize(study)
    print(found)
    if found.error:
        raise typer.Exit(1)


@app.command()
def ui(
    runs: Annotated[Path, typer.Argument(help="Folder of studies")] = RUNS,
    port: Annotated[int, typer.Option(help="First port to try")] = 5000,
) -> None:
    """MLflow over the runs, Optuna's dashboard over a search; this machine only. Ctrl-C ends it."""
    import os

    command = pages_of(runs, port)
    print(f"{command.title} at {command.url}", flush=True)
    os.execve(command.argv[0], command.argv, dict(command.env))  # signals reach the server itself


@app.command()
def verify(
    vectors: Annotated[Path, typer.Argument(help="Folder of NAME.json + NAME.safetensors")],
    as_json: Json = False,
) -> None:
    """Replay reference vectors of published implementations; every tensor must match."""
    from experiments.cli.verify import outcome_dict, print_outcomes, verify_folder

    outcomes = verify_folder(vectors)
    if as_json:
        _print_json([outcome_dict(outcome) for outcome in outcomes])
    else:
        print_outcomes(outcomes, console())
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def bench(
    repetitions: Annotated[int, typer.Option(min=1, help="The median of so many calls")] = 5,
    pictures: Annotated[int, typer.Option(min=8, help="JPEG files to decode")] = 256,
    runs: Runs = RUNS,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """How fast pictures are decoded and encoded, and every method trained, on this machine."""
    from experiments.cli.bench import measure

    found = []
    for speed in measure(_place(runs, None, device), repetitions=repetitions, pictures=pictures):
        found.append(speed)
        if not as_json:
            print(f"{speed.group:20} {speed.name:26} {speed.per_second:9.1f}/s {speed.ratio:6.2f}x")
    if as_json:
        _print_json([asdict(speed) for speed in found])


@app.command()
def published(
    dataset: Annotated[str, typer.Option(help="A dataset, average or all")] = "average",
    metric: Annotated[str, typer.Option(help="base, new, hm or accuracy")] = "",
    protocol: Annotated[str, typer.Option(help="base_to_new, cross_dataset, ...")] = "",
    method: Annotated[str, typer.Option(help="A method, or how it begins")] = "",
    as_json: Json = False,
) -> None:
    """What papers print, with source, regime and budget: context, never a baseline."""
    from analysis.read.published import load_published, select
    from analysis.render.terminal import rich_table
    from analysis.sections.published import footnotes, published_tables

    rows = select(
        load_published(), dataset=dataset, metric=metric, protocol=protocol, method=method
    )
    if as_json:
        _print_json([row.to_dict() for row in rows])
        return
    for found in published_tables(rows, metric=metric):
        console().print(rich_table(found))
    print("\n".join(footnotes(rows)))


@app.command()
def power(
    datasets: Annotated[int, typer.Option(help="Datasets of the planned study")],
    seeds: Annotated[int, typer.Option(help="Seeds of the planned study")],
    effect: Annotated[float, typer.Option(help="Difference to find, in points")] = 1.0,
    comparisons: Annotated[int, typer.Option(help="Comparisons that Holm adjusts for")] = 1,
    metric: Annotated[str, typer.Option(help="base, new or hm: whose published spread")] = "hm",
    spread: Annotated[
        float | None, typer.Option(help="Instead: spread between datasets, in points")
    ] = None,
    seed_spread: Annotated[
        float | None, typer.Option(help="Instead: spread over seeds, in points")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the decision")] = 0.05,
    as_json: Json = False,
) -> None:
    """What a study could detect, before it is run, and what would settle an effect."""
    from analysis.sections.power import plan_in_points, plan_rows

    found = plan_in_points(
        datasets, seeds, effect, metric, spread, seed_spread, comparisons=comparisons, alpha=alpha
    )
    if as_json:
        _print_json(found.to_dict())
    else:
        console().print(table("power", ["what", "value"], plan_rows(found)))


@app.command()
def doctor(runs: Runs = RUNS, as_json: Json = False) -> None:
    """What is installed, what is missing, and what to do about it."""
    from experiments.cli.doctor import checks

    found = list(checks(runs))
    if as_json:
        _print_json([{"name": c.name, "ok": c.ok, "found": c.found} for c in found])
    else:
        rows = [(c.name, "ok" if c.ok else "BAD", c.found, "" if c.ok else c.remedy) for c in found]
        console().print(table("doctor", ["what", "", "found", "what to do"], rows))
    raise typer.Exit(0 if all(c.ok for c in found) else 1)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Working folder")] = RUNS / "pretrain",
    steps: Annotated[int | None, typer.Option(help="Default: as shipped")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    processes: Annotated[int, typer.Option(help="Processes that draw pictures")] = 1,
) -> None:
    """Rebuild the embedded benchmark's weights from scratch; resumes where it was stopped."""
    from experiments.cli.pretrain import run_pretraining

    with Bar("drawing pictures") as bar:
        found = run_pretraining(out, steps=steps, seed=seed, processes=processes, bar=bar)
    _print_json(found)


app.command("search")(search_command)
app.command("report")(report_command)
app.command("export")(export_command)
app.command("import")(import_command)
app.command("weights")(weights_command)

# Typer brings a click of its own or uses the installed one, depending on its version.
UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> int:
    """Run a command; errors are one line on standard error, a traceback only with ``--debug``."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        return int(app(arguments or ["--help"], standalone_mode=False) or 0)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except UsageProblem as error:
        print(f"error: {error.format_message().rstrip('.')}; try --help", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; the same command continues", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
