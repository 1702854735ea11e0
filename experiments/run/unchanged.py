"""Whether what a stored run depended on is still the same: data, class names, frozen weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from core.program import way_out
from core.store.record import RunRecord

SHOWN = 3


def check_unchanged(where: Path, changes: Sequence[str], *, allow_changed: bool) -> None:
    """Raise ValueError that names what changed, unless a person allows it."""
    if changes and not allow_changed:
        raise ValueError(
            f"{where}: since this was made there changed: {'; '.join(changes)}. Its scores would "
            "not be those of its record; restore what it was made with, or "
            + way_out("say --allow-changed", "give allow_changed=True")
        )


def changed_inputs(
    stored: Mapping[str, str],
    current: Mapping[str, str],
    what_of: Callable[[str, str], str] = lambda name, value: "",
) -> Iterator[str]:
    """The fingerprints that differ, among those that both sides have. ``what_of`` a name and its
    stored fingerprint says more of what has changed, or "".
    """
    for name, value in stored.items():
        now = current.get(name, "")
        if value and now and value != now:
            what = what_of(name, value) or LABELS.get(name, name)
            yield f"{what} (fingerprint {value}, now {now})"


LABELS = {
    "dataset": "the data",
    "few_shot": "the few-shot images",
    "backbone": "the weights of the backbone",
    "activation": "the backbone's activation",
}


def changed_class_names(record: RunRecord, current: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The evaluations of a record that scored other class names; ``current`` is by target."""
    for evaluation in record.evaluations:
        names = current.get(evaluation.target)
        if names is None or tuple(names) == evaluation.class_names:
            continue
        added = [name for name in names if name not in evaluation.class_names]
        lost = [name for name in evaluation.class_names if name not in names]
        words = [
            f"{len(found)} {verb}: {', '.join(map(repr, found[:SHOWN]))}"
            for verb, found in (("added", added), ("removed", lost))
            if found
        ]
        yield f"the class names of {evaluation.target!r} ({'; '.join(words) or 'another order'})"
