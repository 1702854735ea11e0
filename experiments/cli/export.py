"""``export``: the scores of a study as one table."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.report import AllowMixed, Higher, Lower, Metrics, Scale, Source, reading


def export_command(
    source: Source,
    out: Annotated[Path, typer.Argument(help="File to write, .csv or .parquet")],
    scale: Scale = None,
    metrics: Metrics = None,
    lower: Lower = None,
    higher: Higher = None,
    allow_mixed: AllowMixed = False,
) -> None:
    """Write the scores of a study as one tidy table, one row per run, as fractions."""
    from analysis.read.load import load_source
    from analysis.render.scores_table import export
    from core.store.atomic import check_file

    check_file(out, "OUT")
    found = load_source(source, reading(scale, metrics, lower, higher, allow_mixed))
    print(f"wrote {out}: {export(found, out)} rows")
