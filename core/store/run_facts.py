"""What follows from a record: which evaluations are of its own dataset, where shots were short."""

from core.store.record import Evaluation, RunRecord

FOLDER = "folder/"
FAULT = "fault"
"""In the environment of a failed run: what its error said of the device (``Fault``)."""


def is_own(record: RunRecord, scored: Evaluation) -> bool:
    """Whether an evaluation is of the dataset that the run was trained on."""
    return scored.dataset == _own_name(record)


def own_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of the run's own dataset."""
    return tuple(scored for scored in record.evaluations if is_own(record, scored))


def target_scores(record: RunRecord) -> tuple[Evaluation, ...]:
    """The evaluations of other datasets."""
    return tuple(scored for scored in record.evaluations if not is_own(record, scored))


def lacked_memory(record: RunRecord) -> bool:
    """Whether a run failed because memory was exhausted: another time there may be more."""
    return record.status == "failed" and record.environment.get(FAULT) == "memory"


def short_counts(record: RunRecord) -> tuple[int, ...]:
    """The training images of every trained class that has fewer of them than shots."""
    return tuple(count for count in record.drawn_per_class if count < record.shots)


def own_target(record: RunRecord, scored: Evaluation) -> str:
    """What an evaluation of the run's own dataset is called: "base", "new" or "all"."""
    return scored.target if scored.dataset == record.dataset else scored.classes


def _own_name(record: RunRecord) -> str:
    """The name under which a run scored its own dataset, which it always does, and first.

    It is that of the record, unless a folder was typed in another way before names of datasets
    were canonical.
    """
    names = [scored.dataset for scored in record.evaluations]
    typed = record.dataset not in names and record.dataset.startswith(FOLDER)
    return names[0] if names and typed else record.dataset
