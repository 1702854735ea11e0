"""Packed prompts: no row is padding, every row sees what it should, and the texts are those of
padded prompts, as are their gradients.
"""

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.clip.deep_prompts import LeadingPrompts
from core.clip.frozen import FrozenCLIP
from core.clip.packing import MASK_ALIGNMENT, NOBODY, Packing
from core.clip.prompt_families import CHUNK_ROWS, FAMILY_ROWS
from core.clip.prompts import ContextPrompts
from core.types import ClassNames
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.tiny_clip import shared_tiny_clip, tiny_clip

POSITIONS = ["end", "middle", "front"]
LENGTHS = {
    "many short": [2, 3, 3, 4, 5, 9] * 20,
    "all alike": [5] * 60,
    "longer than a chunk": [70, 3, 68, 2, 2],
    "hard to fill": [40, 41, 43] * 6,
    "one": [4],
    "nothing of their own": [0, 0, 3, 0],
    "nothing at all": [0, 0],
    "exactly three chunks": [CHUNK_ROWS // 2] * 6,
}


def names(count: int, seed: int) -> ClassNames:
    """Names of one to nine letters, a token each."""
    rng = random.Random(seed)
    letters = ["".join(rng.choices("bcdfgkqxz", k=rng.randint(1, 9))) for _ in range(count)]
    return ClassNames(names=tuple(letters))


def seeded(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def double_clip() -> FrozenCLIP:
    return tiny_clip().double()


def check_same(fast: Tensor, slow: Tensor, *inputs: Tensor) -> None:
    """Equal values and gradients."""
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)
    weights = torch.randn(
        fast.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    found = torch.autograd.grad((fast * weights).sum(), inputs)
    expected = torch.autograd.grad((slow * weights).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


def apart(own: list[int], prefix: int) -> list[list[int]]:
    """Prompts with so many tokens of their own behind a prefix."""
    return [
        [*range(prefix), *(1000 * (1 + n) + at for at in range(length))]
        for n, length in enumerate(own)
    ]


def alike(count: int, seed: int) -> list[list[int]]:
    """Prompts behind two common tokens, of which many begin alike, some are the beginning of
    others, and some are there twice.
    """
    rng = random.Random(seed)
    return [[8, 9, *rng.choices(range(3), k=rng.randint(1, 9))] for _ in range(count)]


def num_common(tokens: list[list[int]]) -> int:
    return next(
        (at for at, some in enumerate(zip(*tokens, strict=False)) if len({*some}) > 1),
        min(map(len, tokens)),
    )


def last(tokens: list[list[int]]) -> list[int]:
    return [len(own) - 1 for own in tokens]


SETS = {
    **{f"{name}, prefix {p}": apart(own, p) for name, own in LENGTHS.items() for p in (1, 4)},
    "families": alike(60, 0),
    "large families": alike(400, 1),
    "few that are alike": alike(5, 2),
    "one family": [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3]],
    "nothing in common": [[n] * 3 for n in range(60)],
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tokens", SETS.values(), ids=SETS)
def test_every_prompt_has_its_rows_in_one_chunk(tokens: list[list[int]], shared: bool) -> None:
    packing = Packing(tokens, last(tokens), shared=shared)
    head, (_, number, height) = packing.head, packing.chunks
    assert packing.prefix == (num_common(tokens) if shared else 0)
    assert sum(packing.sizes) == packing.rows == head + number * height and head > 0
    largest = max(map(len, tokens)) - packing.prefix
    assert height < max(4 * CHUNK_ROWS / 3, largest + 1)
    assert head <= packing.prefix + 2 * max(4 * CHUNK_ROWS / 3, largest)
    for n, own in enumerate(tokens):
        rows = [packing.row(n, at) for at in range(packing.prefix, len(own))]
        assert None not in rows and packing.row(n, len(own)) is None
        assert len({row // head if row < head else 1 + (row - head) // height for row in rows}) <= 1
        assert packing.read_C[n] == packing.row(n, len(own) - 1)
        for at, row in enumerate(rows, start=packing.prefix):  # a row is that of its own token
            owner, position = int(packing.prompt_R[row]), int(packing.position_R[row])
            assert position == at and tokens[owner][: at + 1] == own[: at + 1]


@pytest.mark.parametrize("tokens", SETS.values(), ids=SETS)
def test_no_row_is_there_twice_but_in_families_that_would_be_too_large(tokens) -> None:
    packing = Packing(tokens, last(tokens))
    places = list(zip(packing.prompt_R.tolist(), packing.position_R.tolist(), strict=True))
    real = [place for place in places if place[0] != NOBODY]
    assert len(set(real)) == len(real)
    distinct = {tuple(own[: at + 1]) for own in tokens for at in range(len(own))}
    every = sum(len(own) - packing.prefix for own in tokens) + packing.prefix
    assert len(distinct) <= len(real) <= every
    if len(distinct) <= FAMILY_ROWS:
        assert len(real) == len(distinct)
    apart = Packing(tokens, last(tokens), shared=False)
    assert (apart.prompt_R != NOBODY).sum() == sum(map(len, tokens))


def test_prompts_that_begin_alike_share_their_rows() -> None:
    tokens = alike(400, 1)
    packing = Packing(tokens, last(tokens))
    assert 3 * packing.rows < sum(map(len, tokens))


def test_class_names_as_long_as_those_of_imagenet_fill_their_chunks() -> None:
    rng = random.Random(0)
    tokens = apart([rng.choice([3, 3, 3, 4, 4, 5, 6, 7, 9, 14]) for _ in range(1000)], prefix=5)
    packing = Packing(tokens, last(tokens))
    assert (packing.prompt_R == NOBODY).sum() <= 0.01 * packing.rows
    assert abs(packing.chunks.height - CHUNK_ROWS) <= CHUNK_ROWS / 3


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", ["many short, prefix 4", "families", "hard to fill, prefix 1"])
def test_masks_show_what_a_prompt_begins_with_up_to_the_row(name: str, groups: int) -> None:
    tokens = SETS[name]
    packing = Packing(tokens, last(tokens))
    start, number, height = packing.chunks
    assert number
    masks = packing.on(torch.device("cpu")).masks(torch.float64, groups)
    head = list(range(packing.head))
    found = [(head, head, masks.head)]
    assert masks.chunks is not None
    assert len(masks.chunks) == (groups * number if number > 1 else 1)
    for place, mask in enumerate(masks.chunks[:, 0]):
        own = [start + place % number * height + row for row in range(height)]
        found.append((own, [*range(packing.prefix), *own], mask))
    seen = {place: set(row) for place, row in beginnings(tokens, packing).items()}
    for queries, keys, mask in found:
        for query, row in zip(queries, mask, strict=True):
            shown = {key for key, value in zip(keys, row.tolist(), strict=True) if value == 0}
            hidden = [value for value in row.tolist() if value != 0]
            assert set(hidden) <= {float("-inf")}
            if packing.prompt_R[query] != NOBODY:
                assert shown == seen[query]
            assert query in shown


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_masks_begin_where_attention_takes_them_without_a_copy(groups, read):
    tokens = SETS["families"]
    masks = (
        Packing(tokens, last(tokens))
        .on(torch.device("cpu"))
        .masks(torch.float32, groups, read=read)
    )
    for mask in (masks.head, masks.chunks):
        assert mask.shape[-1] % MASK_ALIGNMENT and mask.stride(-2) % MASK_ALIGNMENT == 0


def beginnings(tokens: list[list[int]], packing: Packing) -> dict[int, list[int]]:
    """The rows up to each row, from the first token of its prompt on."""
    found: dict[int, list[int]] = {}
    for n, own in enumerate(tokens):
        rows = [packing.row(n, at) for at in range(len(own))]
        for at, row in enumerate(rows):
            assert found.setdefault(row, rows[: at + 1]) == rows[: at + 1]
    return found


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (7, 2), (40, 3)])
def test_texts_of_contexts_are_those_of_padded_prompts(count, seed, position):
    clip = double_clip()
    prompts = ContextPrompts(clip, names(count, seed), placeholder="X X X", position=position)
    width = clip.spec.text_width
    ctx, own, groups = seeded(3, width), seeded(count, 3, width), seeded(2, 3, width)

    def padded(one: Tensor) -> Tensor:
        return clip.encode_text(prompts.assemble(one), prompts.eot_C)

    check_same(prompts.encode(clip, ctx), padded(ctx), ctx)
    check_same(prompts.encode(clip, own), padded(own), own)
    slow = torch.stack([padded(one) for one in groups])
    check_same(prompts.encode_groups(clip, groups), slow, groups)
    if count == 40:
        assert all(prompts.packing(some).chunks.number for some in ("context", "tokens"))


@pytest.mark.parametrize("position", POSITIONS)
def test_whole_prompts_are_the_tokens_with_the_context_in_its_slots(position):
    clip = double_clip()
    classes = names(20, seed=3)
    prompts = ContextPrompts(clip, classes, placeholder="X X X", position=position)
    _, slots_CL, _ = prompts._on_host
    tokens_CLW = clip.embed_tokens(prompts.ids_CL)
    places_CL1 = (slots_CL >= 0)[..., None]
    shared, each = seeded(3, clip.spec.text_width), seeded(20, 3, clip.spec.text_width)
    indexed = shared[slots_CL.clamp(min=0)]
    check_same(prompts.assemble(shared), torch.where(places_CL1, indexed, tokens_CLW), shared)
    every_C1 = torch.arange(20)[:, None]
    indexed = each[every_C1, slots_CL.clamp(min=0)]
    check_same(prompts.assemble(each), torch.where(places_CL1, indexed, tokens_CLW), each)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("of_classes", [False, True])
def test_no_gradient_of_prompts_is_added_through_an_index(position, of_classes):
    """Not even of names that are there twice, whose rows are computed once."""
    clip = tiny_clip()
    classes = ClassNames(names=(*names(6, seed=3).names, "dog", "dog", "dog cat"))
    shape = (*([9] if of_classes else []), 3, clip.spec.text_width)
    with PretendedCuda(ROOT) as gpu:
        clip = clip.to("cuda")
        prompts = ContextPrompts(clip, classes, placeholder="X X X", position=position)
        prompts.packing("tokens" if of_classes else "context").on(clip.scale.device)
        ctx = seeded(*shape).detach().float().to("cuda").requires_grad_()
        slots = prompts._slots(clip, "tokens" if of_classes else "context")
        made = [prompts.assemble(ctx)]
        made.append(slots.filled_each(ctx) if of_classes else slots.filled(ctx[None]))
        before = gpu.calls.copy()
        for some in made:
            torch.autograd.backward(some.sum())
        calls = gpu.calls - before
    assert not gpu.unordered and not gpu.mixed
    added = {"index_put", "index_put_", "_index_put_impl_", "index_add", "index_add_"}
    added |= {"scatter_add", "scatter_add_", "embedding_dense_backward"}
    assert calls and not {f"aten::{name}" for name in added} & calls.keys()


@pytest.mark.parametrize("position", POSITIONS)
def test_losses_and_gradients_are_the_same_in_single_precision(position):
    clip = shared_tiny_clip()
    prompts = ContextPrompts(clip, names(50, 4), placeholder="X X X", position=position)
    start = seeded(3, clip.spec.text_width).float().detach()
    found = []
    for packed in (True, False):
        ctx = start.clone().requires_grad_()
        text = prompts.encode(clip, ctx) if packed else None
        if text is None:
            text = clip.encode_text(prompts.assemble(ctx), prompts.eot_C)
        logits = F.normalize(text, dim=-1) @ F.normalize(text, dim=-1).detach().t()
        loss = F.cross_entropy(20 * logits, torch.arange(50).flip(0))
        found.append((loss, *torch.autograd.grad(loss, ctx)))
    (loss, gradient), (expected, its) = found
    assert abs(loss - expected) <= 1e-6 * abs(expected)
    assert (gradient - its).norm() <= 1e-4 * its.norm()


class OnLead:
    """Mixes the tokens 1..n of a sequence with the n behind them, before every block but one."""

    def __init__(self, num: int, amount: Tensor) -> None:
        self.num, self.amount = num, amount
        self.seen: list[tuple[int, ...]] = []

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        self.seen.append(tuple(x_BLW.shape))
        if layer == 0:
            return x_BLW
        stop = 1 + self.num
        mixed = x_BLW[:, 1:stop] + self.amount * x_BLW[:, stop : stop + self.num]
        return torch.cat([x_BLW[:, :1], mixed, x_BLW[:, stop:]], dim=1)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_hooks_on_every_prompt_see_its_first_tokens(count):
    clip = double_clip()
    prompts = ContextPrompts(clip, names(count, 5), placeholder="X X X", min_length=7)
    ctx, amount = seeded(3, clip.spec.text_width), seeded(1, seed=2)
    packed, whole = OnLead(3, amount), OnLead(3, amount)
    fast = prompts.encode_each(clip, ctx, packed)
    slow = clip.encode_text(prompts.assemble(ctx), prompts.eot_C, whole)
    check_same(fast, slow, ctx, amount)
    assert set(packed.seen) == {(count, 7, clip.spec.text_width)}
    assert len(packed.seen) == len(whole.seen) == clip.spec.text_depth
    plain = clip.encode_text(prompts.assemble(ctx), prompts.eot_C)
    assert (fast - plain).abs().max() > 1e-6


@pytest.mark.parametrize("count", [1, 40])
def test_deep_prompts_enter_the_shared_prefix(count):
    clip = double_clip()
    prompts = ContextPrompts(clip, names(count, 6), placeholder="X X X")
    ctx, deep = seeded(3, clip.spec.text_width), seeded(3, clip.spec.text_width, seed=2)
    hook = LeadingPrompts([ctx, deep])
    slow = clip.encode_text(prompts.assemble(ctx), prompts.eot_C, hook)
    check_same(prompts.encode(clip, ctx, hook), slow, ctx, deep)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_plain_texts_are_those_of_padded_texts(count):
    clip = double_clip()
    texts = names(count, 7).prompts()
    ids = clip.tokenizer(texts)
    whole = clip.encode_text(clip.embed_tokens(ids), clip.read_positions(ids))
    torch.testing.assert_close(clip.encode_texts(texts), whole, atol=1e-12, rtol=1e-12)
    for shared in (True, False):
        found = clip.encode_ids(ids, clip.pack(ids, shared=shared))
        torch.testing.assert_close(found, whole, atol=1e-12, rtol=1e-12)
    prefix = clip.pack(ids).prefix
    assert prefix == 0 if count < 40 else prefix >= len(clip.tokenizer.encode("a photo of a"))
    assert clip.pack(ids, shared=False).prefix == 0


def test_names_that_are_all_alike_are_computed_once():
    clip = double_clip()
    prompts = ContextPrompts(clip, ClassNames(names=("cat",) * 3), placeholder="X X")
    ctx = seeded(2, clip.spec.text_width)
    assert prompts.rows_per_group == int(prompts.eot_C[0]) + 1
    slow = clip.encode_text(prompts.assemble(ctx), prompts.eot_C)
    check_same(prompts.encode(clip, ctx), slow, ctx)


def rows_of_products(monkeypatch, call) -> list[int]:
    """The number of rows of each product with a frozen matrix."""
    rows: list[int] = []
    linear = F.linear

    def counted(x: Tensor, *args: Any) -> Tensor:
        rows.append(x.numel() // x.shape[-1])
        return linear(x, *args)

    monkeypatch.setattr(F, "linear", counted)
    call()
    return rows


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_layers_see_no_padding_and_at_the_end_only_what_is_read(monkeypatch, groups):
    clip, count = shared_tiny_clip(), 40
    classes = names(count, 8)
    prompts = ContextPrompts(clip, classes, placeholder="X X")
    ctx = torch.zeros(groups, 2, clip.spec.text_width)
    rows = rows_of_products(monkeypatch, lambda: prompts.encode_groups(clip, ctx))
    tokens = [
        len(clip.tokenizer.encode(name)) + len(clip.tokenizer.encode(".")) for name in classes.names
    ]
    depth = clip.spec.text_depth
    packing = prompts.packing("context")
    every = packing.rows
    assert every < sum(3 + length + 1 for length in tokens) - count
    asked = groups * sum(rows_K.numel() for rows_K in packing.asked)
    assert groups * count <= asked < groups * every / 2
    assert rows.count(groups * every) == 4 * (depth - 1) + 1
    assert rows.count(groups * count) + (asked > groups * count) == len(rows) - 4 * (depth - 1) - 1
    assert rows.count(asked) >= 1 and rows.count(groups * count) >= 3
    assert prompts.rows_per_group == every


def test_a_thousand_classes_need_few_calls(monkeypatch):
    clip = shared_tiny_clip()
    prompts = ContextPrompts(clip, names(1000, 9), placeholder="X X X X")
    calls: list[int] = []
    attend = F.scaled_dot_product_attention

    def counted(*args: Any, **settings: Any) -> Tensor:
        calls.append(len(args[0]))
        return attend(*args, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        found = prompts.encode(clip, torch.zeros(4, clip.spec.text_width))
    assert len(calls) == 2 * clip.spec.text_depth
    monkeypatch.undo()
    some = ContextPrompts(clip, ClassNames(names=names(1000, 9).names[:3]), placeholder="X X X X")
    alone = some.encode(clip, torch.zeros(4, clip.spec.text_width))
    torch.testing.assert_close(found[:3], alone, atol=1e-5, rtol=1e-5)


def test_masks_and_rows_are_made_once():
    clip = shared_tiny_clip()
    prompts = ContextPrompts(clip, names(40, 3), placeholder="X X")
    ctx = torch.zeros(2, clip.spec.text_width)
    with torch.inference_mode():
        prompts.encode(clip, ctx)
    first = prompts.packing("context").on(ctx.device).masks(torch.float32, 1)
    ctx.requires_grad_()
    prompts.encode(clip, ctx).sum().backward()  # nothing of it is an inference tensor
    again = prompts.packing("context").on(ctx.device).masks(torch.float32, 1)
    assert first.head is again.head and first.chunks is again.chunks is not None
