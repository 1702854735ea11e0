"""``report``: tables, tests, figures and an HTML page from results."""

import json
from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path,
    typer.Argument(
        help="A study folder, or a tidy CSV file: variant,dataset,seed, metrics, factor:NAME"
    ),
]
Scale = Annotated[
    str, typer.Option(help="Scale of the numbers in a CSV file: percent, fraction or auto")
]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Combine runs of different code versions")
]


def report_command(
    source: Source,
    baseline: Annotated[
        str | None, typer.Option(help="Variant that the others are compared with")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help="A further reference variant; repeatable")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Primary metric")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: SOURCE/report")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the JSON report to this file")
    ] = None,
    rope: Annotated[
        float, typer.Option(help="Half width of the region of practical equivalence, in points")
    ] = 1.0,
    overlap: Annotated[
        float | None,
        typer.Option(
            help="Ratio of test to training images, if seeds are resamples that share data"
        ),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Also write every figure as PNG and PDF")] = True,
    scale: Scale = "auto",
    allow_mixed: AllowMixed = False,
    image_runs: Annotated[
        int, typer.Option(help="Largest number of runs to compare image by image (0: none)")
    ] = 2000,
) -> None:
    """Make tables, tests, figures and an HTML page from a study or a CSV file of results."""
    from rich.console import Console

    from analysis.report import build_report, print_report
    from analysis.search_report import report_search
    from analysis.sections.analysis import Options
    from core.store.search import is_search

    options = Options(rope=rope / 100, overlap=overlap)
    if is_search(source):
        report_search(source, out, json_file, options, allow_mixed=allow_mixed)
        return
    if not 0 < rope < 100:
        raise ValueError(f"--rope is in points and must be above 0 and below 100, got {rope:g}")
    folder = source if source.is_dir() else source.with_suffix("")
    made = build_report(
        source,
        out=out or folder / "report",
        baseline=baseline,
        references=reference,
        metric=metric,
        scale=scale,
        options=options,
        figures=figures,
        allow_mixed=allow_mixed,
        image_runs=image_runs,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(made.to_dict(), indent=1, allow_nan=False) + "\n")
    print_report(made, Console())
