"""``published``: what papers print."""

from typing import Annotated

import typer

from experiments.cli.console import console, print_json, table
from experiments.cli.options import Json


def published_command(
    dataset: Annotated[str, typer.Option(help="A dataset, average or all")] = "average",
    metric: Annotated[str, typer.Option(help="base, new, hm or accuracy")] = "",
    protocol: Annotated[str, typer.Option(help="base_to_new, cross_dataset, ...")] = "",
    method: Annotated[str, typer.Option(help="A method, or how it begins")] = "",
    as_json: Json = False,
) -> None:
    """What papers print, with source, regime and budget: context, never a baseline."""
    from analysis.read.published import load_published, select
    from analysis.sections.published_views import footnotes, sheets

    rows = select(
        load_published(), dataset=dataset, metric=metric, protocol=protocol, method=method
    )
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    for sheet in sheets(rows, metric=metric):
        shown = table(sheet.title, sheet.columns, sheet.rows, numbers=sheet.num_figures)
        console().print(shown)
    print("\n".join(footnotes(rows)))
