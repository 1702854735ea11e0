"""Tables with one tensor row per path, on disk as immutable shards named by their sha256.

A shard is a safetensors file with ``values`` (N, ...) and ``paths``, the UTF-8 bytes of a JSON list
of N texts. Its name is the sha256 of the whole file, so that truncation and flipped bits (which
safetensors does not detect) are noticed on reading.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from core.finite import not_finite
from core.store.atomic import write_atomic

SUFFIX = ".safetensors"
_STALE_SECONDS = 3600.0

log = logging.getLogger(__name__)


class TensorShards:
    """The rows of one folder of shards that this process has in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._row_of: dict[str, int] = {}
        self._chunks: list[Tensor] = []
        self._seen: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def missing(self, paths: Iterable[str]) -> set[str]:
        """The paths without a row in memory."""
        return {path for path in paths if path not in self._row_of}

    def refresh(self, *, drop_corrupt: bool) -> None:
        """Read the shards that appeared since the last call.

        A corrupt shard is skipped, and with ``drop_corrupt`` (only under the lock: another process
        may be replacing it) also deleted with a one-line warning.
        """
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            if file.name in self._seen:
                continue
            try:
                self._keep(*_read(file))
            except FileNotFoundError:
                continue
            except ValueError as error:
                if not drop_corrupt:
                    continue
                log.warning("dropped the corrupt feature shard %s (%s); recomputing", file, error)
                _delete(file)
            self._seen.add(file.name)

    def append(self, paths: Sequence[str], values: Tensor) -> None:
        """Keep rows in memory and write them as one new shard; if that fails, warn and continue
        without.
        """
        self._keep(paths, values)
        data = _to_bytes(paths, values)
        name = hashlib.sha256(data).hexdigest() + SUFFIX
        try:
            write_atomic(self.folder / name, data)
            self._seen.add(name)
        except OSError as error:
            log.warning("features are not cached, %s cannot be written (%s)", self.folder, error)

    def gather(self, paths: Sequence[str]) -> Tensor:
        """A fresh tensor with the rows of ``paths``, in order; all must be in memory."""
        if len(self._chunks) > 1:
            self._chunks = [torch.cat(self._chunks)]
        rows = np.fromiter((self._row_of[path] for path in paths), np.int64, len(paths))
        return self._chunks[0].index_select(0, torch.from_numpy(rows))

    def remove_leftovers(self) -> None:
        """Delete temporary files that killed writers left an hour ago or earlier."""
        for file in self.folder.glob(f".*{SUFFIX}.*"):
            try:
                if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()
            except OSError:
                continue  # already gone, or no permission to delete: harmless either way

    def _keep(self, paths: Sequence[str], values: Tensor) -> None:
        start = sum(len(chunk) for chunk in self._chunks)
        if self._chunks and self._chunks[0].shape[1:] != values.shape[1:]:
            raise ValueError(f"rows of shape {tuple(values.shape[1:])} do not fit the table")
        self._chunks.append(values)
        for offset, path in enumerate(paths):
            self._row_of.setdefault(path, start + offset)


def _to_bytes(paths: Sequence[str], values: Tensor) -> bytes:
    text = json.dumps(list(paths)).encode()
    listing = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
    data: bytes = save({"values": values.contiguous(), "paths": listing})
    return data


def _read(file: Path) -> tuple[list[str], Tensor]:
    """Paths and values of a shard. Raises ValueError if its bytes do not match its name."""
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.name.removesuffix(SUFFIX):
        raise ValueError(f"checksum of its {len(data)} bytes does not match its name")
    try:
        tensors = load(data)
        paths = json.loads(tensors["paths"].numpy().tobytes())
        values = tensors["values"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"not a shard: {error}") from error
    if not isinstance(paths, list) or len(paths) != len(values):
        raise ValueError(f"{len(values)} rows do not fit its list of paths")
    if not_finite({"values": values}) is not None:
        raise ValueError("it holds numbers that are not finite")
    return paths, values


def _delete(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be deleted (%s)", file, error)
