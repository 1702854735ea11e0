"""``power``: the power of a planned study."""

from typing import Annotated

import typer

from experiments.cli.console import console, print_json, table
from experiments.cli.options import Json


def power_command(
    datasets: Annotated[int, typer.Option(help="Number of datasets in the planned study")],
    seeds: Annotated[int, typer.Option(help="Number of seeds in the planned study")],
    effect: Annotated[float, typer.Option(help="Difference to detect, in points")] = 1.0,
    comparisons: Annotated[
        int, typer.Option(help="Number of comparisons in Holm's correction")
    ] = 1,
    metric: Annotated[
        str, typer.Option(help="Metric whose published spread is used: base, new or hm")
    ] = "hm",
    spread: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation between datasets in points, instead of the published one"
        ),
    ] = None,
    seed_spread: Annotated[
        float | None,
        typer.Option(help="Standard deviation over seeds in points, instead of the published one"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Significance level")] = 0.05,
    as_json: Json = False,
) -> None:
    """Show which effects a planned study could detect, and the size needed for a given effect."""
    from analysis.sections.design_power import (
        plan_answers,
        plan_assumptions,
        plan_in_points,
        plan_notes,
    )

    found = plan_in_points(
        datasets, seeds, effect, metric, spread, seed_spread, comparisons=comparisons, alpha=alpha
    )
    if as_json:
        print_json(found.to_dict())
        return
    out = console()
    out.print(table("power", ["", "these datasets", "datasets like these"], plan_answers(found)))
    out.print(table("assumptions", ["item", "value"], plan_assumptions(found)))
    for note in plan_notes(found):
        out.print(note)
