"""Which rows of a list of prompts a causal text tower computes, and how they are packed.

A row is one token of one prompt. Nothing behind a prompt's last row that is read can change it, so
that only the rows up to there are computed, and what all prompts begin with is computed once. All
rows are kept in one matrix, without padding: the linear layers run on it as it is, and attention
sees it in chunks of whole prompts, in which a mask keeps the prompts apart.

Letters: G prompt groups, C prompts, P prefix rows, R rows of a group, K chunks, T rows of a chunk,
X anything. The rows of a group are its prefix, the rest of its head, and its chunks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Scores cost more with higher chunks, calls with more of them: 24 to 64 are within 5 % of each
# other on one CPU core (ViT-B/16's text tower, 50 classes); up to 96 rows are fastest in one chunk.
CHUNK_ROWS = 48
SHARED = -1  # the prompt of a prefix row
# A mask whose rows begin at multiples of this many numbers is used by a GPU without a copy.
MASK_ALIGNMENT = 16


class Chunks(NamedTuple):
    """Chunks of one height: ``number`` times ``height`` rows of a group, from row ``start`` on."""

    start: int
    number: int
    height: int

    @property
    def rows(self) -> int:
        return self.number * self.height


class PackedRows(NamedTuple):
    """Rows (R,) of the tokens of C prompts of L tokens, prompt by prompt."""

    index_R: Tensor
    shape: tuple[int, int]

    def of(self, x_CLX: Tensor) -> Tensor:
        """The rows (R, X)."""
        return x_CLX.flatten(0, 1).index_select(0, self.index_R)

    def to(self, device: torch.device) -> "PackedRows":
        """The same on a device."""
        return PackedRows(self.index_R.to(device), self.shape)


class Packing:
    """The rows of C prompts of which prompt c keeps its first ``lengths[c]`` tokens, and the first
    ``prefix`` tokens of all are one.

    ``read`` is the position of each prompt whose output is its feature. Every group of prompts is
    packed alike. The prompts of a chunk fill it to its last row; those left over, of up to two
    chunks, make the head, which has the prefix in front of them. A hook sees the prefix, or without
    one the first ``lead`` tokens of every prompt.
    """

    @torch.inference_mode(False)  # what is kept may be needed in training
    def __init__(
        self,
        lengths: Sequence[int],
        read: Sequence[int],
        *,
        prefix: int = 0,
        lead: int = 0,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        assert all(0 <= at < length for at, length in zip(read, lengths, strict=True))
        assert lead <= min(lengths) and not (prefix and lead)
        self.prompts, self.length, self.lead = len(lengths), max(lengths), lead
        self.prefix = prefix = min(prefix, self.length)
        own = [max(length - prefix, 0) for length in lengths]
        left, filled = _chunks_of(own, chunk_rows)
        self.head = prefix + sum(own[prompt] for prompt in left)
        order, start = list(left), self.head
        chunks: list[Chunks] = []
        for height, members in filled.items():
            chunks.append(Chunks(start, len(members), height))
            start += chunks[-1].rows
            order += [prompt for chunk in members for prompt in chunk]
        self.chunks = tuple(chunks)
        self.rows = start
        place = [(SHARED, position) for position in range(prefix)]
        place += [(n, prefix + offset) for n in order for offset in range(own[n])]
        self.prompt_R, self.position_R = torch.tensor(place).reshape(-1, 2).unbind(dim=1)
        row_of = {one: row for row, one in enumerate(place)}
        self.read_C = torch.tensor(
            [row_of[(SHARED if at < prefix else n, at)] for n, at in enumerate(read)]
        )
        self.asked = tuple(self._asked_of(kind) for kind in (Chunks(0, 1, self.head), *self.chunks))
        leading = [row_of[n, at] for n in range(self.prompts if lead else 0) for at in range(lead)]
        self.lead_N = torch.tensor(leading, dtype=torch.int64)
        self._row_of = row_of
        token_R = self.prompt_R.clamp(min=0) * self.length + self.position_R
        self.tokens = PackedRows(token_R, (self.prompts, self.length))
        self._placed: dict[torch.device, Placement] = {}

    @property
    def sizes(self) -> list[int]:
        """How many rows of a group are in its head and in the chunks of each height."""
        return [self.head, *(chunks.rows for chunks in self.chunks)]

    def _asked_of(self, kind: Chunks) -> Tensor:
        """The rows (K, Q) of each sequence that are read, and its first row where others have
        more.
        """
        read = sorted(set(self.read_C.tolist()))
        starts = range(kind.start, kind.start + kind.rows, kind.height)
        found = [[row for row in read if 0 <= row - start < kind.height] for start in starts]
        most = max(1, *map(len, found))
        return torch.tensor(
            [own + [start] * (most - len(own)) for own, start in zip(found, starts, strict=True)]
        )

    def row(self, prompt: int, position: int) -> int | None:
        """The row of a token of a prompt; None where it is not computed."""
        return self._row_of.get((SHARED if position < self.prefix else prompt, position))

    def mask(self, query_KT: Tensor, key_KX: Tensor, dtype: torch.dtype) -> Tensor:
        """(K, T, X): a row sees the prefix and its own prompt, both up to itself."""
        mine, its = self.prompt_R[query_KT][:, :, None], self.prompt_R[key_KX][:, None]
        seen = (mine == its) | (its == SHARED)
        seen &= self.position_R[query_KT][:, :, None] >= self.position_R[key_KX][:, None]
        width = -(-seen.shape[-1] // MASK_ALIGNMENT) * MASK_ALIGNMENT
        mask = torch.zeros(*seen.shape[:-1], width, dtype=dtype)[..., : seen.shape[-1]]
        return mask.masked_fill_(~seen, float("-inf"))

    def on(self, device: torch.device) -> "Placement":
        """Indices and masks on a device, made once."""
        if device not in self._placed:
            self._placed[device] = Placement(self, device)
        return self._placed[device]


class Masks(NamedTuple):
    """What is added to scores, 0 where a row is seen: the head's (L, L), and (K, 1, T, P + T) of
    the chunks of each height; of rows that are read alone, with Q of them in place of L and T.

    Additive, since attention would convert a boolean mask to numbers in every call.
    """

    head: Tensor
    chunks: tuple[Tensor, ...]


class Reads(NamedTuple):
    """The rows of all groups that are read, sequence by sequence: their ``rows``, how many are in
    the heads and in the chunks of each height (``sizes``), and the place of each prompt's row among
    them, group by group (``places``).
    """

    rows: Tensor
    sizes: list[int]
    places: Tensor


class Placement:
    """A packing on a device: the prompt, position and token of each row, and where what is read
    and what hooks see is.
    """

    @torch.inference_mode(False)
    def __init__(self, packing: Packing, device: torch.device) -> None:
        self.packing, self.device = packing, device
        self.position_R = packing.position_R.to(device)
        self.tokens = packing.tokens.to(device)
        self.all_rows = None if packing.prefix else self.tokens
        self.lead_N = packing.lead_N.to(device)
        self._masks: dict[tuple[torch.dtype, int, bool], Masks] = {}
        self._reads: dict[int, Reads] = {}
        self._read_GC: dict[int, Tensor] = {}

    def masks(self, dtype: torch.dtype, groups: int, *, read: bool = False) -> Masks:
        """The masks of a dtype, for all chunks of some groups; of the rows that are ``read`` alone,
        or of all.
        """
        key = dtype, groups, read
        if key not in self._masks:
            self._masks[key] = self._made(*key)
        return self._masks[key]

    @torch.inference_mode(False)
    def read_GC(self, groups: int) -> Tensor:
        """The row of each prompt's feature among the rows of all groups."""
        if groups not in self._read_GC:
            row_GR = _of_groups(self.packing.sizes, groups)
            self._read_GC[groups] = row_GR[:, self.packing.read_C].to(self.device)
        return self._read_GC[groups]

    def reads(self, groups: int) -> Reads:
        """The rows of all groups that are read."""
        if groups not in self._reads:
            self._reads[groups] = self._found(groups)
        return self._reads[groups]

    @torch.inference_mode(False)
    def _found(self, groups: int) -> Reads:
        packing = self.packing
        row_GR = _of_groups(packing.sizes, groups)
        rows = [row_GR[:, asked.flatten()].flatten() for asked in packing.asked]
        place_of = {row: n for n, row in enumerate(torch.cat(rows).tolist())}
        places = [place_of[row] for row in row_GR[:, packing.read_C].flatten().tolist()]
        return Reads(
            torch.cat(rows).to(self.device),
            [len(some) for some in rows],
            torch.tensor(places).to(self.device),
        )

    @torch.inference_mode(False)
    def _made(self, dtype: torch.dtype, groups: int, read: bool) -> Masks:
        head = torch.arange(self.packing.head)[None]
        rows = [_rows_of(chunks) for chunks in self.packing.chunks]
        prefix = torch.arange(self.packing.prefix)
        seen = [torch.cat([prefix.expand(len(own), -1), own], dim=1) for own in rows]
        first, *others = self.packing.asked if read else (head, *rows)
        chunks = [
            _repeated(self.packing.mask(*pair, dtype)[:, None].to(self.device), groups)
            for pair in zip(others, seen, strict=True)
        ]
        return Masks(self.packing.mask(first, head, dtype)[0].to(self.device), tuple(chunks))


