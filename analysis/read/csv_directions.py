"""The direction of the metrics of a file: given, plain from the name, or asked for."""

from dataclasses import replace

from analysis.read.csv_cells import is_missing, number_of
from analysis.read.csv_columns import MEAN_TOLERANCE, Arranged
from analysis.read.metric_direction import chosen, is_beside, is_doubtful, is_score
from analysis.read.reading import Reading
from analysis.read.results import BASE_TO_NEW


def with_directions(where: str, found: Arranged, reading: Reading) -> Arranged:
    """The table with the metrics of which lower is better.

    The person is believed before the file. A cost that was not asked for is left out with a note.
    Raises ValueError where the direction of a metric follows neither from its name nor from what
    was said.
    """
    lenient = reading.one_of_several
    down = chosen("--lower", reading.lower, found.metrics, lenient=lenient)
    up = chosen("--higher", reading.higher, found.metrics, lenient=lenient)
    if both := [m for m in down if m in up]:
        raise ValueError(f"{where}: {both[0]} is given as --lower and as --higher; say one of them")
    if known := [m for m in down if m in BASE_TO_NEW]:
        raise ValueError(f"{where}: {known[0]} is an accuracy, of which higher is better")
    lower_ones = (found.lower - {*up}) | {*down}
    told = {*down, *up} | found.lower | found.higher
    found = _without_costs(found, told)
    open_ones = [m for m in found.metrics if m not in told and is_doubtful(m)]
    open_ones = open_ones or [m for m in found.metrics if m not in told and _is_opposite(found, m)]
    if open_ones:
        raise ValueError(f"{where}: {_question(found, open_ones)}")
    return replace(found, lower=frozenset(lower_ones & {*found.metrics}))


def _without_costs(found: Arranged, told: set[str]) -> Arranged:
    """The table without the costs and spreads that nobody asked for, where metrics remain."""
    beside = [m for m in found.metrics if m not in told and is_beside(m) and not found.wanted]
    kept = tuple(m for m in found.metrics if m not in beside)
    if not beside or not (kept or "correct" in found.text.columns):
        return found
    note = f"costs and spreads are not compared: {', '.join(beside)}; --metrics selects columns"
    return replace(found, metrics=kept, ignored=(*found.ignored, *beside)).noting(note)


def _is_opposite(found: Arranged, metric: str) -> bool:
    """Whether a metric without a known name is the opposite of another one, as an error rate is."""
    return not is_score(metric) and bool(_opposite(found, metric))


def _question(found: Arranged, metrics: list[str]) -> str:
    first = metrics[0]
    known = [m for m in found.metrics if m not in metrics]
    names = " and ".join(metrics)
    opposites = [f"{m} is 100 - {o}" for m in metrics if (o := _opposite(found, m))]
    said = f" ({'; '.join(opposites)})" if opposites else ""
    leave = f", or leave it out with --metrics {','.join(known)}" if known else ""
    each = " for each" if len(metrics) > 1 else ""
    return (
        f"the name of {names} does not tell whether lower is better{said}; say --lower {first} or "
        f"--higher {first}{each}{leave}"
    )


def _opposite(found: Arranged, metric: str) -> str:
    """The metric whose values and these add up to 100 in every row, "" without one."""
    own = [None if is_missing(c) else number_of(c) for c in found.text[metric]]
    for other in found.metrics:
        if other == metric:
            continue
        theirs = [None if is_missing(c) else number_of(c) for c in found.text[other]]
        sums = [a + b for a, b in zip(own, theirs, strict=True) if a is not None and b is not None]
        for whole in (1.0, 100.0):
            if sums and all(abs(s - whole) <= MEAN_TOLERANCE * whole / 100 for s in sums):
                return other
    return ""
