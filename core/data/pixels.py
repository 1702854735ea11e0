"""Decoding many pictures at once: a thread pool (Pillow lets other threads run while it decodes and
resizes).

Shapes: N images, H x W the transform's output size.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from core.data.dataset import Dataset, ImageReader, Item
from core.data.transforms import Transform

MAX_THREADS = 8


def load_pixels(
    dataset: Dataset,
    items: Sequence[Item],
    transform: Transform,
    *,
    seeds: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """All pictures as one float32 (N, 3, H, W) tensor, in item order; the result does not depend on
    the threads.

    ``seeds`` gives the generator of each item's augmentation. Raises ValueError for no items, for
    seeds that do not match the items, or for a picture that cannot be read.
    """
    batches = iter_pixels(
        dataset, items, transform, batch_size=len(items), seeds=seeds, num_threads=num_threads
    )
    return next(batches)


def iter_pixels(
    dataset: Dataset,
    items: Sequence[Item],
    transform: Transform,
    *,
    batch_size: int,
    seeds: Sequence[int] | None = None,
    num_threads: int | None = None,
) -> Iterator[Tensor]:
    """The same pictures in batches (B, 3, H, W) of ``batch_size``, the last one shorter.

    While one batch is in use the next is being decoded; never more than two are in memory.
    ``num_threads`` defaults to the processors this process may use, at most 8; 1 decodes without
    threads. Arguments are checked at once.
    """
    if not items:
        raise ValueError("no items to load; the list of images is empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if seeds is not None and len(seeds) != len(items):
        raise ValueError(f"{len(seeds)} seeds for {len(items)} items; give one seed an item")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more, got {num_threads}")
    threads = min(num_threads or _processors(), len(items))
    jobs = [(item.path, None if seeds is None else seeds[n]) for n, item in enumerate(items)]
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    return _decode(dataset.reader, transform, batches, threads)


_Job = tuple[str, int | None]


def _decode(
    reader: ImageReader, transform: Transform, batches: Sequence[Sequence[_Job]], threads: int
) -> Iterator[Tensor]:
    if threads == 1:
        for batch in batches:
            yield torch.stack([_one(reader, transform, job) for job in batch])
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    waiting: deque[list[Future[Tensor]]] = deque()
    try:
        for batch in batches:
            waiting.append([pool.submit(_one, reader, transform, job) for job in batch])
            if len(waiting) > 1:
                yield torch.stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield torch.stack([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one(reader: ImageReader, transform: Transform, job: _Job) -> Tensor:
    path, seed = job
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return transform(reader.read(path), generator)


def _processors() -> int:
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(MAX_THREADS, available)
