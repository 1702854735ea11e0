"""``export``: the scores of a study as one table."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.report import AllowMixed, Scale, Source


def export_command(
    source: Source,
    out: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet")],
    scale: Scale = "auto",
    allow_mixed: AllowMixed = False,
) -> None:
    """Write the scores of a study as one tidy table, one row per run, as fractions."""
    from analysis.read.load import load_results
    from analysis.render.scores_table import export

    rows = export(load_results(source, scale=scale, allow_mixed=allow_mixed), out)
    print(f"wrote {out}: {rows} rows")
