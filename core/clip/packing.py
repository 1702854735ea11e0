"""Which rows of a list of prompts a causal text tower computes, and how they are packed.

A row is one token of one prompt. Nothing behind a prompt's last row that is read can change it, so
that only the rows up to there are computed, and what prompts begin with alike is computed once: by
all of them as their prefix, by some of them in a family. All rows are kept in one matrix: the
linear layers run on it as it is, and attention sees it in chunks of whole families, in which a mask
shows each row what its prompt begins with.

Letters: G prompt groups, C prompts, L tokens of the longest one, P prefix rows, R rows of a group,
K chunks, T rows of a chunk, X anything. The rows of a group are its prefix, the rest of its head,
and its chunks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.clip.prompt_families import PromptFamily, families_of, filled, num_common

SHARED = -1  # the prompt of a prefix row
NOBODY = -2  # the prompt of a row that fills a chunk
# A mask whose rows begin at multiples of this many numbers is used by a GPU without a copy.
MASK_ALIGNMENT = 16


class Chunks(NamedTuple):
    """``number`` times ``height`` rows of a group, from row ``start`` on."""

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
    """The rows of C prompts of which each is a sequence of tokens up to its last row that matters.

    Prompts that begin with the same ``tokens`` share those rows, unless not ``shared``, or with
    ``lead``. ``read`` is the position of each prompt whose output is its feature. Every group of
    prompts is packed alike: its head has the prefix in front and the families of up to two chunks,
    the others fill chunks of one height to the last row or nearly so. A hook sees the prefix, or
    the first ``lead`` tokens of every prompt.
    """

    @torch.inference_mode(False)  # what is kept may be needed in training
    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        read: Sequence[int],
        *,
        lead: int = 0,
        shared: bool = True,
    ) -> None:
        lengths = [len(own) for own in tokens]
        assert all(0 <= at < length for at, length in zip(read, lengths, strict=True))
        assert lead <= min(lengths)
        self.shared = shared and not lead
        self.prompts, self.length, self.lead = len(lengths), max(lengths), lead
        self.prefix = prefix = num_common(tokens) if self.shared else 0
        if self.shared:
            families = families_of(tokens, range(len(tokens)), prefix, prefix)
        else:
            families = [PromptFamily((n,), length) for n, length in enumerate(lengths)]
        head, chunks = filled(families)
        height = max((sum(family.rows for family in chunk) for chunk in chunks), default=0)
        self._owner_CL = torch.full((self.prompts, self.length), SHARED)
        place = [(SHARED, position) for position in range(prefix)]
        place += [one for family in head for one in self._rows(tokens, family)]
        self.head = len(place)
        self.chunks = Chunks(self.head, len(chunks), height)
        for chunk in chunks:
            own = [one for family in chunk for one in self._rows(tokens, family)]
            place += own + [(NOBODY, 0)] * (height - len(own))
        self.rows = len(place)
        self.prompt_R, self.position_R = torch.tensor(place).reshape(-1, 2).unbind(dim=1)
        self._row_of = {one: row for row, one in enumerate(place)}
        self.read_C = torch.tensor([self._row_of[self._place(*one)] for one in enumerate(read)])
        self.asked = self._asked_of(Chunks(0, 1, self.head)), self._asked_of(self.chunks)
        leading = [self._row_of[n, at] for n in range(len(tokens)) for at in range(lead)]
        self.lead_N = torch.tensor(leading, dtype=torch.int64)
        token_R = self.prompt_R.clamp(min=0) * self.length + self.position_R
        self.tokens = PackedRows(token_R, (self.prompts, self.length))
        self._placed: dict[torch.device, Placement] = {}

    def _rows(self, tokens: Sequence[Sequence[int]], family: PromptFamily) -> list[tuple[int, int]]:
        """The first prompt and the position of each row of a family. Notes whose rows they are."""
        first: dict[tuple[int, ...], int] = {}
        for n in family.prompts:
            own = tuple(tokens[n])
            for position in range(self.prefix, len(own)):
                owner = first.setdefault(own[: position + 1], n)
                self._owner_CL[n, position] = owner
        assert len(first) == family.rows
        return [(owner, len(beginning) - 1) for beginning, owner in first.items()]

    @property
    def sizes(self) -> list[int]:
        """How many rows of a group are in its head and, if there are any, in its chunks."""
        return [self.head, self.chunks.rows] if self.chunks.number else [self.head]

    def _place(self, prompt: int, position: int) -> tuple[int, int]:
        """The prompt that a token's row belongs to, and its position."""
        return int(self._owner_CL[prompt, position]), position

    def _asked_of(self, kind: Chunks) -> Tensor:
        """The rows (K, Q) of each sequence that are read, and its first row where others have
        more.
        """
        read = sorted(set(self.read_C.tolist()))
        starts = [kind.start + n * kind.height for n in range(kind.number)]
        found = [[row for row in read if 0 <= row - start < kind.height] for start in starts]
        most = max([1, *map(len, found)])
        asked = [
            own + [start] * (most - len(own)) for own, start in zip(found, starts, strict=True)
        ]
        return torch.tensor(asked, dtype=torch.int64).reshape(kind.number, most)

    def row(self, prompt: int, position: int) -> int | None:
        """The row of a token of a prompt; None where it is not computed."""
        if not 0 <= position < self.length:
            return None
        return self._row_of.get(self._place(prompt, position))

    def mask(self, query_KT: Tensor, key_KX: Tensor, dtype: torch.dtype) -> Tensor:
        """(K, T, X): a row sees what its prompt begins with, up to itself."""
        position, its = self.position_R[key_KX][:, None], self.prompt_R[key_KX][:, None]
        mine = self.prompt_R[query_KT].clamp(min=0)[:, :, None]
        seen = self._owner_CL[mine, position] == its
        seen &= self.position_R[query_KT][:, :, None] >= position
        seen |= query_KT[:, :, None] == key_KX[:, None]  # of a row that is nobody's, itself alone
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))

    def on(self, device: torch.device) -> "Placement":
        """Indices and masks on a device, made once."""
        if device not in self._placed:
            self._placed[device] = Placement(self, device)
        return self._placed[device]


