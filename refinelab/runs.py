"""A finished run in Python: predictions on own images, class texts, attention, memory.

Letters: N images, C classes, D joint width, P = rows x columns patches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import experiments.cli.registered  # noqa: F401  (fills the registry)
from core.data.dataset import ClassSubset, Dataset, Item
from core.data.images import open_rgb
from core.data.splits import class_subset
from core.plugins import load_plugins
from core.program import called_from_python
from core.store.names import CACHE_FOLDER
from core.store.record import Evaluation, RunRecord
from core.store.settings import read_settings
from core.train.batches import PixelSource, TestViews
from core.train.evaluate import outputs
from core.types import Forward, Memory
from experiments.run.inspection import LOCAL_FIELDS, read_finished
from experiments.run.outside_files import check_named_files
from experiments.run.run import Assembly, reload, scoring
from experiments.run.runtime import Runtime
from experiments.run.standalone import rescore
from experiments.run.stored_plugins import load_stored_plugins

ImageGiven = Image.Image | Path | str
"""An image, or the path of its file."""
ClassesGiven = str | Sequence[str] | None
"""Names of classes; "base", "new" or "all" of the run's own; None for all of them."""

CHUNK = 64
POOLED = frozenset({"pooled"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a run makes of N images: ``probabilities`` (N, C), float32 on the CPU."""

    class_names: tuple[str, ...]
    probabilities: Tensor

    @property
    def labels(self) -> list[str]:
        """The most probable class of each image."""
        return [self.class_names[i] for i in self.probabilities.argmax(dim=1).tolist()]

    @property
    def confidences(self) -> list[float]:
        """The probability of that class."""
        return [float(value) for value in self.probabilities.amax(dim=1)]

    def top(self, number: int) -> list[list[tuple[str, float]]]:
        """The most probable classes of each image with their probabilities."""
        best = self.probabilities.topk(min(number, len(self.class_names)), dim=1)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            [(self.class_names[i], value) for i, value in zip(*row, strict=True)] for row in rows
        ]


@dataclass(frozen=True, slots=True)
class GivenImages:
    """Reads images by their position in a list, as the files of a dataset are read by path."""

    images: tuple[ImageGiven, ...]

    def read(self, path: str) -> Image.Image:
        """The image at a position."""
        image = self.images[int(path)]
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        if not Path(image).is_file():
            raise ValueError(
                f"there is no image {str(image)!r}; give the path of a file, absolute or from "
                f"{Path.cwd()}"
            )
        return open_rgb(Path(image))


class LoadedRun:
    """A finished run with its learned weights; see ``load_run``.

    ``record`` is its record, ``settings`` are those of its configuration as text.
    """

    def __init__(self, folder: Path, built: Assembly, record: RunRecord, runtime: Runtime) -> None:
        self.folder = folder
        self.record = record
        self.settings = read_settings(folder)
        self._built = built
        self._runtime = runtime

    def __repr__(self) -> str:
        record = self.record
        return f"LoadedRun({str(self.folder)!r}: {record.variant} on {record.dataset})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes of the run's dataset."""
        return self._built.dataset.class_names

    @property
    def model(self) -> torch.nn.Module:
        """The method with its refiner, in eval mode."""
        return self._built.model

    def predict(self, images: Sequence[ImageGiven], classes: ClassesGiven = None) -> Prediction:
        """The probabilities of classes for images, given as PIL images or paths.

        Raises ValueError for an image that cannot be read, and for classes that the method cannot
        score.
        """
        with self._on(images, classes) as (part, forwards):
            rows = [out.logits().float().softmax(dim=-1).cpu() for out in forwards(POOLED)]
        return Prediction(part.class_names, torch.cat(rows))

    def class_texts(
        self, classes: ClassesGiven = None, images: Sequence[ImageGiven] = ()
    ) -> Tensor:
        """Unit texts (C, D) as the run scores with them, after its refiner.

        They are (N, C, D) for a method whose texts depend on the image, which needs ``images``.
        """
        height, width = self._built.model.method.clip.spec.image_size
        shown = images or [Image.new("RGB", (width, height))]
        with self._on(shown, classes) as (_, forwards):
            rows = [F.normalize(out.text.float(), dim=-1).cpu() for out in forwards(POOLED)]
        if rows[0].dim() == 2:
            return rows[0]
        if not images:
            raise ValueError(
                f"the texts of {self.record.variant} depend on the image: give images=[...]"
            )
        return torch.cat(rows)

    def attention(self, images: Sequence[ImageGiven]) -> Tensor:
        """Where the class token of the image tower looks: (N, rows, columns), a share per patch.

        Raises ValueError for a method that gives none.
        """
        method = self._built.model.method
        if "attention" not in method.provides:
            raise ValueError(f"{type(method).__name__} gives no attention of its images")
        need = LOCAL_FIELDS & method.provides
        with self._on(images, "base") as (_, forwards):
            found = [out.attention for out in forwards(need) if out.attention is not None]
        attention_NP = torch.cat([attention_BP.float().cpu() for attention_BP in found])
        rows, columns = method.clip.spec.grid
        return attention_NP.reshape(-1, rows, columns)

    def memory(self) -> Memory | None:
        """The slots of the refiner's cache (M, D), and their labels where they have some; None
        where it has no cache.
        """
        return self._built.model.refiner.memory()

    def evaluate(self, dataset: str = "", classes: str = "") -> list[Evaluation]:
        """Score the test images again: those of its protocol, or of ``classes`` ("all", "base" or
        "new") of another dataset, as the command ``evaluate`` does.
        """
        return rescore(self._built, dataset, classes, self._runtime)

    @contextmanager
    def _on(
        self, images: Sequence[ImageGiven], classes: ClassesGiven
    ) -> Iterator[tuple[Dataset, Callable[[frozenset[str]], Iterator[Forward]]]]:
        """The images as a dataset of these classes, and what the model says of them in batches."""
        if isinstance(images, ImageGiven) or not len(images):
            raise ValueError("images must be a list of PIL images or paths with at least one")
        part = self._dataset(tuple(images), classes)
        with torch.no_grad(), scoring(self._built, part):
            yield part, partial(self._forwards, part)

    def _dataset(self, images: tuple[ImageGiven, ...], classes: ClassesGiven) -> Dataset:
        own = self._built.dataset
        wanted = "all" if classes is None else classes
        subset = next((s for s in get_args(ClassSubset) if s == wanted), None)
        if subset is not None:
            names = class_subset(own, subset).class_names
        elif isinstance(wanted, str) or not len(wanted):
            raise ValueError(
                f"classes must be 'all' (the default), 'base', 'new' or names, got {classes!r}"
            )
        else:
            names = tuple(wanted)
        if len(set(names)) < len(names):
            raise ValueError(f"the names of classes must differ, got {names}")
        items = tuple(Item(str(number), 0) for number in range(len(images)))
        return Dataset(
            name="own images",
            class_names=names,
            template=own.template,
            train=(),
            val=(),
            test=items,
            reader=GivenImages(images),
        )

    def _forwards(self, part: Dataset, need: frozenset[str]) -> Iterator[Forward]:
        """What the model says of the images, batch by batch in their order."""
        built, method = self._built, self._built.model.method
        scale: Any = method.clip.scale
        low, high = built.settings.crop_scale
        source = PixelSource(method.clip, scale.device, scale.dtype, crop_scale=(low, high))
        views = TestViews(method.test_views, built.seeds.at("test", part.name))
        size = 1 if method.adapts_to == "stream" else min(CHUNK, method.eval_batch_size)
        batches = source.evaluation(part, part.test, size, test_views=views)
        with method.texts_once():
            asked = (replace(batch, need=need) for batch in batches)
            yield from (out for _, out in outputs(built.model, asked))


def load_run(
    folder: Path | str,
    *,
    runs: Path | str = "runs",
    data_root: Path | str | None = None,
    device: str = "cpu",
    plugins: Sequence[str] = (),
    allow_changed: bool = False,
    allow_outside_files: bool = False,
) -> LoadedRun:
    """A finished run with its learned weights.

    ``runs`` is the folder whose cache is used, ``plugins`` is code that the run needs and that was
    not run here before. Raises ValueError as the command ``evaluate`` does: for data, weights or
    plug-ins that are not those of the record, unless ``allow_changed``.
    """
    place = Path(folder)
    runtime = runtime_of(runs, data_root, device)
    load_plugins(plugins)
    record = read_finished(place)
    with called_from_python():
        load_stored_plugins(place, runtime.cache_dir, allow_changed=allow_changed)
        check_named_files(place, runtime, allow_outside=allow_outside_files)
        built = reload(place, runtime, allow_changed=allow_changed)
    return LoadedRun(place, built, record, runtime)


def runtime_of(runs: Path | str, data_root: Path | str | None, device: str) -> Runtime:
    """The runtime that the options of a command describe."""
    return Runtime(
        cache_dir=(Path(runs) / CACHE_FOLDER).absolute(),
        data_root=None if data_root is None else Path(data_root),
        device=device,
    )
