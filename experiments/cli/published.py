"""``published``: numbers reported in papers."""

from typing import Annotated

import typer

from experiments.cli.console import console, print_json
from experiments.cli.options import Json


def published_command(
    dataset: Annotated[str, typer.Option(help="A dataset, or 'average', or 'all'")] = "average",
    metric: Annotated[str, typer.Option(help="base, new, hm or accuracy")] = "",
    protocol: Annotated[str, typer.Option(help="base_to_new, cross_dataset, ...")] = "",
    method: Annotated[str, typer.Option(help="A method, or the beginning of its name")] = "",
    as_json: Json = False,
) -> None:
    """Show published numbers with source, regime and budget: context, never a baseline."""
    from analysis.read.published import load_published, select
    from analysis.render.terminal import rich_table
    from analysis.sections.published import footnotes, published_tables

    rows = select(
        load_published(), dataset=dataset, metric=metric, protocol=protocol, method=method
    )
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    for found in published_tables(rows, metric=metric):
        console().print(rich_table(found))
    print("\n".join(footnotes(rows)))
