"""The released data flow of six methods, from the equations: one class a method.

Each takes our model and starts from copies of its learned parameters, under their names here, so
that losses and gradients can be compared. What the release computes in every step is computed in
every step: class texts of 77 tokens, frozen passes, the teacher with its texts, attention weights.
What it computes once (hand-made texts) is computed once. Everything is float32.

Letters: B images, C classes, N context tokens, L text tokens, P patches, M slots, D joint width, W
tower width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.train.model import RefinedMethod
from core.types import ClassNames
from experiments.run.published_flow.towers import BeforeBlock, Towers, unchanged
from methods.cocoop import CoCoOp
from methods.coop import CoOp
from methods.ivlp import IVLP
from methods.promptkd import PromptKD
from methods.promptsrc import PromptSRC
from methods.sep import SEP

Prompts = Sequence[Tensor]
"""The prompts (N, W) of the first blocks of a tower."""

TOP_PATCHES = 5


def unit(x: Tensor) -> Tensor:
    """Rows divided by their length."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length


class WholePrompts:
    """Class prompts of 77 tokens. ``placeholder`` stands where the context will be."""

    def __init__(self, towers: Towers, classes: ClassNames, placeholder: str) -> None:
        self.towers = towers
        names = [name.replace("_", " ") for name in classes.names]
        ids = towers.tokenizer([f"{placeholder} {name}." for name in names])
        self.eot_C = ids.argmax(dim=-1)
        self.embedding_CLW: Tensor = towers.text.token_embedding(ids)

    def assembled(self, ctx_NW: Tensor) -> Tensor:
        """Whole prompts (C, L, W) with the context behind the start token."""
        ctx_CNW = ctx_NW.expand(len(self.embedding_CLW), -1, -1)
        start, rest = self.embedding_CLW[:, :1], self.embedding_CLW[:, 1 + len(ctx_NW) :]
        return torch.cat([start, ctx_CNW, rest], dim=1)

    def encode(self, ctx_NW: Tensor, before_block: BeforeBlock = unchanged) -> Tensor:
        """Unit class texts (C, D) of a context."""
        whole_CLW = self.assembled(ctx_NW)
        return unit(self.towers.text_features(whole_CLW, self.eot_C, before_block))

    def encode_deep(self, prompts: Prompts) -> Tensor:
        """The same with prompt i in place of the context before block i."""
        number = len(prompts[0])

        def before_block(layer: int, x_LBW: Tensor) -> Tensor:
            if not 1 <= layer < len(prompts):
                return x_LBW
            prompt = prompts[layer][:, None].expand(-1, x_LBW.shape[1], -1)
            return torch.cat([x_LBW[:1], prompt, x_LBW[1 + number :]])

        return self.encode(prompts[0], before_block)


class PublishedFlow(ABC):
    """One method as released: the loss of a batch of pixels, and the logits of a test batch."""

    def __init__(self, model: RefinedMethod) -> None:
        method = model.method
        self.towers = Towers(method.clip)
        self.scale = method.clip.scale
        self.classes = method.classes
        self.learned = {
            name: nn.Parameter(parameter.detach().clone())
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @abstractmethod
    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """The training loss, 0-d, with gradients to ``learned``."""

    @abstractmethod
    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        """What a test batch is classified by (B, C); class texts are encoded once more."""

    def write(self) -> None:  # noqa: B027 (most methods have no such state)
        """Change the state that no gradient reaches, after the loss."""

    def state(self) -> dict[str, Tensor]:
        """That state, by its names in our model."""
        return {}

    def prompts(self, placeholder: str) -> WholePrompts:
        """The class prompts with a context in place of these words."""
        return WholePrompts(self.towers, self.classes, placeholder)

    def starting_with(self, name: str) -> Prompts:
        """The learned tensors of a list, in order."""
        return [p for key, p in self.learned.items() if key.startswith(f"{name}.")]


class PublishedCoOp(PublishedFlow):
    """CoOp: the image tower and all class texts in every step and for every test batch."""

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.ctx = self.learned["method.ctx"]
        self.whole = self.prompts(cast(CoOp, model.method).placeholder)

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(pixels_BCHW), labels_B)

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        image = unit(self.towers.image_features(pixels_BCHW))
        return self.scale * image @ self.whole.encode(self.ctx).t()