class Masks(NamedTuple):
    """What is added to scores, 0 where a row is seen: the head's (L, L), and the chunks' (K, 1, T,
    P + T), None without any; of rows that are read alone, with Q of them in place of L and T.

    Additive, since attention would convert a boolean mask to numbers in every call.
    """

    head: Tensor
    chunks: Tensor | None


class Reads(NamedTuple):
    """The rows of all groups that are read, sequence by sequence: their ``rows``, how many are in
    the heads and in the chunks (``sizes``), and the place of each prompt's row among them, group by
    group (``places``).
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
        self.all_rows = None if packing.shared else self.tokens
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
            [len(some) for some in rows][: len(packing.sizes)],
            torch.tensor(places).to(self.device),
        )

    @torch.inference_mode(False)
    def _made(self, dtype: torch.dtype, groups: int, read: bool) -> Masks:
        packing = self.packing
        head, asked = packing.asked
        every = torch.arange(packing.head)[None]
        first = _aligned(packing.mask(head if read else every, every, dtype)[0], self.device)
        if not packing.chunks.number:
            return Masks(first, None)
        own = _rows_of(packing.chunks)
        prefix = torch.arange(packing.prefix).expand(len(own), -1)
        mask = packing.mask(asked if read else own, torch.cat([prefix, own], dim=1), dtype)
        if len(mask) > 1:  # one serves all groups
            mask = mask.repeat(groups, 1, 1)
        return Masks(first, _aligned(mask[:, None], self.device))


def _of_groups(sizes: Sequence[int], groups: int) -> Tensor:
    """The row of each row of a group (G, R) among those of all groups, as ``grouped`` has them."""
    rows = torch.arange(groups * sum(sizes)).split([groups * size for size in sizes])
    return torch.cat([part.reshape(groups, -1) for part in rows], dim=1)


def _aligned(mask: Tensor, device: torch.device) -> Tensor:
    """A mask on a device, with rows that begin where attention takes them as they are."""
    width = -(-mask.shape[-1] // MASK_ALIGNMENT) * MASK_ALIGNMENT
    room = torch.empty(*mask.shape[:-1], width, dtype=mask.dtype, device=device)
    return room[..., : mask.shape[-1]].copy_(mask)


def grouped(rows_GRX: Tensor, packing: Packing) -> Tensor:
    """The rows of all groups (G R, X): the heads of all, then the chunks of all, so that both are
    views.
    """
    if len(rows_GRX) == 1 or not packing.chunks.number:
        return rows_GRX.flatten(0, 1)
    return torch.cat([part.flatten(0, 1) for part in rows_GRX.split(packing.sizes, dim=1)])


def _rows_of(chunks: Chunks) -> Tensor:
    """The rows of a group that are in each chunk: (K, T)."""
    rows = torch.arange(chunks.start, chunks.start + chunks.rows)
    return rows.reshape(chunks.number, chunks.height)
