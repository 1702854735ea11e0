"""``report``: tables, tests, figures and an HTML page from results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis.read.reading import Reading
from experiments.cli.console import console

Source = Annotated[
    Path,
    typer.Argument(
        help="A study folder, a CSV file (variant,dataset,seed, metrics), or results of DomainBed "
        "or Dassl"
    ),
]
Sources = Annotated[
    list[Path],
    typer.Argument(
        help="A study folder, a CSV file (variant,dataset,seed, metrics), or results of DomainBed "
        "or Dassl; several stand in one report"
    ),
]
Scale = Annotated[
    list[str] | None,
    typer.Option(
        help="Scale of the numbers in a CSV file: percent, fraction or auto (the default), or "
        "METRIC=percent; repeatable"
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(help="Columns of a CSV file that are metrics, separated by commas; repeatable"),
]
Lower = Annotated[
    list[str] | None, typer.Option(help="A metric of which lower is better; repeatable")
]
Higher = Annotated[
    list[str] | None, typer.Option(help="A metric of which higher is better; repeatable")
]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Combine runs of different code versions")
]


def report_command(
    sources: Sources,
    baseline: Annotated[
        str | None, typer.Option(help="Variant that the others are compared with")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="A further reference variant; repeatable")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Primary metric")] = None,
    metrics: Metrics = None,
    lower: Lower = None,
    higher: Higher = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--as", help="Name of a source after the first, in their order; repeatable"),
    ] = None,
    paired: Annotated[
        bool,
        typer.Option("--paired", help="Equal seeds of different sources are the same images"),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: SOURCE/report")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the JSON report to this file")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests")] = 0.05,
    rope: Annotated[
        float,
        typer.Option(
            help="Half width of the region of practical equivalence, in points; 0: equivalence is "
            "never claimed"
        ),
    ] = 1.0,
    adjusted_intervals: Annotated[
        bool,
        typer.Option(
            "--adjusted-intervals", help="Intervals of comparisons hold jointly (Bonferroni)"
        ),
    ] = False,
    overlap: Annotated[
        float | None,
        typer.Option(
            help="Ratio of test to training images, if seeds are resamples that share data"
        ),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Also write every figure as PNG and PDF")] = True,
    scale: Scale = None,
    allow_mixed: AllowMixed = False,
    image_runs: Annotated[
        int,
        typer.Option(help="Largest number of runs to compare image by image (0: none)", min=0),
    ] = 2000,
) -> None:
    """Make tables, tests, figures and an HTML page from a study or a CSV file of results."""
    from analysis.read.load import load_sources, study_of
    from analysis.report import build_report, print_report
    from analysis.search_report import report_search
    from analysis.sections.analysis import Options
    from core.store.atomic import write_atomic

    _check_levels(alpha, rope)
    options = Options(
        alpha=alpha,
        rope=rope / 100,
        overlap=overlap,
        adjusted_intervals=adjusted_intervals,
    )
    place = _check_places(sources, out, json_file)
    if _one_search(sources):
        report_search(sources[0], out, json_file, options, allow_mixed=allow_mixed)
        return
    made = build_report(
        load_sources(
            sources,
            reading(scale, metrics, lower, higher, allow_mixed),
            names=names or (),
            paired=paired,
        ),
        out=place,
        baseline=baseline,
        references=reference,
        metric=metric,
        options=options,
        figures=figures,
        image_runs=image_runs,
        folder=study_of(sources),
    )
    if json_file is not None:
        write_atomic(json_file, json.dumps(made.to_dict(), indent=1, allow_nan=False) + "\n")
    print_report(made, console())


def _check_levels(alpha: float, rope: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"--alpha must be above 0 and below 1, such as 0.05, got {alpha:g}")
    if not 0 <= rope < 100:
        raise ValueError(
            f"--rope is in points, from 0 (equivalence is never claimed) to below 100, got {rope:g}"
        )


def _one_search(sources: Sequence[Path]) -> bool:
    """Whether the source is a search. Raises ValueError for a search beside other sources."""
    from core.store.search import is_search

    found = [source for source in sources if is_search(source)]
    if found and len(sources) > 1:
        raise ValueError(f"{found[0]} is a search, which has a report of its own: report it alone")
    return bool(found)


def _check_places(sources: Sequence[Path], out: Path | None, json_file: Path | None) -> Path:
    """The folder of the report. Raises ValueError where files could not be written."""
    from core.store.atomic import check_file, check_folder

    first = sources[0]
    if not first.exists():
        raise ValueError(
            f"{first}: no such file or folder; give a study folder or a CSV file with a row per run"
        )
    beside = first if first.is_dir() else first.with_suffix("")
    if beside.is_file():
        beside = first.with_name(f"{first.name}.report")
    place = out or beside / "report"
    check_folder(place, "--out")
    check_folder(place / "figures", "--out")
    if json_file is not None:
        check_file(json_file, "--json")
    return place


def reading(
    scale: Sequence[str] | None,
    metrics: Sequence[str] | None,
    lower: Sequence[str] | None,
    higher: Sequence[str] | None,
    allow_mixed: bool,
) -> Reading:
    """What the options say about how to read tables."""
    selected = [name.strip() for text in metrics or () for name in text.split(",")]
    if metrics and not all(selected):
        raise ValueError(f"--metrics must name columns, separated by commas, got {metrics[0]!r}")
    return Reading(
        scale=scale or "auto",
        metrics=selected,
        lower=[name.strip() for name in lower or ()],
        higher=[name.strip() for name in higher or ()],
        allow_mixed=allow_mixed,
    )