def _of_groups(sizes: Sequence[int], groups: int) -> Tensor:
    """The row of each row of a group (G, R) among those of all groups, as ``grouped`` has them."""
    rows = torch.arange(groups * sum(sizes)).split([groups * size for size in sizes])
    return torch.cat([part.reshape(groups, -1) for part in rows], dim=1)


def _repeated(mask_K1TX: Tensor, groups: int) -> Tensor:
    """A mask for the chunks of each group; one for all where all are alike."""
    return mask_K1TX if len(mask_K1TX) == 1 else mask_K1TX.repeat(groups, 1, 1, 1)


def grouped(rows_GRX: Tensor, packing: Packing) -> Tensor:
    """The rows of all groups (G R, X): the heads of all, then the chunks of all, height by height,
    so that each kind is a view.
    """
    if len(rows_GRX) == 1 or not packing.chunks:
        return rows_GRX.flatten(0, 1)
    return torch.cat([part.flatten(0, 1) for part in rows_GRX.split(packing.sizes, dim=1)])


def num_common(same_L: Tensor) -> int:
    """How many of the first positions are true."""
    return int(same_L.long().cumprod(0).sum())


def _rows_of(chunks: Chunks) -> Tensor:
    """The rows of a group that are in each chunk: (K, T)."""
    rows = torch.arange(chunks.start, chunks.start + chunks.rows)
    return rows.reshape(chunks.number, chunks.height)