class PublishedCoCoOp(PublishedFlow):
    """CoCoOp: a loop over images, each with class texts of its own."""

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.ctx = self.learned["method.ctx"]
        self.whole = self.prompts(cast(CoCoOp, model.method).placeholder)

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(pixels_BCHW), labels_B)

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        image_BD = unit(self.towers.image_features(pixels_BCHW))
        hidden = self._linear(image_BD, "fc1").relu()
        shift_BW = self._linear(hidden, "fc2")
        rows = []
        for image_D, shift_W in zip(image_BD, shift_BW, strict=True):
            texts_CD = self.whole.encode(self.ctx + shift_W)
            rows.append(self.scale * image_D @ texts_CD.t())
        return torch.stack(rows)

    def _linear(self, x: Tensor, layer: str) -> Tensor:
        own = f"method.meta_net.{layer}"
        return F.linear(x, self.learned[f"{own}.weight"], self.learned[f"{own}.bias"])


class PublishedTextRefiner(PublishedCoOp):
    """TextRefiner on CoOp: all tokens and attention weights of every block; the cache is written
    slot by slot, and the write is part of the graph.
    """

    alpha, momentum, semantic_weight, l1_weight = 0.2, 0.8, 1 / 50, 20.0

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.slots_MD = model.get_buffer("refiner.cache.slots_MD").clone()
        self.aligned_BLD: Tensor | None = None

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        tokens_BLD, weights_BLL = self.towers.image_tokens(pixels_BCHW)
        assert weights_BLL is not None
        self.aligned_BLD = aligned_BLD = self._aligned(tokens_BLD)
        text = self.whole.encode(self.ctx)
        refined = self._refined(text)
        logits = self.scale * unit(tokens_BLD[:, 0]) @ refined.t()
        rows_BKD = self._local_rows(aligned_BLD, weights_BLL[:, 0, 1:])
        local = self.scale * rows_BKD.flatten(0, 1) @ text.t()
        repeated = labels_B.repeat_interleave(rows_BKD.shape[1])
        distance = (unit(refined) - text).abs().mean()
        semantic = self.semantic_weight * F.cross_entropy(local, repeated)
        return F.cross_entropy(logits, labels_B) + semantic + self.l1_weight * distance

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        tokens_BLD, _ = self.towers.image_tokens(pixels_BCHW)
        refined = self._refined(self.whole.encode(self.ctx))
        return self.scale * unit(tokens_BLD[:, 0]) @ refined.t()

    def write(self) -> None:
        assert self.aligned_BLD is not None
        x_TD = F.normalize(self.aligned_BLD.flatten(0, 1), dim=-1)
        similarity_TM = x_TD @ self.slots_MD.t()
        weight_TM = similarity_TM.softmax(dim=0)
        weight_TM = weight_TM / weight_TM.amax(dim=0)
        slot_T = similarity_TM.argmax(dim=-1)
        moved_MD = self.slots_MD.clone()
        for slot in range(len(moved_MD)):
            chosen = slot_T == slot
            if chosen.any():
                added_D = (weight_TM[chosen, slot, None] * x_TD[chosen]).sum(dim=0)
                kept_D = self.momentum * self.slots_MD[slot]
                moved_MD[slot] = kept_D + (1 - self.momentum) * added_D
        self.slots_MD = F.normalize(moved_MD, dim=-1).detach()

    def state(self) -> dict[str, Tensor]:
        return {"refiner.cache.slots_MD": self.slots_MD}

    def _aligned(self, tokens_BLD: Tensor) -> Tensor:
        """The alignment (B, L, D): 1x1 convolutions, batch norm and ReLU between them."""
        hidden = _convolution(self.learned, "refiner.alignment.fc1", tokens_BLD.transpose(1, 2))
        norm = "refiner.alignment.norm"
        weight, bias = self.learned[f"{norm}.weight"], self.learned[f"{norm}.bias"]
        hidden = F.batch_norm(hidden, None, None, weight, bias, training=True).relu()
        return _convolution(self.learned, "refiner.alignment.fc2", hidden).transpose(1, 2)

    def _refined(self, text_CD: Tensor) -> Tensor:
        weights_CM = (F.normalize(text_CD, dim=-1) @ self.slots_MD.t()).softmax(dim=-1)
        joined = torch.cat([text_CD, weights_CM @ self.slots_MD], dim=-1)
        extractor = self.learned["refiner.aggregation.extractor.weight"]
        return text_CD + self.alpha * F.linear(joined, extractor)

    def _local_rows(self, aligned_BLD: Tensor, attention_BP: Tensor) -> Tensor:
        """(B, 7, D): CLS, the patches that it attends to most, and the mean of all tokens."""
        top_BK = attention_BP.topk(TOP_PATCHES, dim=-1).indices + 1
        every_B1 = torch.arange(len(aligned_BLD))[:, None]
        mean = aligned_BLD.mean(dim=1, keepdim=True)
        return torch.cat([aligned_BLD[:, :1], aligned_BLD[every_B1, top_BK], mean], dim=1)


