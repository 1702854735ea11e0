"""Deep prompts: learnable tokens that enter a frozen tower at its input and before its blocks.

Depth counts blocks: 1 is the input alone, 0 is no prompt at all. Letters: B sequences, L tokens,
N prompt tokens, W tower width, C classes, D joint width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.clip.frozen import FrozenCLIP
from core.clip.hooks import NO_HOOK, TokenHook
from core.clip.prompts import ContextPrompts
from core.seeding import Seeds, seeded_normal
from core.types import ClassNames, Tower

ContextTokens = Literal["first_n", "all"]
PromptDtype = Literal["parameter", "float16"]


class LeadingPrompts:
    """Overwrites positions 1..N before block i by prompt i; prompt 0 is in the input already."""

    def __init__(self, prompts_NW: Sequence[Tensor]) -> None:
        self.prompts_NW = prompts_NW

    def enter(self, x_BLW: Tensor) -> Tensor:
        return x_BLW

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        if not 1 <= layer < len(self.prompts_NW):
            return x_BLW
        prompt_BNW = self.prompts_NW[layer].expand(len(x_BLW), -1, -1)
        return torch.cat([x_BLW[:, :1], prompt_BNW, x_BLW[:, 1 + prompt_BNW.shape[1] :]], dim=1)


class TrailingPrompts:
    """Appends prompt 0 behind the tokens; before block i the last N tokens become prompt i."""

    def __init__(self, prompts_NW: Sequence[Tensor]) -> None:
        self.prompts_NW = prompts_NW

    def enter(self, x_BLW: Tensor) -> Tensor:
        return torch.cat([x_BLW, self.prompts_NW[0].expand(len(x_BLW), -1, -1)], dim=1)

    def before_block(self, layer: int, x_BLW: Tensor) -> Tensor:
        if not 1 <= layer < len(self.prompts_NW):
            return x_BLW
        prompt_BNW = self.prompts_NW[layer].expand(len(x_BLW), -1, -1)
        return torch.cat([x_BLW[:, : -prompt_BNW.shape[1]], prompt_BNW], dim=1)


class VisionPrompts(nn.Module):
    """``depth`` prompts of N tokens for the image tower, drawn from N(0, 0.02 squared).

    Prompt 0 follows the patches, has no position embedding and passes through the first norm;
    blocks without a prompt of their own keep its output. The feature never pools over prompts.
    ``prompt_dtype`` "float16" rounds every prompt where it is used, as the released code does.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        seeds: Seeds,
        *,
        num_ctx: int,
        depth: int,
        prompt_dtype: PromptDtype = "parameter",
    ) -> None:
        super().__init__()
        self.prompt_dtype = prompt_dtype
        width = clip.spec.vision_width
        if depth and num_ctx:
            clip.require_hooks("image")
        self.prompts = nn.ParameterList(
            seeded_normal(num_ctx, width, std=0.02, generator=seeds.generator("vision", layer))
            for layer in range(depth if num_ctx else 0)
        )

    def hook(self) -> TokenHook:
        """The hook for ``encode_image``; one without effect if there are no prompts."""
        if not len(self.prompts):
            return NO_HOOK
        return TrailingPrompts([as_used(prompt, self.prompt_dtype) for prompt in self.prompts])


class TextPrompts(nn.Module):
    """``depth`` prompts of N tokens for the text tower, in front of the class names.

    Prompt 0 is at positions 1..N of the input and starts from the first N tokens of ``ctx_init``
    (from all of them, regardless of ``num_ctx``, if ``ctx_init_tokens`` is "all"), or from N(0,
    0.02 squared) if that is empty; the later prompts are drawn at random. The prompt string is
    ``ctx_init name.``, so that init tokens beyond N stay as fixed tokens before the name. ``owner``
    is the class that error messages name, ``setting`` its parameter for N. ``prompt_dtype``
    "float16" rounds the prompts of later blocks where they are used, as the released code does.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        owner: str,
        num_ctx: int,
        depth: int,
        ctx_init: str,
        ctx_init_tokens: ContextTokens = "first_n",
        prompt_dtype: PromptDtype = "parameter",
        setting: str = "num_ctx_text",
    ) -> None:
        super().__init__()
        if depth > 1:
            clip.require_hooks("text")
        self.prompt_dtype = prompt_dtype
        words = ctx_init.replace("_", " ").strip()
        init_ids = clip.tokenizer.encode(words)
        if words and ctx_init_tokens == "all":
            num_ctx = len(init_ids)
        if words and num_ctx > len(init_ids):
            raise ValueError(
                f"{owner}.{setting} is {num_ctx}, but ctx_init {ctx_init!r} has "
                f"{len(init_ids)} tokens, and the rest would overwrite the class names; use more "
                "words, fewer context tokens, or ctx_init = '' for a random start"
            )
        self.num_ctx = num_ctx
        self.placeholder = words or " ".join(["X"] * num_ctx)
        self.prompts = nn.ParameterList(
            seeded_normal(
                num_ctx, clip.spec.text_width, std=0.02, generator=_generator(seeds, layer)
            )
            for layer in range(depth)
        )
        if words:
            ids = torch.tensor(init_ids[:num_ctx], device=clip.scale.device)
            self.prompts[0] = nn.Parameter(clip.embed_tokens(ids).detach().clone())
        self.set_classes(clip, classes)

    def set_classes(self, clip: FrozenCLIP, classes: ClassNames) -> None:
        """Place the prompts in front of other class names."""
        self.classes = ContextPrompts(
            clip, classes, placeholder=self.placeholder, num_ctx=self.num_ctx
        )

    def assemble(self) -> Tensor:
        """Prompt embeddings (C, L, W) at the input, without positions."""
        return self.classes.assemble(self.prompts[0])

    def encode(self, clip: FrozenCLIP) -> Tensor:
        """Class texts (C, D), not normalized."""
        first, *later = self.prompts
        deep = [as_used(prompt, self.prompt_dtype) for prompt in later]
        hook = LeadingPrompts([first, *deep]) if deep else NO_HOOK
        return self.classes.encode(clip, first, hook)


def checked_depth(
    owner: str, setting: str, depth: int | None, *, tower_depth: int, default: int | None
) -> int:
    """The number of blocks with a prompt; None is ``default``, or all blocks of a smaller tower.

    Raises ValueError, naming the setting, where the tower has fewer blocks than asked for.
    """
    if depth is None:
        return min(default or tower_depth, tower_depth)
    if depth > tower_depth:
        raise ValueError(
            f"{owner}.{setting} is {depth}, but this tower of the backbone has {tower_depth} "
            f"blocks; use at most {tower_depth}, or None for the default"
        )
    return depth


def hooked_by_vision_prompts(parameters: Mapping[str, Any]) -> frozenset[Tower]:
    """The tower that a method's vision prompts enter, unless their number or depth is 0."""
    there = parameters["num_ctx_vision"] and parameters["depth_vision"] != 0
    return frozenset(("image",)) if there else frozenset()


def _generator(seeds: Seeds, layer: int) -> torch.Generator:
    """Prompt 0 corresponds to the context of the other methods and starts from the same draw."""
    return seeds.generator("context") if layer == 0 else seeds.generator("text", layer)


def as_used(prompt: Tensor, prompt_dtype: PromptDtype) -> Tensor:
    """The prompt as a block sees it: rounded through float16 where the release rounds."""
    return prompt.half().to(prompt.dtype) if prompt_dtype == "float16" else prompt
