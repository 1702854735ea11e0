"""What follows from a record: which evaluations are of its own dataset, where shots were short."""

from pathlib import PurePosixPath

from core.store.record import Evaluation, RunRecord

FOLDER = "folder/"


def is_own(record: RunRecord, scored: Evaluation) -> bool:
    """Whether an evaluation is of the run's own dataset; of another one it has that one's name.

    Records from before names of datasets were canonical spell a folder in two ways: as it was
    typed, and by its last name or without superfluous slashes.
    """
    return scored.target == scored.classes or scored.dataset in _older_names(record.dataset)


def own_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of the run's own dataset."""
    return tuple(scored for scored in record.evaluations if is_own(record, scored))


def target_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of other datasets."""
    return tuple(scored for scored in record.evaluations if not is_own(record, scored))


def short_counts(record: RunRecord) -> tuple[int, ...]:
    """The training images of every trained class that has fewer of them than shots."""
    return tuple(count for count in record.drawn_per_class if count < record.shots)


def _older_names(dataset: str) -> tuple[str, ...]:
    if not dataset.startswith(FOLDER):
        return ()
    path = PurePosixPath(dataset.removeprefix(FOLDER))
    absolute = path.is_absolute() or path.parts[:1] == ("~",)
    return (f"{FOLDER}{path.name if absolute else path}",)
