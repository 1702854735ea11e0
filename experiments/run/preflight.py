"""What is checked and shown of the data before anything is trained: how each dataset was read,
settings without effect on it, and whether every image that the runs will read can be decoded.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.clip.catalog import image_size_of
from core.config import Config, Reference, lookup
from core.data.benchmarks.published import repetitions
from core.data.catalog import registered_datasets
from core.data.crops import bytes_of_crops, size_on_disk
from core.data.dataset import ClassSubset, Dataset, Item
from core.data.decoding import Decoded, Progress, decode_all, folder_reader
from core.data.overlap import NOTHING, same_tree, shared_by_path
from core.data.reading import DataReading, counted
from core.data.splits import class_subset
from core.program import command_line
from core.streams import printable
from experiments.run.data_inputs import DataInputs, planned, read_data_inputs
from experiments.run.device_check import require_device
from experiments.run.devices import THIS_PROCESS, WorkPlace
from experiments.run.experiment import Experiment
from experiments.run.feature_room import FeatureRoom
from experiments.run.protocols import LABELED, protocol_of
from experiments.run.runtime import Runtime

# A dry run opens at most so many images that were never opened: some seconds.
DRY_RUN_IMAGES = 5000

_SPLIT_DEFAULTS: dict[str, Any] = {"split_seed": 0, "split_fractions": (0.5, 0.2, 0.3)}
_passed: dict[tuple[str, str], set[str]] = {}


@dataclass(kw_only=True)
class Preflight:
    """The data of one or several runs: datasets by name, and the paths of the images they read.

    ``crops`` are the images that runs decode and keep, rather than read features of, by dataset,
    size of the images and limit of the cache; ``features`` those that other runs train on.
    """

    datasets: dict[str, Dataset] = field(default_factory=dict)
    paths: dict[str, dict[str, None]] = field(default_factory=dict)
    tested: set[tuple[str, str]] = field(default_factory=set)
    idle: dict[str, list[str]] = field(default_factory=dict)
    cautions: dict[str, None] = field(default_factory=dict)
    crops: dict[tuple[str, tuple[int, int], float], set[str]] = field(default_factory=dict)
    features: FeatureRoom = field(default_factory=FeatureRoom)

    def lines(self, *, on_disk: bool = False) -> list[str]:
        """How each dataset was read, one line a fact; ``on_disk`` leaves out what is built in."""
        shown = [d for d in self.datasets.values() if d.reading is not None or not on_disk]
        return [line for dataset in shown for line in describe_reading(dataset)]

    def notes(self) -> list[str]:
        """Settings without effect on some of the datasets, and what to know of the images."""
        idle = (note for notes in self.idle.values() for note in notes)
        return [*idle, *self.cautions, *self._crop_notes(), *self.features.notes()]

    def _crop_notes(self) -> Iterator[str]:
        """What the cache of decoded images may grow by."""
        sizes: dict[float, int] = {}
        for (name, size, limit), paths in self.crops.items():
            if folder_reader(self.datasets[name].reader) is not None:
                sizes[limit] = sizes.get(limit, 0) + bytes_of_crops(size, len(paths))
        for limit, wanted in sizes.items():
            yield (
                f"decoded images that runs share: at most {size_on_disk(wanted)} on disk "
                f"(experiment.crop_cache_gb = {limit:g}; 0 keeps none)"
            )

    def decode(
        self, runtime: Runtime, *, progress: Progress | None = None, limit: int | None = None
    ) -> list[Decoded]:
        """Open every image that was never opened, unless there are more than ``limit``."""
        found = []
        for name, dataset in self.datasets.items():
            wanted = self.paths.get(name, ())
            found.append(
                decode_all(dataset, wanted, runtime.cache_dir, progress=progress, limit=limit)
            )
        return found


def preflight(
    configs: Iterable[Config], runtime: Runtime, place: WorkPlace = THIS_PROCESS
) -> Preflight:
    """The data that runs will read.

    Raises ValueError for a device that cannot do what they ask, for data that cannot be read, for
    test images that are training images too, for one dataset under two names, for features that
    have no room where the runs are made, and for a setting of the split that has no effect on any
    dataset of any run.
    """
    found = Preflight()
    effective: set[str] = set()
    idle: dict[str, list[str]] = {}
    allowed = False
    configs = list(configs)
    require_device(configs, runtime, place)
    for config in configs:
        settings, inputs = planned(config)[0], read_data_inputs(config, runtime)
        inputs.check()
        allowed = allowed or inputs.allowed
        found.cautions |= dict.fromkeys(inputs.cautions)
        _add_images(found, config, inputs)
        datasets = (inputs.full, *inputs.targets)
        _add_crops(found, config, inputs)
        found.features.add(config, inputs)
        for dataset in datasets:
            found.datasets.setdefault(dataset.name, dataset)
        for key in _given_split_settings(settings):
            if any(key in reading_of(dataset).split_settings for dataset in datasets):
                effective.add(key)
            else:
                idle.setdefault(key, []).append(_idle_note(key, settings, inputs.full))
    for key, notes in idle.items():
        if key not in effective:
            raise ValueError(f"{notes[0]}; remove it")
    _require_distinct(found, allowed=allowed)
    found.features.check(runtime, place)
    found.idle = {key: list(dict.fromkeys(notes)) for key, notes in idle.items()}
    return found


def _require_distinct(found: Preflight, *, allowed: bool) -> None:
    """Raise ValueError for two datasets that are one, or share images unless that is allowed."""
    for one, two in itertools.combinations(found.datasets.values(), 2):
        names = f"{printable(one.name)!r} and {printable(two.name)!r}"
        if same_tree(one, two):
            raise ValueError(f"{names} are the same images; name the dataset once")
        shared = NOTHING if allowed else shared_by_path(one, two)
        if shared.number:
            raise ValueError(
                f"{names} share {counted(shared.number, 'image')}, first {shared.first}: they are "
                "not two datasets; take one out, or set experiment.overlap = 'allowed'"
            )


def require_decodable(
    config: Config, inputs: DataInputs, runtime: Runtime, *, training: bool
) -> None:
    """Raise ValueError where an image that a run will read cannot be decoded; a dataset is opened
    once, and looked up once a process. Without ``training`` only test images are read.
    """
    found = []
    for dataset, items in images_of_run(config, inputs, training=training):
        passed = _passed.setdefault((dataset.name, dataset.content), set())
        wanted = {item.path for item in items} - passed
        decoded = decode_all(dataset, sorted(wanted), runtime.cache_dir)
        found.append(decoded)
        if not decoded.unreadable:
            passed |= wanted
    require_readable(found, runtime)


def require_readable(found: Iterable[Decoded], runtime: Runtime) -> None:
    """Raise ValueError, one line, for images that cannot be read."""
    bad = [decoded for decoded in found if decoded.unreadable]
    if bad:
        problems = "; ".join(f"{printable(d.name)}: {d.problem()}" for d in bad)
        raise ValueError(f"{problems}; '{decode_command(bad[0].name, runtime)}' names all")


def decode_command(name: str, runtime: Runtime) -> str:
    """The command that opens all images of a dataset."""
    root = [] if runtime.data_root is None else ["--root", runtime.data_root]
    return command_line("data", "check", name, "--decode", *root)


def images_of_run(
    config: Config, inputs: DataInputs, *, training: bool = True
) -> Iterator[tuple[Dataset, list[Item]]]:
    """Each dataset of a run with the images that training, selection and evaluation read."""
    learned = _learned(config, inputs) if training else []
    yield inputs.dataset, [*learned, *_scored(config, inputs)]
    for target in inputs.targets:
        yield target, list(target.test)


def _learned(config: Config, inputs: DataInputs) -> list[Item]:
    """The images that training and selection read."""
    settings, regime = planned(config)
    protocol = protocol_of(settings.protocol)
    trained: ClassSubset = protocol.labeled if regime == LABELED else "all"
    items: list[Item] = []
    method: Any = settings.method
    refiner: Any = settings.refiner
    cls: Any = lookup(method.name).cls
    if cls.trains or refiner != Reference("NullRefiner"):
        items += class_subset(inputs.dataset, trained).train
    if settings.selection == "val":
        items += class_subset(inputs.dataset, protocol.labeled).val
    return items


def _scored(config: Config, inputs: DataInputs) -> list[Item]:
    """The images of a run's own dataset that are scored."""
    protocol = protocol_of(planned(config)[0].protocol)
    subsets = (class_subset(inputs.dataset, subset) for subset in protocol.scored)
    return [item for subset in subsets for item in subset.test]


