"""What a run reads: its dataset, the few-shot images, the targets, and their fingerprints."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from core.clip.catalog import check_towers
from core.config import Config, Reference, lookup
from core.data.catalog import load_dataset
from core.data.dataset import ClassSubset, Dataset
from core.data.dataset_names import canonical_name
from core.data.fewshot import describe_shortage
from core.data.listings import first_difference, keep_listing
from core.data.splits import SplitFractions, class_subset
from core.store.checksums import file_sha256
from core.store.names import CONFIG_NAME
from core.store.record import read_record
from experiments.run.dataset_names import with_canonical_names
from experiments.run.experiment import Experiment, draws_anew
from experiments.run.few_shot_draw import drawn, shots_path
from experiments.run.protocols import LABELED, Protocol, protocol_of
from experiments.run.runtime import Runtime
from experiments.run.scorable_data import data_problem
from experiments.run.shared_images import (
    ListedDataset,
    OverlapRule,
    overlaps,
    require_distinct,
)
from experiments.run.unchanged import changed_class_names, changed_inputs

ROOT = "experiment"
MOST_DRAWS = 256

_DRAWS: dict[tuple[object, ...], tuple[Dataset, str]] = {}


@dataclass(frozen=True, kw_only=True)
class DataInputs:
    """The datasets of a run: as read, after the few-shot draw, and the test-only targets.

    ``fingerprints`` has one entry for each of them and one for every other file that is read.
    ``overlaps`` has a line for every list of test images that holds training images, ``shortage``
    one where classes have fewer images than shots, ``problem`` why nothing could be scored.
    """

    full: Dataset
    dataset: Dataset
    targets: tuple[Dataset, ...]
    fingerprints: dict[str, str]
    overlaps: tuple[str, ...] = ()
    allowed: bool = False
    shortage: str = ""
    problem: str = ""

    @property
    def cautions(self) -> list[str]:
        """What a person should know of the images before a run."""
        allowed = [f"{line}; allowed by experiment.overlap" for line in self.overlaps]
        return [*([self.shortage] if self.shortage else []), *allowed]

    def what_changed(self, key: str, fingerprint: str, cache_dir: Path) -> str:
        """The dataset that a key of ``fingerprints`` stands for, and what differs first from the
        one of an earlier fingerprint where that is known; "" for a key that stands for none.
        """
        sets = {f"target {target.name}": target for target in self.targets}
        found = self.full if key == "dataset" else sets.get(key)
        if found is None:
            return ""
        first = first_difference(found, fingerprint, cache_dir)
        return f"the data of {found.name}" + (f", first {first}" if first else "")

    def check(self) -> None:
        """Raise ValueError where test images are training images too and nobody allowed it, or
        where the images cannot be scored.
        """
        if self.overlaps and not self.allowed:
            raise ValueError(
                f"{'; '.join(self.overlaps)}; take them out of one of the lists, or set "
                "experiment.overlap = 'allowed', which the report marks"
            )
        if self.problem:
            raise ValueError(self.problem)


def read_data_inputs(config: Config, runtime: Runtime) -> DataInputs:
    """Read all data of a run and check it against the protocol, without building anything.

    Raises ValueError for a run that breaks its protocol, and for data that cannot be read.
    """
    config = with_canonical_names(config, runtime.data_root)
    values: dict[str, Any] = config.operative(ROOT)
    settings, regime = _planned(values)
    protocol = protocol_of(settings.protocol)
    _check_method(values, settings, protocol)
    source, listed = _read_sets(settings, regime, runtime)
    full, targets = source.dataset, tuple(target.dataset for target in listed)
    part_files = _part_files(values)
    if not _allows_changed(values):
        _check_earlier_runs(part_files.values(), source, runtime)
    dataset, problem = _drawn(source, tuple(listed), settings, _trained(settings, regime))
    return DataInputs(
        full=full if protocol.judged_by == "test" else dataset,
        dataset=dataset,
        targets=targets,
        fingerprints=_fingerprints(settings, source, listed, part_files),
        overlaps=_overlaps(settings, source, listed) if _trains(settings) else (),
        allowed=settings.overlap == "allowed",
        shortage=_shortage(settings, source),
        problem=problem,
    )


def _drawn(
    source: ListedDataset,
    targets: tuple[ListedDataset, ...],
    settings: Experiment,
    trained: ClassSubset | None,
) -> tuple[Dataset, str]:
    """The dataset after the few-shot draw, and why nothing could be scored. All variants of a grid
    share a draw, so it is made once per process; not one that is listed in a file.
    """
    asked = (settings.protocol, settings.selection, settings.shots, settings.seed, trained)
    key = (source, targets, *asked)
    found = _DRAWS.get(key) if settings.shots_file is None else None
    if found is None:
        protocol = protocol_of(settings.protocol)
        dataset = drawn(settings, protocol, source.dataset)
        sets = tuple(target.dataset for target in targets)
        problem = data_problem(
            protocol, dataset, sets, trained=trained, selection=settings.selection
        )
        found = dataset, problem
        if settings.shots_file is None:
            _DRAWS[key] = found
            while len(_DRAWS) > MOST_DRAWS:
                del _DRAWS[next(iter(_DRAWS))]
    return found


def _read_sets(
    settings: Experiment, regime: str, runtime: Runtime
) -> tuple[ListedDataset, list[ListedDataset]]:
    """The source and the targets. Raises ValueError where they break the protocol."""
    protocol = protocol_of(settings.protocol)
    protocol.check(
        regime=regime, shots=settings.shots, dataset=settings.dataset, targets=settings.targets
    )
    source = _listed(settings, settings.dataset, runtime)
    full = source.dataset
    if full.test_only and (protocol.labeled == "base" or _learns_labels(settings, regime)):
        raise ValueError(
            f"{full.name} has test images only, and the protocol {protocol.name!r} would train on "
            "them with their labels; list it in experiment.targets of 'domain_generalization'"
        )
    targets = [_listed(settings, name, runtime) for name in settings.targets]
    require_distinct(source, targets)
    protocol.check_classes(full, [target.dataset for target in targets])
    return source, targets


def _shortage(settings: Experiment, source: ListedDataset) -> str:
    if settings.shots_file is not None or not _trains(settings):
        return ""
    return _described_shortage(source, settings.shots)


@functools.lru_cache(maxsize=64)
def _described_shortage(source: ListedDataset, shots: int) -> str:
    """Counted once for all runs on a dataset."""
    return describe_shortage(source.dataset, shots)


def _fingerprints(
    settings: Experiment,
    source: ListedDataset,
    targets: Sequence[ListedDataset],
    part_files: Mapping[str, Path],
) -> dict[str, str]:
    """Everything that the data of a run depend on besides its configuration, by name."""
    prints = {"dataset": source.fingerprint}
    prints |= {f"target {target.dataset.name}": target.fingerprint for target in targets}
    if settings.shots_file is not None:
        prints["shots file"] = _content(shots_path(settings))
    return prints | {label: _content(path) for label, path in part_files.items()}


def _overlaps(
    settings: Experiment, source: ListedDataset, targets: Sequence[ListedDataset]
) -> tuple[str, ...]:
    rule = OverlapRule(
        copies=settings.overlap == "copies-refused",
        by_val=settings.selection == "val",
        on_val=protocol_of(settings.protocol).judged_by == "validation",
    )
    return tuple(overlaps(source, targets, rule))


def planned(config: Config) -> tuple[Experiment, str]:
    """The settings of a configuration and the method's regime; parts stay references."""
    return _planned(config.operative(ROOT))