class PublishedPromptSRC(PublishedFlow):
    """PromptSRC: prompted towers, the frozen image tower in every step; its fixed texts once."""

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.method = cast(PromptSRC, model.method)
        self.text_prompts = self.starting_with("method.text_prompts.prompts")
        self.image_prompts = self.starting_with("method.vision_prompts.prompts")
        self.whole = self.prompts(self.method.text_prompts.placeholder)
        with torch.no_grad():
            self.fixed_CD = unit(self._template_mean())

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        text = self._text()
        image = self._image(pixels_BCHW)
        with torch.no_grad():
            frozen = unit(self.towers.image_features(pixels_BCHW))
            frozen_logits = self.scale * frozen @ self.fixed_CD.t()
        logits = self.scale * image @ text.t()
        divergence = F.kl_div(
            logits.log_softmax(dim=-1),
            frozen_logits.log_softmax(dim=-1),
            reduction="sum",
            log_target=True,
        )
        text_l1 = self.method.text_weight * F.l1_loss(text, self.fixed_CD)
        image_l1 = self.method.image_weight * F.l1_loss(image, frozen)
        return F.cross_entropy(logits, labels_B) + text_l1 + image_l1 + divergence / logits.numel()

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        return self.scale * self._image(pixels_BCHW) @ self._text().t()

    def _image(self, pixels_BCHW: Tensor) -> Tensor:
        return unit(prompted_image(self.towers, pixels_BCHW, self.image_prompts))

    def _text(self) -> Tensor:
        return self.whole.encode_deep(self.text_prompts)

    def _template_mean(self) -> Tensor:
        """The mean (C, D) of raw text features over the templates."""
        names = [name.replace("_", " ") for name in self.classes.names]
        total = torch.zeros(())
        for template in self.method.templates:
            total = total + _plain_texts(self.towers, [template.format(name) for name in names])
        return total / len(self.method.templates)