def _add_crops(found: Preflight, config: Config, inputs: DataInputs) -> None:
    """Note the images that a run decodes without augmenting them, and keeps."""
    settings = planned(config)[0]
    method: Any = settings.method
    cls: Any = lookup(method.name).cls
    limit = settings.crop_cache_gb
    if cls.image_input != "pixels" or cls.test_views or not limit:
        return
    size = image_size_of(settings.backbone)
    learned = _learned(config, inputs)
    if settings.num_views:  # training images are augmented
        trained = {item.path for item in inputs.dataset.train}
        learned = [item for item in learned if item.path not in trained]
    own = [*learned, *_scored(config, inputs)]
    for dataset, items in ((inputs.dataset, own), *((t, t.test) for t in inputs.targets)):
        kept = found.crops.setdefault((dataset.name, size, limit), set())
        kept.update(item.path for item in items)


def _add_images(found: Preflight, config: Config, inputs: DataInputs) -> None:
    """Add the images that a run reads; test lists, which all seeds share, are looked up once."""
    protocol = protocol_of(planned(config)[0].protocol)
    for target in inputs.targets:
        if target.name not in found.paths:
            found.paths[target.name] = dict.fromkeys(item.path for item in target.test)
    if inputs.dataset.reading is None:  # built in: there are no files
        return
    paths = found.paths.setdefault(inputs.dataset.name, {})
    paths |= dict.fromkeys(item.path for item in _learned(config, inputs))
    key = (inputs.dataset.name, protocol.name)
    if protocol.judged_by == "validation" or key not in found.tested:
        found.tested.add(key)
        paths |= dict.fromkeys(item.path for item in _scored(config, inputs))


