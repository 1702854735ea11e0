"""``power``: what a study could detect, before it is run."""

from typing import Annotated

import typer

from experiments.cli.console import console, print_json, table
from experiments.cli.options import Json


def power_command(
    datasets: Annotated[int, typer.Option(help="Datasets of the planned study")],
    seeds: Annotated[int, typer.Option(help="Seeds of the planned study")],
    effect: Annotated[float, typer.Option(help="Difference to detect, in points")] = 1.0,
    comparisons: Annotated[int, typer.Option(help="Comparisons that Holm adjusts for")] = 1,
    metric: Annotated[str, typer.Option(help="base, new or hm: whose published spread")] = "hm",
    spread: Annotated[
        float | None, typer.Option(help="Instead: spread between datasets, in points")
    ] = None,
    seed_spread: Annotated[
        float | None, typer.Option(help="Instead: spread over seeds, in points")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Significance level")] = 0.05,
    as_json: Json = False,
) -> None:
    """What a study could detect, before it is run, and what would settle an effect."""
    from analysis.sections.design_power import plan_in_points, plan_rows

    found = plan_in_points(
        datasets, seeds, effect, metric, spread, seed_spread, comparisons=comparisons, alpha=alpha
    )
    if as_json:
        print_json(found.to_dict())
    else:
        console().print(table("power", ["what", "value"], plan_rows(found)))
