"""Whether the images of a run can be trained on and scored at all: no list is empty, and no class
subset is a single class, which is always right.
"""

from collections.abc import Iterator

from core.data.dataset import ClassSubset, Dataset, Item
from core.data.splits import subset_labels
from experiments.run.protocols import Protocol, Selection

FEW_SHOT = "use the protocol 'few_shot', which scores all classes together"
_SUBSETS = {"base": "the base half", "new": "the new half", "all": "what is scored"}


def data_problem(
    protocol: Protocol,
    dataset: Dataset,
    targets: tuple[Dataset, ...],
    *,
    trained: ClassSubset | None,
    selection: Selection,
) -> str:
    """Why a run on these images would have no score or a meaningless one, "" where it has one.

    ``dataset`` is the run's own after its few-shot draw; ``trained`` are the classes whose images
    training sees, None where nothing is trained.
    """
    found = _problems(protocol, dataset, targets, trained)
    return next(found, "") or (_selection_problem(protocol, dataset) if selection == "val" else "")


def _selection_problem(protocol: Protocol, dataset: Dataset) -> str:
    lacks = "has none of its own: they are its test images"
    if not _has(dataset, protocol.labeled, dataset.val):
        lacks = f"has none of {_classes(dataset, protocol.labeled)}"
    elif dataset.val != dataset.test:
        return ""
    return (
        f"experiment.selection = 'val' needs validation images, {dataset.name} {lacks}; use 'last'"
    )


def data_notes(dataset: Dataset) -> list[str]:
    """What a dataset lacks for some protocol, whatever the run."""
    notes = [
        f"no {kind} images"
        for kind, items in (("training", dataset.train), ("test", dataset.test))
        if not items
    ]
    if (
        dataset.train
        and dataset.test
        and (untested := _without_images(dataset, range(len(dataset.class_names)), dataset.test))
    ):
        notes.append(f"no test images of {untested}")
    tested = {item.path for item in dataset.test}
    if not dataset.test_only and (both := sum(item.path in tested for item in dataset.val)):
        notes.append(
            f"{both} of {len(dataset.val)} validation images are test images as well: selection by "
            "them is refused, and so is a search"
        )
    if len(subset_labels(dataset, "new")) < 2 and not dataset.test_only:
        notes.append(
            "the protocol 'base_to_new' would score a single class alone, which is always right: "
            f"it needs four classes with images; {FEW_SHOT}"
        )
    return notes


def _problems(
    protocol: Protocol, dataset: Dataset, targets: tuple[Dataset, ...], trained: ClassSubset | None
) -> Iterator[str]:
    name = dataset.name
    if protocol.judged_by == "validation":
        kind, way_out = "validation", "leave it out of the search"
    else:
        kind, way_out = "test", FEW_SHOT if protocol.scored != ("all",) else "use another dataset"
    if trained is not None and not _has(dataset, trained, dataset.train):
        yield (
            f"{name} has no training images of {_classes(dataset, trained)}; add images, or "
            "correct its split"
        )
    for subset in protocol.scored:
        labels = subset_labels(dataset, subset)
        if len(labels) < 2:
            which = f"the single class {_listed(dataset, labels)}" if labels else "no class"
            yield (
                f"{name}: {_SUBSETS[subset]} has {which}, and among one class every answer is "
                f"right; {way_out}"
            )
        if not _has(dataset, subset, dataset.test):
            yield (
                f"{name} has no {kind} images of {_classes(dataset, subset)}, which are scored "
                "after training; add images, or correct its split"
            )
    for target in targets:
        if len(target.class_names) < 2:
            yield (
                f"{target.name}: a single class, {target.class_names[0]!r}, is always right; take "
                "it out of experiment.targets"
            )
        if not target.test:
            yield f"{target.name} has no test images; take it out of experiment.targets"


def _has(dataset: Dataset, subset: ClassSubset, items: tuple[Item, ...]) -> bool:
    labels = frozenset(subset_labels(dataset, subset))
    return any(item.label in labels for item in items)


def _classes(dataset: Dataset, subset: ClassSubset) -> str:
    half = "" if subset == "all" else f" of the {subset} half"
    return f"the classes{half}, {_listed(dataset, subset_labels(dataset, subset))}"


def _without_images(dataset: Dataset, labels: range, items: tuple[Item, ...]) -> str:
    there = {item.label for item in items}
    return _listed(dataset, [label for label in labels if label not in there])


def _listed(dataset: Dataset, labels: list[int]) -> str:
    names = ", ".join(repr(dataset.class_names[label]) for label in labels[:5])
    return names + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