def _planned(values: Mapping[str, Any]) -> tuple[Experiment, str]:
    prefix = f"{ROOT}."
    own = {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}
    name = own["method"].name
    method: Any = lookup(name).cls
    return Experiment(**own), values.get(f"{name}.regime", method.regime)


def _check_method(values: Mapping[str, Any], settings: Any, protocol: Protocol) -> None:
    """Raise ValueError for a method that the backbone, the protocol, or the images of a batch do
    not suit.
    """
    entry = lookup(settings.method.name)
    method: Any = entry.cls
    own = {name: values[f"{entry.name}.{name}"] for name in entry.parameters}
    check_towers(entry.name, entry.ask("hooked_towers", own), settings.backbone)
    protocol.check_closed_set(entry.name, entry.ask("closed_set", own))
    drawn_anew = draws_anew(method, vars(settings))
    needed = 1 if drawn_anew else method.views_per_image
    if method.views_per_image > 1 and settings.num_views < needed:
        raise ValueError(
            f"{entry.name} compares {method.views_per_image} augmented views of an image, got "
            f"experiment.num_views = {settings.num_views}; set it to {needed} or more"
        )


def _learns_labels(settings: Experiment, regime: str) -> bool:
    """Whether a run trains on labeled images; ``settings`` are those of a planned run."""
    return regime == LABELED and _trains(settings)