def _chunks_of(
    lengths: Sequence[int], chunk_rows: int
) -> tuple[list[int], Mapping[int, list[list[int]]]]:
    """The prompts of the head, and the chunks of each height with their prompts.

    Chunks are as high as prompts can fill them, at most ``chunk_rows`` or the longest prompt.
    """
    waiting: dict[int, list[int]] = {}
    for prompt, length in enumerate(lengths):
        waiting.setdefault(length, []).append(prompt)
    empty = waiting.pop(0, [])
    room, rest = max(chunk_rows, *lengths), sum(lengths)
    found: dict[int, list[list[int]]] = {}
    while rest > 2 * room:
        pattern = _fullest({length: len(some) for length, some in waiting.items()}, room)
        height = sum(length * number for length, number in pattern.items())
        times = min(len(waiting[length]) // number for length, number in pattern.items())
        times = min(times, (rest - room - 1) // height)  # the head is never empty
        for _ in range(times):
            chunk = [waiting[n].pop(0) for n, number in pattern.items() for _ in range(number)]
            found.setdefault(height, []).append(chunk)
        rest -= times * height
    left = [prompt for length in sorted(waiting, reverse=True) for prompt in waiting[length]]
    return left + empty, found


def _fullest(available: Mapping[int, int], room: int) -> Mapping[int, int]:
    """How many prompts of each length make the highest chunk that fits; long ones first."""
    reached: dict[int, Counter[int]] = {0: Counter()}
    for length in sorted(available, reverse=True):
        for height, pattern in list(reached.items()):
            for number in range(1, min(available[length], (room - height) // length) + 1):
                reached.setdefault(height + number * length, pattern + Counter({length: number}))
        if room in reached:
            break
    return reached[max(reached)]
