"""Prompts that begin alike, in families that fill chunks.

Class names of one dataset often begin alike (the year of a car, the make of an aircraft, "a plain
brown ..."), so that a causal text tower computes the same rows for them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

# Scores cost more with higher chunks, calls with more of them: 24 to 64 are within 5 % of each
# other on one CPU core (ViT-B/16's text tower, 50 classes); up to 96 rows are fastest in one chunk.
CHUNK_ROWS = 48
# Prompts that begin alike are in one family up to so many rows. Larger ones fill chunks badly.
FAMILY_ROWS = 32
FEW_EMPTY = 0.02  # the share of empty rows that does not matter


class PromptFamily(NamedTuple):
    """Prompts that begin alike, and how many rows of their own they have together."""

    prompts: tuple[int, ...]
    rows: int


def num_common(tokens: Sequence[Sequence[int]]) -> int:
    """How many of their first tokens all prompts have in common."""
    for number, column in enumerate(zip(*tokens, strict=False)):
        if len(set(column)) > 1:
            return number
    return min(map(len, tokens))


def families_of(
    tokens: Sequence[Sequence[int]], members: Iterable[int], prefix: int, depth: int
) -> list[PromptFamily]:
    """Prompts that are alike up to ``depth``, in families of up to ``FAMILY_ROWS`` rows behind the
    prefix, or of one prompt.

    What a family too large has in common beyond the prefix is repeated in each of its parts.
    """

    def next_token(prompt: int) -> tuple[int, ...]:
        return tuple(tokens[prompt][depth : depth + 1])

    members, path = sorted(members, key=next_token), depth - prefix
    rows = {
        tuple(tokens[n][:stop]) for n in members for stop in range(prefix + 1, 1 + len(tokens[n]))
    }
    ended = all(len(tokens[n]) <= depth for n in members)
    if len(members) == 1 or ended or (path and len(rows) <= FAMILY_ROWS):
        return [PromptFamily(tuple(members), len(rows))]
    families: list[PromptFamily] = []
    for _, some in groupby(members, next_token):
        for family in families_of(tokens, some, prefix, depth + 1):
            together = families[-1].rows + family.rows - path if families else 0
            if path and families and together <= FAMILY_ROWS:
                family = PromptFamily(families.pop().prompts + family.prompts, together)
            families.append(family)
    return families


def filled(families: Sequence[PromptFamily]) -> tuple[list[PromptFamily], list[list[PromptFamily]]]:
    """The families of the head, and those of each chunk.

    Chunks have about ``CHUNK_ROWS`` rows, or those of the largest family: the next height that
    leaves few of them empty. What fills up to two chunks worst is the head.
    """
    largest = max(family.rows for family in families)
    heights = {max(height, largest) for height in range(2 * CHUNK_ROWS // 3, 4 * CHUNK_ROWS // 3)}
    sizes = Counter(family.rows for family in families)
    packed = {height: _split(_bins(sizes, height), height) for height in heights}
    step = max(1.0, FEW_EMPTY * sum(family.rows for family in families))
    height = min(heights, key=lambda h: (_num_empty(packed[h][1]) // step, abs(h - CHUNK_ROWS)))
    waiting: dict[int, list[PromptFamily]] = {}
    for family in families:
        waiting.setdefault(family.rows, []).append(family)
    head, chunks = packed[height]
    return (
        [waiting[size].pop(0) for one in head for size in one],
        [[waiting[size].pop(0) for size in chunk] for chunk in chunks],
    )


def _bins(sizes: Mapping[int, int], height: int) -> list[list[int]]:
    """Sizes in bins of a height, the largest that fit first."""
    left = Counter(sizes)
    found: list[list[int]] = []
    while left.total():
        room, one = height, list[int]()
        for size in sorted(left, reverse=True):
            number = min(left[size], room // size) if size else left[size]
            one += [size] * number
            room -= size * number
            left[size] -= number
        left = +left
        found.append(one)
    return found


def _split(bins: list[list[int]], height: int) -> tuple[list[list[int]], list[list[int]]]:
    """The emptiest bins, of at most twice the height together and at least one, and the others."""
    bins, together, number = sorted(bins, key=sum), 0, 0
    while number < len(bins) and (together := together + sum(bins[number])) <= 2 * height:
        number += 1
    return bins[:number], bins[number:]


def _num_empty(chunks: Sequence[Sequence[int]]) -> int:
    """How many rows of chunks as high as the fullest are empty."""
    filled = [sum(chunk) for chunk in chunks]
    return len(filled) * max(filled, default=0) - sum(filled)
