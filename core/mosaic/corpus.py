"""The images and captions that the embedded model is trained on, drawn by several processes into
one folder.

Image ``i`` depends on the seed and ``i`` only. The corpus is kept as chunk files, written
atomically: interrupted drawing continues where it stopped.
"""

import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.clip.tokenizer import Tokenizer
from core.mosaic.architecture import CONTEXT_LENGTH
from core.mosaic.canvas import IMAGE_SIZE
from core.mosaic.captions import write_caption
from core.mosaic.classes import HELD_OUT
from core.mosaic.model import tokenizer
from core.mosaic.renderer import RENDERER_VERSION, image_generator, render_sample
from core.mosaic.world import (
    COLORS,
    FAMILIES,
    ITEMS,
    TERRAINS,
    Action,
    Conditions,
    Land,
    Look,
    Subject,
    Surface,
    family_of,
    name_of,
    sample_subject,
)

CAPTIONS = 4  # per image: the first two detailed, the others sparse
CHUNK = 2000
FAMILY_WEIGHTS = (0.28, 0.20, 0.15, 0.12, 0.13, 0.12)
CONDITIONS = Conditions(
    size=(0.45, 0.95),
    rotation=0.6,
    clutter=(0, 5),
    occlusion=0.12,
    styles=(
        ("normal", 0.62),
        ("blurry", 0.07),
        ("dark", 0.08),
        ("noisy", 0.07),
        ("faded", 0.08),
        ("sketch", 0.08),
    ),
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Captioned images.

    ``images`` (N, 48, 48, 3) uint8; ``captions`` (N, 4, 32) uint16 token ids; ``family`` (N,)
    uint8, an index into ``FAMILIES``; ``bucket`` (N,) uint8, the attribute that is easiest to see
    (a color, a terrain, an item).
    """

    images: NDArray[np.uint8]
    captions: NDArray[np.uint16]
    family: NDArray[np.uint8]
    bucket: NDArray[np.uint8]


def sample_pretraining_subject(rng: np.random.Generator) -> Subject:
    """A subject of any family that is not a class of any dataset."""
    draw = float(rng.random())
    index = int(np.searchsorted(np.cumsum(FAMILY_WEIGHTS), draw, side="right"))
    family = FAMILIES[min(index, len(FAMILIES) - 1)]
    while True:
        subject = sample_subject(family, rng)
        if name_of(subject) not in HELD_OUT:
            return subject


def bucket_of(subject: Subject) -> int:
    """The index of the subject's most visible attribute within its kind."""
    match subject:
        case Land():
            return TERRAINS.index(subject.terrain)
        case Action():
            return [*ITEMS, ""].index(subject.item)
        case Surface():
            return COLORS.index(subject.colours[0])
    return COLORS.index(subject.colour)


def draw_corpus(
    folder: Path,
    *,
    num_images: int,
    seed: int,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Draw the missing ones of the first ``num_images`` images and read them all.

    ``folder`` holds the chunk files; ``progress`` receives the number of images done and the total
    after each chunk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, num_images, CHUNK)
    jobs = [(folder, seed, start, min(CHUNK, num_images - start)) for start in starts]
    missing = [job for job in jobs if not _chunk_path(*job).is_file()]
    done = len(jobs) - len(missing)
    for _ in _run(missing, processes):
        done += 1
        if progress is not None:
            progress(min(done * CHUNK, num_images), num_images)
    return _read(jobs, num_images)


_Job = tuple[Path, int, int, int]


def _run(jobs: Sequence[_Job], processes: int) -> Iterator[None]:
    if processes <= 1 or len(jobs) <= 1:
        yield from map(_draw_chunk, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_draw_chunk, jobs)


def _chunk_path(folder: Path, seed: int, start: int, count: int) -> Path:
    return folder / f"v{RENDERER_VERSION}-seed{seed}-{start:07d}-{count}.npz"


def _draw_chunk(job: _Job) -> None:
    _folder, seed, start, count = job
    bpe = tokenizer()
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    captions = np.zeros((count, CAPTIONS, CONTEXT_LENGTH), np.uint16)
    family, bucket = np.empty(count, np.uint8), np.empty(count, np.uint8)
    for k in range(count):
        rng = image_generator("mosaic", "pretraining", seed, start + k)
        subject = sample_pretraining_subject(rng)
        images[k], look = render_sample(subject, CONDITIONS, rng)
        captions[k] = _caption_ids(subject, look, rng, bpe)
        family[k], bucket[k] = FAMILIES.index(family_of(subject)), bucket_of(subject)
    path = _chunk_path(*job)
    part = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(part, images=images, captions=captions, family=family, bucket=bucket)
    os.replace(part, path)


def _caption_ids(
    subject: Subject, look: Look, rng: np.random.Generator, bpe: Tokenizer
) -> NDArray[np.uint16]:
    """Token ids of four captions; one that does not fit the context is regenerated."""
    ids = np.zeros((CAPTIONS, CONTEXT_LENGTH), np.uint16)
    for row in range(CAPTIONS):
        tokens = [0] * CONTEXT_LENGTH
        while len(tokens) > CONTEXT_LENGTH - 2:
            tokens = bpe.encode(write_caption(subject, look, rng, detailed=row < 2))
        ids[row, : len(tokens) + 2] = [bpe.sot_id, *tokens, bpe.eot_id]
    return ids


def _read(jobs: Sequence[_Job], num_images: int) -> Corpus:
    corpus = Corpus(
        np.empty((num_images, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        np.empty((num_images, CAPTIONS, CONTEXT_LENGTH), np.uint16),
        np.empty(num_images, np.uint8),
        np.empty(num_images, np.uint8),
    )
    for job in jobs:
        _, _, start, count = job
        try:
            with np.load(_chunk_path(*job)) as chunk:
                for name in ("images", "captions", "family", "bucket"):
                    getattr(corpus, name)[start : start + count] = chunk[name]
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"the corpus chunk {_chunk_path(*job)} is not readable ({error}); "
                "delete it and rerun the command"
            ) from error
    return corpus
