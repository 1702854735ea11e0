"""The arithmetic of one training step: as released, and what no exact method can do without.

A multiply-add counts 2. Only matrix products and attention count. A frozen weight needs no
gradient, so that a product with it costs once in the forward pass and once in the backward pass;
attention costs twice as much backward as forward; a learned weight costs once more. The floor
computes what all classes share once, no padding, in the last block only the rows that are read,
and, where views are fixed, nothing of the frozen image tower.

Letters: B images, C classes, N context tokens, P patches, D joint width, W tower width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.clip.frozen import FrozenCLIP
from core.types import ClassNames

BACKWARD = 2  # a product with a frozen weight, forward and backward
LEARNED = 3  # a product with a learned weight
DEEP_PROMPTS, SEP_CTX, SEP_VISION_CTX, SEP_HIDDEN = 4, 6, 4, 256
GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerSize:
    """A transformer: its width, number of blocks and the ratio of its MLP."""

    width: int
    depth: int
    ratio: float = 4.0

    def products(self, rows: float) -> float:
        """One block's products for so many rows."""
        return rows * 2 * (4 + 2 * self.ratio) * self.width**2

    def last_products(self, rows: float, read: float) -> float:
        """Those of the last block: keys and values of all rows, the rest of those that are read."""
        return 2 * self.width**2 * (2 * rows + (2 + 2 * self.ratio) * read)

    def attention(self, pairs: float) -> float:
        """One block's scores and means for so many pairs of a query and a key."""
        return pairs * 4 * self.width

    def whole(self, rows: float, pairs: float, *, backward: bool) -> float:
        """All rows through all blocks."""
        products, attention = _factors(backward=backward)
        return self.depth * (products * self.products(rows) + attention * self.attention(pairs))

    def read(
        self, rows: float, pairs: float, read: float, read_pairs: float, *, backward: bool
    ) -> float:
        """All rows through all blocks but the last, which computes only the rows that are read."""
        products, attention = _factors(backward=backward)
        body = (self.depth - 1) * (
            products * self.products(rows) + attention * self.attention(pairs)
        )
        last = products * self.last_products(rows, read) + attention * self.attention(read_pairs)
        return body + last