class PublishedPromptKD(PublishedFlow):
    """PromptKD: the student's image tower; both towers of the teacher in every step, and for every
    test batch, where its image tower is for nothing.
    """

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.method = cast(PromptKD, model.method)
        self.image_prompts = self.starting_with("method.vision_prompts.prompts")
        self.norm: Any = self.method.projector.norm
        self.teacher = PublishedTeacherFlow(cast(IVLP, self.method.teacher.method))

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        with torch.no_grad():
            texts, image = self.teacher.texts(), self.teacher.image(pixels_BCHW)
            target = (self.teacher.scale * image @ texts.t()).log_softmax(dim=-1)
        logits = self.scale * self._image(pixels_BCHW, training=True) @ texts.t()
        divergence = F.kl_div(logits.log_softmax(dim=-1), target, reduction="sum", log_target=True)
        return self.method.kd_weight * divergence / logits.numel()

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        texts = self.teacher.texts()
        self.teacher.image(pixels_BCHW)
        return self.scale * self._image(pixels_BCHW, training=False) @ texts.t()

    def _image(self, pixels_BCHW: Tensor, *, training: bool) -> Tensor:
        x_BD = prompted_image(self.towers, pixels_BCHW, self.image_prompts)
        hidden = _convolution(self.learned, "method.projector.fc1", x_BD[..., None])
        hidden = F.batch_norm(
            hidden,
            None if training else self.norm.running_mean,
            None if training else self.norm.running_var,
            self.learned["method.projector.norm.weight"],
            self.learned["method.projector.norm.bias"],
            training=training,
        ).relu()
        return unit(_convolution(self.learned, "method.projector.fc2", hidden)[..., 0])


class PublishedTeacherFlow:
    """The teacher of PromptKD: a frozen CLIP with deep prompts in both towers."""

    def __init__(self, method: IVLP) -> None:
        self.towers = Towers(method.clip)
        self.scale = method.clip.scale
        self.text_prompts = list(method.text_prompts.prompts)
        self.image_prompts = list(method.vision_prompts.prompts)
        placeholder = method.text_prompts.placeholder
        self.whole = WholePrompts(self.towers, method.classes, placeholder)

    def texts(self) -> Tensor:
        """Unit class texts (C, D)."""
        return self.whole.encode_deep(self.text_prompts)

    def image(self, pixels_BCHW: Tensor) -> Tensor:
        """Unit image features (B, D)."""
        return unit(prompted_image(self.towers, pixels_BCHW, self.image_prompts))


