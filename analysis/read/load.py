"""``Results`` of paths: study folders, CSV files, and the result folders of other programs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.read.csv_file import table_results
from analysis.read.csv_text import read_table, tidy
from analysis.read.importers.dassl_logs import is_output, read_output
from analysis.read.importers.domainbed import is_sweep, read_sweep
from analysis.read.metric_direction import chosen
from analysis.read.reading import Reading
from analysis.read.results import Results, with_choices
from analysis.read.sources import Named, combined
from analysis.read.study_folder import load_study
from core.store.manifest import has_manifest


def load_results(
    path: Path,
    *,
    baseline: str | None = None,
    scale: str | Sequence[str] = "auto",
    allow_mixed: bool = False,
) -> Results:
    """Results of a study folder or of a CSV file, whichever ``path`` is. See ``load_study``
    and ``load_csv``. ``allow_mixed`` lets runs of different code versions stand together.
    """
    reading = Reading(scale=scale, allow_mixed=allow_mixed)
    return load_source(path, reading, baseline=baseline)


def load_source(path: Path, reading: Reading, *, baseline: str | None = None) -> Results:
    """Results of one path. Raises ValueError for a path that is nothing that a report can read, and
    for options of tables where there is no table.
    """
    if not path.is_dir():
        results = table_results(str(path), path.stem, read_table(path), reading)
        return with_choices(results, baseline=baseline)
    for recognized, read in ((is_sweep, read_sweep), (is_output, read_output)):
        if not has_manifest(path) and recognized(path):
            name = tidy(path.resolve().name)
            results = table_results(str(path), name, read(path), reading)
            return with_choices(results, baseline=baseline)
    if reading.named and not reading.one_of_several:
        raise ValueError(
            f"{path} is a study folder, whose metrics are known accuracies: leave out --metrics, "
            "--lower and --higher; --metric chooses that of the headline"
        )
    if reading.scale not in ("auto", (), []) and not reading.one_of_several:
        raise ValueError(
            f"{path} is a study folder, whose records are counts of images: leave out --scale"
        )
    return load_study(path, baseline=baseline, allow_mixed=reading.allow_mixed)


def load_sources(
    paths: Sequence[Path],
    reading: Reading,
    *,
    names: Sequence[str] = (),
    paired: bool = False,
) -> Results:
    """Results of several paths in one table, study folders first; ``names`` are those of all but
    the first. ``paired``: equal seeds of different sources are the same draws of the data.

    Raises ValueError where a name is blank, stands twice, or is one too many.
    """
    ordered = sorted(paths, key=lambda path: not (path.is_dir() and has_manifest(path)))
    given = [tidy(name) for name in names]
    if not all(given) or len(given) >= len(paths):
        raise ValueError(
            f"--as names every source but the first, {len(paths) - 1} here, got "
            f"{', '.join(map(repr, names))}"
        )
    if len(paths) == 1:
        return load_source(paths[0], reading)
    each = replace(reading, one_of_several=True)
    found = [load_source(path, each) for path in ordered]
    known = list(dict.fromkeys(metric for results in found for metric in results.metrics))
    chosen("--metrics, --lower and --higher", reading.named, known)
    first, *others = (
        Named(results=results, name=name, path=str(path))
        for results, name, path in zip(
            found, ["", *given, *[""] * len(paths)][: len(paths)], ordered, strict=True
        )
    )
    return combined(first, others, paired=paired)


def study_of(paths: Sequence[Path]) -> Path | None:
    """The study folder among several sources, the first one, whose runs a report can open."""
    return next((path for path in paths if path.is_dir() and has_manifest(path)), None)