def _factors(*, backward: bool) -> tuple[int, int]:
    return (BACKWARD, 3) if backward else (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """What the arithmetic of a step depends on.

    ``name_lengths`` are the tokens of each class name; behind it stand the full stop and the end
    token. ``teacher`` is what the teacher of PromptKD is.
    """

    text: TowerSize
    image: TowerSize
    joint_width: int
    context_length: int
    num_patches: int
    patch_values: int
    name_lengths: Sequence[int]
    batch_size: int
    teacher: "StepSize | None" = None

    @classmethod
    def of(
        cls, clip: FrozenCLIP, classes: ClassNames, batch_size: int, teacher: FrozenCLIP
    ) -> "StepSize":
        """The sizes of a step on a backbone."""
        taught_by = cls(**_sizes_of(teacher, classes, batch_size))
        return cls(**_sizes_of(clip, classes, batch_size), teacher=taught_by)

    @property
    def num_classes(self) -> int:
        return len(self.name_lengths)

    @property
    def suffixes(self) -> list[int]:
        """The tokens of each prompt behind its context, the end token among them."""
        return [length + 2 for length in self.name_lengths]

    # The image tower ---------------------------------------------------------------------------

    def images(self, *, prompts: int = 0, backward: bool = False, read: bool = True) -> float:
        """A batch through the image tower; ``read``: the last block for CLS alone."""
        length = 1 + self.num_patches + prompts
        rows, pairs = self.batch_size * length, self.batch_size * length**2
        head = self.batch_size * 2 * self.image.width * self.joint_width
        embed = self.batch_size * self.num_patches * 2 * self.patch_values * self.image.width
        if read:
            tower = self.image.read(rows, pairs, self.batch_size, rows, backward=backward)
        else:
            tower = self.image.whole(rows, pairs, backward=backward)
        return tower + embed + (BACKWARD if backward else 1) * head

    def token_heads(self) -> float:
        """The projection of every token of a batch into the joint space."""
        rows = self.batch_size * (1 + self.num_patches)
        return rows * 2 * self.image.width * self.joint_width

    # The text tower ----------------------------------------------------------------------------

    def whole_texts(self, *, backward: bool) -> float:
        """All class texts at full length."""
        rows, pairs = self.context_length, self.context_length**2
        one = self.text.whole(rows, pairs, backward=backward)
        return self.num_classes * (one + self._text_head(backward=backward))

    def shared_texts(self, num_ctx: int, *, backward: bool) -> float:
        """All class texts behind one context, which is computed once."""
        prefix = 1 + num_ctx
        rows = prefix + sum(self.suffixes)
        ends = [s * prefix + s * (s + 1) / 2 for s in self.suffixes]
        pairs = prefix * (prefix + 1) / 2 + sum(ends)
        read_pairs = sum(prefix + s for s in self.suffixes)
        tower = self.text.read(rows, pairs, self.num_classes, read_pairs, backward=backward)
        return tower + self.num_classes * self._text_head(backward=backward)

    def separate_texts(self, num_ctx: int, *, backward: bool) -> float:
        """All class texts each on its own, with as many tokens behind the context as in it."""
        lengths = [max(1 + num_ctx + s, 1 + 2 * num_ctx) for s in self.suffixes]
        pairs = sum(length * (length + 1) / 2 for length in lengths)
        tower = self.text.read(
            sum(lengths), pairs, self.num_classes, sum(lengths), backward=backward
        )
        return tower + self.num_classes * self._text_head(backward=backward)

    def _text_head(self, *, backward: bool) -> float:
        factor = BACKWARD if backward else 1
        return factor * 2 * self.text.width * self.joint_width

    # What methods add --------------------------------------------------------------------------

    def refiner(self) -> float:
        """TextRefiner: two layers over all tokens (the first needs no input gradient), the learned
        aggregation, and the rows that are scored.
        """
        rows, square = self.batch_size * (1 + self.num_patches), 2 * self.joint_width**2
        alignment = (2 + LEARNED) * rows * square
        aggregation = LEARNED * self.num_classes * 2 * square
        scored = LEARNED * 8 * self.batch_size * self.num_classes * 2 * self.joint_width
        return alignment + aggregation + scored

    def fusions(self, tower: TowerSize, num_ctx: int, sequences: int) -> float:
        """SEP's fusions before every block but the first."""
        rows = sequences * num_ctx
        layers = rows * 2 * (4 * tower.width**2 + 2 * tower.width * SEP_HIDDEN)
        pairs = num_ctx * sequences**2
        return (tower.depth - 1) * (LEARNED * layers + 3 * tower.attention(pairs))

    def projector(self) -> float:
        """PromptKD's projector."""
        assert self.teacher is not None
        own, other = self.joint_width, self.teacher.joint_width
        return LEARNED * self.batch_size * 2 * (own * other + other**2)

    def all_fusions(self) -> float:
        """SEP's fusions in both towers."""
        text = self.fusions(self.text, SEP_CTX, self.num_classes)
        return text + self.fusions(self.image, SEP_VISION_CTX, self.batch_size)


def _sizes_of(clip: FrozenCLIP, classes: ClassNames, batch_size: int) -> dict[str, Any]:
    spec, visual, text = clip.spec, clip.visual, clip.text
    convolution = visual.conv1.weight[0]
    return {
        "text": _tower(text, spec.text_width, spec.text_depth),
        "image": _tower(visual, spec.vision_width, spec.vision_depth),
        "joint_width": spec.joint_width,
        "context_length": spec.context_length,
        "num_patches": spec.num_patches,
        "patch_values": convolution.numel(),
        "name_lengths": [len(clip.tokenizer.encode(name)) for name in classes.names],
        "batch_size": batch_size,
    }


def _tower(tower: Any, width: int, depth: int) -> TowerSize:
    ratio = tower.transformer.resblocks[0].mlp[0].weight.shape[0] / width
    return TowerSize(width=width, depth=depth, ratio=ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArithmetic:
    """GFLOP of one training step: as released, and the floor for fresh and for fixed views."""

    released: float
    fresh: float
    fixed: float


def arithmetic(name: str, size: StepSize) -> StepArithmetic:
    """The arithmetic of a method's step."""
    released, fixed, encoded = ARITHMETIC[name](size)
    return StepArithmetic(
        released=released / GIGA, fresh=(fixed + encoded) / GIGA, fixed=fixed / GIGA
    )


Parts = tuple[float, float, float]
"""Released; the floor on fixed views; what fresh views add to it."""


def _coop(size: StepSize) -> Parts:
    released = size.images(read=False) + size.whole_texts(backward=True)
    return released, size.shared_texts(16, backward=True), size.images()


def _cocoop(size: StepSize) -> Parts:
    number = size.batch_size
    released = size.images(read=False) + number * size.whole_texts(backward=True)
    return released, number * size.shared_texts(4, backward=True), size.images()


def _text_refiner(size: StepSize) -> Parts:
    encoded = size.images(read=False) + size.token_heads()
    further = (size.image.depth - 1) * size.token_heads()
    released = encoded + further + size.whole_texts(backward=True) + size.refiner()
    return released, size.shared_texts(4, backward=True) + size.refiner(), encoded


def _promptsrc(size: StepSize) -> Parts:
    prompted = size.images(prompts=DEEP_PROMPTS, backward=True, read=False)
    released = prompted + size.images(read=False) + size.whole_texts(backward=True)
    fixed = size.images(prompts=DEEP_PROMPTS, backward=True)
    return released, fixed + size.shared_texts(4, backward=True), size.images()


def _promptkd(size: StepSize) -> Parts:
    teacher = size.teacher
    assert teacher is not None
    prompted = size.images(prompts=DEEP_PROMPTS, backward=True, read=False)
    taught = teacher.images(prompts=DEEP_PROMPTS, read=False) + teacher.whole_texts(backward=False)
    fixed = size.images(prompts=DEEP_PROMPTS, backward=True) + size.projector()
    return prompted + taught + size.projector(), fixed, teacher.images(prompts=DEEP_PROMPTS)


def _sep(size: StepSize) -> Parts:
    prompted = size.images(prompts=SEP_VISION_CTX, backward=True, read=False)
    released = prompted + size.images(read=False) + size.whole_texts(backward=True)
    fixed = size.images(prompts=SEP_VISION_CTX, backward=True)
    fixed += size.separate_texts(SEP_CTX, backward=True) + size.all_fusions()
    return released + size.all_fusions(), fixed, size.images()


ARITHMETIC: Mapping[str, Callable[[StepSize], Parts]] = {
    "coop": _coop,
    "cocoop": _cocoop,
    "text_refiner": _text_refiner,
    "promptsrc": _promptsrc,
    "promptkd": _promptkd,
    "sep": _sep,
}
