"""``Results`` of a path, a study folder or a CSV file."""

from collections.abc import Sequence
from pathlib import Path

from analysis.read.csv_file import load_csv
from analysis.read.results import Results
from analysis.read.study_folder import load_study


def load_results(
    path: Path,
    *,
    baseline: str | None = None,
    scale: str | Sequence[str] = "auto",
    allow_mixed: bool = False,
    metrics: Sequence[str] = (),
    lower: Sequence[str] = (),
    higher: Sequence[str] = (),
) -> Results:
    """Results of a study folder or of a CSV file, whichever ``path`` is. See ``load_study``
    and ``load_csv``. ``allow_mixed`` lets runs of different code versions stand together.
    """
    if path.is_dir():
        return load_study(path, baseline=baseline, allow_mixed=allow_mixed)
    return load_csv(
        path,
        baseline=baseline,
        scale=scale,
        allow_mixed=allow_mixed,
        metrics=metrics,
        lower=lower,
        higher=higher,
    )
