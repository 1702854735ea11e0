"""Tables with one tensor row per path, on disk as immutable shards named by their sha256.

A shard is a safetensors file with ``values`` (N, ...), ``paths``, the UTF-8 bytes of a JSON list of
N texts, and ``checksums`` (N + 1,), the CRC-32 of every row together with its path, and of the list
of paths. Its name is the sha256 of the whole file, so that whoever has all of it can tell whether
it is whole; safetensors notices neither truncation within a tensor nor flipped bits. A reader that
wants some of the rows reads the list and these rows alone: a folder holds those of all seeds.
Shards of an earlier version have no checksums, and are read and compared as a whole.
"""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from core.finite import not_finite
from core.store.atomic import write_atomic

SUFFIX = ".safetensors"
_STALE_SECONDS = 3600.0
_HEADER_BYTES = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

log = logging.getLogger(__name__)


class TensorShards:
    """The rows of one folder of shards: those that this process has in memory, and the places of
    the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._row_of: dict[str, tuple[int, int]] = {}  # chunk and row
        self._chunks: list[Tensor] = []
        self._shards: dict[str, _RowShard] = {}
        self._place_of: dict[str, tuple[str, int]] = {}  # shard and row

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(chunk.nbytes for chunk in self._chunks)

    def missing(self, paths: Iterable[str]) -> set[str]:
        """The paths without a row in memory."""
        return {path for path in paths if path not in self._row_of}

    def load(self, paths: Sequence[str], *, drop_corrupt: bool) -> set[str]:
        """Read the rows of these paths that are not in memory yet, whichever process wrote them;
        returns the paths that have none.

        A corrupt shard is skipped, and with ``drop_corrupt`` (only under the lock: another process
        may be replacing it) also deleted with a one-line warning.
        """
        wanted = self.missing(paths)
        if not wanted:
            return wanted
        self._refresh(drop_corrupt=drop_corrupt)
        rows_of: dict[str, dict[str, int]] = {}
        for path in dict.fromkeys(paths):
            if path in wanted and path in self._place_of:
                name, row = self._place_of[path]
                rows_of.setdefault(name, {})[path] = row
        for name, rows in rows_of.items():
            shard = self._shards[name]
            try:
                values = shard.read(list(rows), list(rows.values()))
                self._check_shape(values)
            except FileNotFoundError:  # the cache was deleted meanwhile
                self._forget(name)
            except (OSError, ValueError) as error:
                if drop_corrupt:
                    _drop(shard.file, error)
                    self._forget(name)
            else:
                self._keep(list(rows), values)
        return self.missing(wanted)

    def append(self, paths: Sequence[str], values: Tensor) -> None:
        """Keep rows in memory and write them as one new shard; if that fails, warn and continue
        without.
        """
        self._check_shape(values)
        self._keep(paths, values)
        data = _to_bytes(paths, values)
        name = hashlib.sha256(data).hexdigest() + SUFFIX
        try:
            write_atomic(self.folder / name, data)
        except OSError as error:
            log.warning("features are not cached, %s cannot be written (%s)", self.folder, error)

    def gather(self, paths: Sequence[str], *, keep: bool = True) -> Tensor:
        """A fresh tensor with the rows of ``paths``, in order; all must be in memory.

        Without ``keep`` the table forgets every row on the way, so that they are not there twice.
        """
        places = [self._row_of[path] for path in paths]
        if not keep and len(self._chunks) == 1 and _is_whole(places, self._chunks[0]):
            (whole,) = self._chunks
            self.clear()
            return whole
        place_N2 = np.array(places, np.int64)
        made = self._chunks[0].new_empty(len(paths), *self._chunks[0].shape[1:])
        for number, chunk in enumerate(self._chunks):
            (found,) = np.nonzero(place_N2[:, 0] == number)
            rows = torch.from_numpy(place_N2[found, 1])
            made[torch.from_numpy(found)] = chunk.index_select(0, rows)
            if not keep:
                self._chunks[number] = chunk.new_empty(0)
        if not keep:
            self.clear()
        return made

    def clear(self) -> None:
        """Keep no row in memory."""
        self._row_of, self._chunks = {}, []

    def remove_leftovers(self) -> None:
        """Delete temporary files that killed writers left an hour ago or earlier."""
        for file in self.folder.glob(f".*{SUFFIX}.*"):
            try:
                if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()
            except OSError:
                continue  # already gone, or no permission to delete: harmless either way

    def _refresh(self, *, drop_corrupt: bool) -> None:
        """Read the lists of the shards that appeared since the last call."""
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            if file.name in self._shards:
                continue
            try:
                shard = _RowShard(file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if drop_corrupt:
                    _drop(file, error)
                continue
            self._shards[file.name] = shard
            for row, path in enumerate(shard.paths):
                self._place_of.setdefault(path, (file.name, row))

    def _forget(self, name: str) -> None:
        del self._shards[name]
        self._place_of = {
            path: (other, row)
            for other, shard in self._shards.items()
            for row, path in enumerate(shard.paths)
        }

    def _check_shape(self, values: Tensor) -> None:
        if self._chunks and self._chunks[0].shape[1:] != values.shape[1:]:
            raise ValueError(f"rows of shape {tuple(values.shape[1:])} do not fit the table")

    def _keep(self, paths: Sequence[str], values: Tensor) -> None:
        number = len(self._chunks)
        self._chunks.append(values)
        for row, path in enumerate(paths):
            self._row_of.setdefault(path, (number, row))


class _RowShard:
    """The list of one file. Raises ValueError for one that is not a shard."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("rb", buffering=0) as raw:
            size = file.stat().st_size
            length = int.from_bytes(_read_at(raw, 0, _HEADER_BYTES), "little")
            if length > size:
                raise ValueError("it is too short")
            try:
                header = json.loads(_read_at(raw, _HEADER_BYTES, length))
                self._start = _HEADER_BYTES + length
                listing = _read_at(raw, *self._range(header["paths"]))
                checksums = b""
                if "checksums" in header:
                    checksums = _read_at(raw, *self._range(header["checksums"]))
                self.paths: list[str] = json.loads(listing)
                about = header["values"]
                self.dtype, self.shape = _DTYPES[about["dtype"]], tuple(about["shape"])
                self._values_start, nbytes = self._range(about)
                end = max(sum(self._range(header[name])) for name in header if name[0] != "_")
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise ValueError(f"not a shard: {error}") from error
        if not isinstance(self.paths, list) or len(self.paths) != self.shape[0]:
            raise ValueError(f"{self.shape[0]} rows do not fit its list of paths")
        self.checksums: list[int] = np.frombuffer(checksums, np.int64).tolist()
        self._row_bytes = nbytes // max(len(self.paths), 1)
        self._is_whole = False  # whether a shard without checksums was compared with its name
        if end != size or nbytes != self.dtype.itemsize * int(np.prod(self.shape)):
            raise ValueError(f"its size of {size} bytes does not match its header")
        if checksums and self.checksums[len(self.paths) :] != [zlib.crc32(listing)]:
            raise ValueError("its list of paths does not match the checksum")

    def read(self, paths: Sequence[str], rows: Sequence[int]) -> Tensor:
        """The values of some rows, in order. Raises ValueError where they are not those that were
        written.
        """
        if not self.checksums and not self._is_whole:
            self._check_whole()
        made = np.empty((len(rows), self._row_bytes), np.uint8)
        with self.file.open("rb", buffering=0) as raw:
            for places in _runs(rows):
                first = rows[places[0]]
                start = self._values_start + first * self._row_bytes
                data = _read_at(raw, start, len(places) * self._row_bytes)
                made[places] = np.frombuffer(data, np.uint8).reshape(len(places), -1)
        values = torch.from_numpy(made).view(-1).view(self.dtype).view(-1, *self.shape[1:])
        if not_finite({"values": values}) is not None:
            raise ValueError("it holds numbers that are not finite")
        for path, row, its_bytes in zip(paths, rows, made, strict=True):
            if self.checksums and self.checksums[row] != _checksum(path, its_bytes):
                raise ValueError("the checksum of a row does not match")
        return values

    def _check_whole(self) -> None:
        data = self.file.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.file.name.removesuffix(SUFFIX):
            raise ValueError(f"checksum of its {len(data)} bytes does not match its name")
        self._is_whole = True

    def _range(self, about: Any) -> tuple[int, int]:
        """Where a tensor begins in the file, and its bytes."""
        start, end = about["data_offsets"]
        return self._start + start, end - start


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Some bytes of a file. Raises ValueError where it ends before."""
    file.seek(start)
    pieces, left = [], size
    while left:
        piece = file.read(left)
        if not piece:
            raise ValueError(f"it ends {left} bytes too early")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _runs(rows: Sequence[int]) -> Iterator[list[int]]:
    """Places of rows that follow each other, in their order in the file."""
    run: list[int] = []
    for place in sorted(range(len(rows)), key=rows.__getitem__):
        if run and rows[place] != rows[run[-1]] + 1:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _is_whole(places: Sequence[tuple[int, int]], chunk: Tensor) -> bool:
    return len(places) == len(chunk) and all(row == n for n, (_, row) in enumerate(places))


def _to_bytes(paths: Sequence[str], values: Tensor) -> bytes:
    text = json.dumps(list(paths)).encode()
    listing = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
    raw = values.contiguous().view(len(paths), -1).view(torch.uint8).numpy()
    checksums = [_checksum(path, row) for path, row in zip(paths, raw, strict=True)]
    sums = torch.tensor([*checksums, zlib.crc32(text)], dtype=torch.int64)
    tensors = {"values": values.contiguous(), "paths": listing, "checksums": sums}
    data: bytes = save(tensors)
    return data


def _checksum(path: str, row: Any) -> int:
    return zlib.crc32(row, zlib.crc32(path.encode("utf-8", "surrogatepass")))


def _drop(file: Path, error: Exception) -> None:
    log.warning("dropped the corrupt feature shard %s (%s); recomputing", file, error)
    try:
        file.unlink(missing_ok=True)
    except OSError as problem:
        log.warning("%s cannot be deleted (%s)", file, problem)