def _trains(settings: Experiment) -> bool:
    method: Any = settings.method
    refiner: Any = settings.refiner
    cls: Any = lookup(method.name).cls
    return bool(cls.trains or refiner != Reference("NullRefiner"))


def _trained(settings: Experiment, regime: str) -> ClassSubset | None:
    """The classes whose images training sees, None where nothing is trained."""
    if not _trains(settings):
        return None
    return protocol_of(settings.protocol).labeled if regime == LABELED else "all"


def _part_files(values: Mapping[str, Any]) -> dict[str, Path]:
    """Files that plugged-in parts read (``Configurable.input_files``), where they exist."""
    found: dict[str, Path] = {}
    for name in dict.fromkeys(key.partition(".")[0] for key in values):
        if (entry := lookup(name)).answers("input_files"):
            own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
            files = entry.ask("input_files", own)
            found |= {f"{name} {path.name}": path for path in files}
    return {label: path for label, path in found.items() if path.is_file()}


def _allows_changed(values: Mapping[str, Any]) -> bool:
    """Whether a part that reads an earlier run goes on where its data are others."""
    return any(v is True for k, v in values.items() if k.endswith(".allow_changed"))


def _check_earlier_runs(files: Iterable[Path], source: ListedDataset, runtime: Runtime) -> None:
    """Raise ValueError for an earlier run on another state of the same dataset.

    An earlier run on another dataset is not checked: its images need not be on this machine.
    """
    dataset = source.dataset
    for folder in {path.parent for path in files if path.name == CONFIG_NAME}:
        record = read_record(folder)
        if record is None or canonical_name(record.dataset, runtime.data_root) != dataset.name:
            continue
        names = {
            subset: class_subset(dataset, subset).class_names for subset in get_args(ClassSubset)
        }
        changes = [
            *changed_inputs(record.fingerprints, {"dataset": source.fingerprint}),
            *changed_class_names(record, names),
        ]
        if changes:
            raise ValueError(
                f"{folder}: since this run was made there changed: {'; '.join(changes)}; restore "
                "the data, repeat the run, or set RunTeacher.allow_changed = True"
            )


def _content(path: Path) -> str:
    """sha256 (16 hex digits) of a file; a large one is hashed once as long as it is unchanged."""
    status = path.stat()
    return _hash(path.absolute(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, modified: int) -> str:
    return file_sha256(path)[:16]


def read_dataset(settings: Experiment, name: str, runtime: Runtime) -> Dataset:
    """A dataset by name, split as the experiment specifies if the tree has no split of its own."""
    return _listed(settings, canonical_name(name, runtime.data_root), runtime).dataset


def _listed(settings: Experiment, name: str, runtime: Runtime) -> ListedDataset:
    train, val, test = settings.split_fractions
    fractions = SplitFractions(train=train, val=val, test=test)
    return _dataset(name, runtime.data_root, runtime.cache_dir, fractions, settings.split_seed)


@functools.lru_cache(maxsize=64)
def _dataset(
    name: str, data_root: Path | None, cache_dir: Path, fractions: SplitFractions, split_seed: int
) -> ListedDataset:
    """A dataset with its fingerprint; listed once per process."""
    dataset = load_dataset(
        name, root=data_root, cache_dir=cache_dir, fractions=fractions, split_seed=split_seed
    )
    fingerprint = dataset.fingerprint
    keep_listing(dataset, fingerprint, cache_dir)
    return ListedDataset(dataset=dataset, fingerprint=fingerprint)
