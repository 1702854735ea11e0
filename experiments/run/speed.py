"""The speed at which this machine decodes and encodes images and trains every method.

Timings are noisy, so compare the ratios within one call, not timings of different calls.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.clip.backbone import load_clip
from core.clip.catalog import MOSAIC
from core.data.catalog import load_dataset
from core.data.dataset import Dataset
from core.data.pixels import iter_pixels
from core.data.transforms import EvalTransform, TrainTransform, Transform
from core.machine import available_cores
from core.seeding import Seeds
from core.types import ClassNames
from experiments.configs import config_path, read_config_file
from experiments.run.run import Assembly, assemble, train
from experiments.run.runtime import Runtime
from methods.coop import CoOp

PHOTOGRAPH = (375, 500)  # typical height and width in these datasets
SIZE = (224, 224)
PRESETS = (
    "coop",
    "text_refiner",
    "cocoop",
    "ivlp",
    "promptsrc",
    "promptkd",
    "sep",
    "sep_released",
)
ONE_EPOCH = (
    "experiment.dataset='mosaic/vehicles'",
    "experiment.backbone='mosaic'",
    "experiment.batch_size=32",
    "experiment.num_views=0",
    "experiment.epochs=1",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Items per second, median over repetitions; ``ratio`` to the first of its group."""

    group: str
    name: str
    per_second: float
    ratio: float


Call = Callable[[], tuple[int, float]]
"""A timed action; returns the number of items and the seconds to count."""

Cases = Iterator[tuple[str, Call]]


def measure(runtime: Runtime, *, repetitions: int, images: int) -> Iterator[Speed]:
    """Yield every speed as soon as it is measured; the first call of each is a warm-up."""
    groups = {
        "decoding, images": _decoding(images),
        "image tower, images": _image_tower(runtime),
        "class texts, texts": _class_texts(runtime),
        "training, images": _training(runtime),
    }
    for group, cases in groups.items():
        first = 0.0
        for name, call in cases:
            call()
            found = [call() for _ in range(repetitions)]
            speed = statistics.median(count / seconds for count, seconds in found)
            first = first or speed
            yield Speed(group=group, name=name, per_second=speed, ratio=speed / first)


def _timed(count: int, work: Callable[[], object], device: str = "cpu") -> Call:
    """A timed action whose whole duration counts."""

    def call() -> tuple[int, float]:
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return count, time.perf_counter() - started

    return call


def _decoding(images: int) -> Cases:
    """JPEG files of a usual size to pixels, by one thread and by all."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _photographs(Path(folder), images)
        spec = replace(load_clip(MOSAIC).spec, image_size=SIZE)
        for threads in dict.fromkeys((1, available_cores())):
            for view, transform in (
                ("test", EvalTransform(spec)),
                ("augmented", TrainTransform(spec)),
            ):
                yield f"{view} view, threads: {threads}", _decode(dataset, transform, threads)


def decode_rate(images: int = 48) -> float:
    """Images of a usual size that one core decodes and augments in a second; the best of three."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _photographs(Path(folder), images)
        spec = replace(load_clip(MOSAIC).spec, image_size=SIZE)
        call = _decode(dataset, TrainTransform(spec), threads=1)
        found = [call() for _ in range(4)][1:]
        return max(count / seconds for count, seconds in found)


def _decode(dataset: Dataset, transform: Transform, threads: int) -> Call:
    items = (*dataset.train, *dataset.val, *dataset.test)

    def work() -> None:
        seeds = range(len(items))
        for _ in iter_pixels(
            dataset, items, transform, batch_size=32, seeds=seeds, num_threads=threads
        ):
            pass

    return _timed(len(items), work)


def _photographs(folder: Path, count: int) -> Dataset:
    """Smooth noise as JPEG: about as long to decode as a photograph of its size."""
    noise = np.random.default_rng(0)
    height, width = PHOTOGRAPH
    for number in range(count):
        small = noise.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        class_dir = folder / f"kind {number % 2}"
        class_dir.mkdir(parents=True, exist_ok=True)
        image.save(class_dir / f"{number}.jpg", quality=90)
    return load_dataset(f"folder/{folder}", root=None, cache_dir=folder / "cache")


def _image_tower(runtime: Runtime) -> Cases:
    """The embedded backbone without gradient: the global feature alone, and all that is kept."""
    clip = load_clip(MOSAIC).to(torch.device(runtime.device))
    pixels = torch.randn(128, 3, *clip.spec.image_size, device=runtime.device)
    for name, need in (("global", {"pooled"}), ("all fields", {"pooled", "local", "attention"})):

        @torch.no_grad()
        def work(need: frozenset[str] = frozenset(need)) -> None:
            clip.encode_image(pixels, need=need)

        yield name, _timed(len(pixels), work, runtime.device)


def _class_texts(runtime: Runtime) -> Cases:
    """100 class prompts: at full length, cut after the end token, and with a shared context."""
    clip = load_clip(MOSAIC).to(torch.device(runtime.device))
    classes = ClassNames(names=tuple(f"kind {number}" for number in range(100)))
    prompts = classes.prompts()
    method = CoOp(clip, classes, Seeds(0), ctx_init="a photo of a").to(runtime.device)
    ids = clip.tokenizer(prompts).to(runtime.device)
    ways: dict[str, Callable[[], object]] = {
        "whole": lambda: clip.encode_text(clip.embed_tokens(ids), ids.argmax(dim=-1)),
        "cut after the end token": lambda: clip.compute_texts(prompts),
        "with a shared context": method.class_texts,
    }
    for name, way in ways.items():
        yield name, _timed(len(prompts), torch.no_grad()(way), runtime.device)


def _training(runtime: Runtime) -> Cases:
    """One epoch of every method, on cached features or, where it changes the tower, on pixels."""
    for preset in PRESETS:
        config = read_config_file(config_path(preset), list(ONE_EPOCH))
        yield preset, partial(_epoch, assemble(config, runtime))


def _epoch(built: Assembly) -> tuple[int, float]:
    result = train(built, lambda epoch: None)
    return result.images, result.seconds
