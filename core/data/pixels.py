"""Decoding many images at once, or ahead of time: in the threads of one pool a process (Pillow lets
other threads run while it decodes and resizes).

Shapes: N images, H x W the transform's output size.
"""

import functools
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from core.data.dataset import Dataset, ImageReader, Item
from core.data.transforms import Transform
from core.machine import share_of_cores

MAX_THREADS = 16  # more of them wait for each other between images
AHEAD_BYTES = 64 * 2**20
_STACKED = 256  # images held in memory twice while one large tensor is filled
_JOBS_PER_CALL = 8  # decoding a small image takes less time than passing it to a thread


def load_pixels(
    dataset: Dataset,
    items: Sequence[Item],
    transform: Transform,
    *,
    seeds: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """All images as one float32 (N, 3, H, W) tensor, in item order, independent of the threads.

    ``seeds`` gives the generator of each item's augmentation. Raises ValueError for no items, for
    seeds that do not match the items, or for an unreadable image.
    """
    batches = iter_pixels(
        dataset, items, transform, batch_size=_STACKED, seeds=seeds, num_threads=num_threads
    )
    first = next(batches)
    pixels_NCHW = first.new_empty(len(items), *first.shape[1:])
    start = 0
    for batch in chain([first], batches):
        pixels_NCHW[start : start + len(batch)] = batch
        start += len(batch)
    return pixels_NCHW


def iter_pixels(
    dataset: Dataset,
    items: Sequence[Item],
    transform: Transform,
    *,
    batch_size: int,
    seeds: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Iterator[Tensor]:
    """The same images in batches (B, 3, H, W) of ``batch_size``, the last one shorter.

    While one batch is in use, the next is decoded; at most two are in memory. ``num_threads``
    defaults to this process's share of the processors, at most 16; 1 decodes without threads.
    Arguments are checked immediately.
    """
    _check(items, seeds)
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more, got {num_threads}")
    threads = min(num_threads or _threads(), -(-min(batch_size, len(items)) // _JOBS_PER_CALL))
    jobs = _jobs(items, seeds)
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    return _decode(dataset.reader, transform, batches, threads)


class PixelsAhead:
    """A batch that is being decoded while something else is done; as ``load_pixels``. ``key`` says
    which images these are.

    Where this process has one processor it is decoded when it is asked for. What fails, fails then.
    """

    def __init__(
        self,
        dataset: Dataset,
        items: Sequence[Item],
        transform: Transform,
        *,
        seeds: Sequence[int] | None = None,
        key: Hashable = None,
    ) -> None:
        _check(items, seeds)
        self.key = key
        self._decode = functools.partial(_some, dataset.reader, transform)
        self._jobs = _jobs(items, seeds)
        self._pieces: list[Future[list[Tensor]]] = []
        if (threads := _threads()) > 1:
            size = min(-(-len(self._jobs) // threads), _JOBS_PER_CALL)
            pieces = (self._jobs[n : n + size] for n in range(0, len(self._jobs), size))
            self._pieces = [_pool(os.getpid(), threads).submit(self._decode, p) for p in pieces]

    def wait(self, *, pinned: bool = False) -> Tensor:
        """The images (N, 3, H, W) in item order, if asked for in pinned memory."""
        pieces = [piece.result() for piece in self._pieces] or [self._decode(self._jobs)]
        images = [image for piece in pieces for image in piece]
        if not pinned:
            return torch.stack(images)
        first = images[0]
        made = torch.empty(len(images), *first.shape, dtype=first.dtype, pin_memory=True)
        return torch.stack(images, out=made)

    def cancel(self) -> None:
        """Do not begin what has not begun."""
        for piece in self._pieces:
            piece.cancel()


def decoded_ahead(
    indices: Sequence[Tensor],
    decode: Callable[[Tensor], PixelsAhead],
    image_bytes: int,
    *,
    least: int = 0,
    cancel: bool = True,
) -> Iterator[tuple[Tensor, PixelsAhead]]:
    """The pixels of each batch of images; the next ones, ``least`` at least, are decoded while one
    is in use.
    """
    waiting: deque[PixelsAhead] = deque()
    try:
        for place, index in enumerate(indices):
            begun = place + num_begun(len(index), image_bytes, least=least)
            waiting += [decode(later) for later in indices[place + len(waiting) : begun]]
            yield index, waiting.popleft()
    finally:
        for batch in waiting if cancel else ():
            batch.cancel()


def map_images(
    reader: ImageReader, function: Callable[..., "_Made"], paths: Sequence[str]
) -> list["_Made"]:
    """``function(image)`` of every path, in order, in the threads of the pool."""

    def some(piece: Sequence[str]) -> list[_Made]:
        return [function(reader.read(path)) for path in piece]

    if (threads := _threads()) == 1:
        return some(paths)
    pieces = [paths[n : n + _JOBS_PER_CALL] for n in range(0, len(paths), _JOBS_PER_CALL)]
    return [made for piece in _pool(os.getpid(), threads).map(some, pieces) for made in piece]


_Job = tuple[str, int | None]
_Made = TypeVar("_Made")


def num_begun(batch_size: int, image_bytes: int, *, least: int = 0) -> int:
    """How many batches are decoded at a time: the one that is in use, and one more, or as many as
    keep every thread at work; fewer, but ``least``, where they take more than ``AHEAD_BYTES``.
    """
    ahead = min(-(-_threads() // batch_size), AHEAD_BYTES // (batch_size * image_bytes))
    return 1 + max(ahead, least)


def _check(items: Sequence[Item], seeds: Sequence[int] | None) -> None:
    if not items:
        raise ValueError("no items to load; the list of images is empty")
    if seeds is not None and len(seeds) != len(items):
        raise ValueError(f"got {len(seeds)} seeds for {len(items)} items; give one seed per item")


def _jobs(items: Sequence[Item], seeds: Sequence[int] | None) -> list[_Job]:
    return [(item.path, None if seeds is None else seeds[n]) for n, item in enumerate(items)]


def _threads() -> int:
    return min(MAX_THREADS, share_of_cores())


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The pool of this process: one that was forked has no threads of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")


def _decode(
    reader: ImageReader, transform: Transform, batches: Sequence[Sequence[_Job]], threads: int
) -> Iterator[Tensor]:
    if threads == 1:
        for batch in batches:
            yield torch.stack(_some(reader, transform, batch))
        return
    pool = _pool(os.getpid(), threads)
    waiting: deque[list[Future[list[Tensor]]]] = deque()
    try:
        for batch in batches:
            pieces = (batch[n : n + _JOBS_PER_CALL] for n in range(0, len(batch), _JOBS_PER_CALL))
            waiting.append([pool.submit(_some, reader, transform, piece) for piece in pieces])
            if len(waiting) > 1:
                yield _joined(waiting.popleft())
        while waiting:
            yield _joined(waiting.popleft())
    finally:
        for piece in chain.from_iterable(waiting):
            piece.cancel()


def _joined(pieces: Sequence[Future[list[Tensor]]]) -> Tensor:
    return torch.stack([image for piece in pieces for image in piece.result()])


def _some(reader: ImageReader, transform: Transform, jobs: Sequence[_Job]) -> list[Tensor]:
    return [_one(reader, transform, job) for job in jobs]


def _one(reader: ImageReader, transform: Transform, job: _Job) -> Tensor:
    path, seed = job
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return transform(reader.read(path), generator)