def describe_reading(dataset: Dataset) -> list[str]:
    """How a dataset was read: layout, counts per part, what was ignored, notes."""
    reading = reading_of(dataset)
    counts = ", ".join(
        f"{part} {len(items)}"
        for part, items in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    )
    name = printable(dataset.name)
    return [
        f"{name}: {reading.layout}; {counted(len(dataset.class_names), 'class')}; {counts}",
        *(f"{name}: ignored {line}" for line in reading.ignored),
        *(f"{name}: note: {line}" for line in (*repetitions(dataset), *reading.notes)),
    ]


def _given_split_settings(settings: Experiment) -> list[str]:
    """The settings of the split that differ from their defaults."""
    return [key for key, value in _SPLIT_DEFAULTS.items() if getattr(settings, key) != value]


def _idle_note(key: str, settings: Experiment, dataset: Dataset) -> str:
    return (
        f"experiment.{key} = {getattr(settings, key)} has no effect on "
        f"{printable(dataset.name)}, whose split does not depend on it "
        f"({reading_of(dataset).layout})"
    )


def reading_of(dataset: Dataset) -> DataReading:
    """How a dataset was read; what is built in, or registered by a plug-in, has its own split."""
    registered = any(dataset.name == known.name for known in registered_datasets())
    source = "registered by a plug-in" if registered else "built in"
    return dataset.reading or DataReading(layout=f"{source}, with a split of its own")