class PublishedSEP(PublishedFlow):
    """SEP: fusions before every block but the first, over the batch; the frozen image tower in
    every step and for every test batch; its hand-made texts once.
    """

    def __init__(self, model: RefinedMethod) -> None:
        super().__init__(model)
        self.method = cast(SEP, model.method)
        self.whole = self.prompts(self.method.placeholder)
        self.text_heads = self.towers.text.transformer.resblocks[0].attn.num_heads
        self.image_heads = self.towers.visual.transformer.resblocks[0].attn.num_heads
        with torch.no_grad():
            self.handmade_CD = unit(_plain_texts(self.towers, self.classes.prompts()))

    def loss(self, pixels_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        frozen, image, text = self._features(pixels_BCHW)
        method = self.method
        to_text = 1 - F.cosine_similarity(text, self.handmade_CD, eps=1e-7).mean()
        to_image = 1 - F.cosine_similarity(frozen, image, eps=1e-7).mean()
        prototypes = F.normalize(self.learned["method.prototypes"], dim=-1)
        losses = [
            F.cross_entropy(
                method.prototype_scale * F.normalize(x, dim=-1) @ prototypes.t(), labels_B
            )
            for x in (image, frozen)
        ]
        return (
            F.cross_entropy(self.scale * image @ text.t(), labels_B)
            + method.text_weight * to_text
            + method.vision_weight * to_image
            + method.prototype_weight * (losses[0] + losses[1]) / 2
        )

    def logits(self, pixels_BCHW: Tensor) -> Tensor:
        _, image, text = self._features(pixels_BCHW)
        return self.scale * image @ text.t()

    def _features(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frozen and mixed unit image features (B, D), and mixed unit class texts (C, D)."""
        with torch.no_grad():
            frozen = unit(self.towers.image_features(pixels_BCHW))
        prompted = self.towers.image_features(
            pixels_BCHW, self.learned["method.vision.ctx"], self._before_image_block
        )
        text = self.whole.encode(self.learned["method.ctx"], self._before_text_block)
        return frozen, unit(unit(prompted) + frozen), unit(text + self.handmade_CD)

    def _before_text_block(self, layer: int, x_LBW: Tensor) -> Tensor:
        if layer == 0:
            return x_LBW
        stop = 1 + len(self.learned["method.ctx"])
        own, after = x_LBW[1:stop], x_LBW[stop : 2 * stop - 1]
        fused = self._fused(f"method.text.fusions.{layer}", after, own, self.text_heads)
        return torch.cat([x_LBW[:1], fused, x_LBW[stop:]])

    def _before_image_block(self, layer: int, x_LBW: Tensor) -> Tensor:
        if layer == 0:
            return x_LBW
        number = len(self.learned["method.vision.ctx"])
        tokens, prompts = x_LBW[:-number], x_LBW[-number:]
        strongest = tokens.square().mean(dim=(1, 2)).topk(number).indices
        name = f"method.vision.fusions.{layer}"
        fused = self._fused(name, tokens[strongest], prompts, self.image_heads)
        return torch.cat([tokens, fused])

    def _fused(self, name: str, tokens_nBW: Tensor, prompts_nBW: Tensor, heads: int) -> Tensor:
        """New prompts (n, B, W); the attention runs over B, since its input is batch first."""
        own = {
            k.removeprefix(f"{name}."): v
            for k, v in self.learned.items()
            if k.startswith(f"{name}.")
        }
        tokens, prompts = tokens_nBW.transpose(0, 1), prompts_nBW.transpose(0, 1)
        width = tokens.shape[-1]
        key = _normed(own, "norm1", tokens)
        attended, _ = F.multi_head_attention_forward(
            _normed(own, "norm1", prompts),
            key,
            key,
            width,
            heads,
            own["attention.in_proj_weight"],
            own["attention.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            own["attention.out_proj.weight"],
            own["attention.out_proj.bias"],
            need_weights=False,
        )
        mixed = own["scale1"] * tokens + (1 - own["scale1"]) * attended
        hidden = F.linear(_normed(own, "norm2", mixed), own["fc1.weight"])
        added = F.linear(hidden * torch.sigmoid(1.702 * hidden), own["fc2.weight"])
        return (own["scale2"] * mixed + (1 - own["scale2"]) * added).transpose(0, 1)


def prompted_image(towers: Towers, pixels_BCHW: Tensor, prompts: Prompts) -> Tensor:
    """Image features (B, D) with prompt 0 behind the patches and prompt i in its place later."""
    number = len(prompts[0])

    def before_block(layer: int, x_LBW: Tensor) -> Tensor:
        if not 1 <= layer < len(prompts):
            return x_LBW
        prompt = prompts[layer][:, None].expand(-1, x_LBW.shape[1], -1)
        return torch.cat([x_LBW[:-number], prompt])

    return towers.image_features(pixels_BCHW, prompts[0], before_block)


def _plain_texts(towers: Towers, texts: list[str] | tuple[str, ...]) -> Tensor:
    """Features (C, D) of plain texts, at full length."""
    ids = towers.tokenizer(texts)
    return towers.text_features(towers.text.token_embedding(ids), ids.argmax(dim=-1))


def _convolution(learned: dict[str, nn.Parameter], name: str, x_BDL: Tensor) -> Tensor:
    return F.conv1d(x_BDL, learned[f"{name}.weight"][..., None], learned[f"{name}.bias"])


def _normed(own: dict[str, nn.Parameter], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])


FLOWS: Mapping[str, Callable[[RefinedMethod], PublishedFlow]] = {
    "coop": PublishedCoOp,
    "cocoop": PublishedCoCoOp,
    "text_refiner": PublishedTextRefiner,
    "promptsrc": PublishedPromptSRC,
    "promptkd": PublishedPromptKD,
    "sep": PublishedSEP,
}
