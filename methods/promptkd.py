"""PromptKD: a student with vision prompts, taught by a frozen teacher on unlabeled images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from core.clip.deep_prompts import (
    PromptDtype,
    VisionPrompts,
    checked_depth,
    hooked_by_vision_prompts,
)
from core.clip.frozen import FrozenCLIP
from core.config import (
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    Reference,
    register,
)
from core.devices import sent
from core.finite import check_finite
from core.interfaces import Criterion, LossTerm
from core.seeding import Seeds, seeded_linear
from core.train.losses import KlReduction, kl_divergence
from core.train.published_checkpoints import two_layer_names
from core.types import Batch, ClassNames, Forward, ImageFeatures, MethodOutput, Tower
from methods.base import TextMethod, unit
from methods.ivlp import released_vision_prompts
from methods.teachers import Teacher, ZeroShotTeacher

RELEASED_DEPTH = 9


class Projector(nn.Module):
    """From the student's width to the teacher's: two layers with batch norm and ReLU between.

    (B, D) to (B, T). In training, batch statistics are used, so a batch needs at least two images.
    """

    def __init__(self, width: int, teacher_width: int, seeds: Seeds) -> None:
        super().__init__()
        self.fc1 = seeded_linear(width, teacher_width, seeds.generator("fc1"))
        self.norm = nn.BatchNorm1d(teacher_width)
        self.fc2 = seeded_linear(teacher_width, teacher_width, seeds.generator("fc2"))

    def forward(self, image_BD: Tensor) -> Tensor:
        if self.training and len(image_BD) < 2:
            raise ValueError(
                "PromptKD normalizes over the batch and cannot train on a batch of 1 image; "
                "set experiment.batch_size to 2 or more"
            )
        projected: Tensor = self.fc2(self.norm(self.fc1(image_BD)).relu())
        return projected


class KnownLogits:
    """Teacher logits by position in the training list, as far as they were computed.

    Which ones are known is known to the host, which so need not wait for a device.
    """

    def __init__(self) -> None:
        self.rows_NC = torch.empty(0, 0)
        self.known: set[int] = set()

    def missing(self, positions: Sequence[int]) -> list[int]:
        """The places in a batch of the images that have no stored logits yet."""
        return [place for place, image in enumerate(positions) if image not in self.known]

    def learn(self, positions: Sequence[int], logits_KC: Tensor) -> None:
        """Store the logits of images that were missing."""
        short = max(positions) + 1 - len(self.rows_NC)
        if short > 0:
            empty = logits_KC.new_zeros(short, logits_KC.shape[1])
            self.rows_NC = torch.cat([self.rows_NC, empty]) if len(self.rows_NC) else empty
        self.rows_NC[self._rows(positions)] = logits_KC
        self.known.update(positions)

    def of(self, positions: Sequence[int]) -> Tensor:
        """The stored logits of these images."""
        return self.rows_NC[self._rows(positions)]

    def _rows(self, positions: Sequence[int]) -> Tensor:
        return sent(torch.tensor(positions, dtype=torch.int64), self.rows_NC.device)

    def state(self) -> dict[str, Tensor]:
        """What ``restore`` takes."""
        known_N = torch.zeros(len(self.rows_NC), dtype=torch.bool)
        known_N[sorted(self.known)] = True
        return {"rows": self.rows_NC, "known": known_N}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take the logits of an earlier process."""
        self.rows_NC = state["rows"].to(device)
        self.known = set(state["known"].nonzero()[:, 0].tolist())


@register("method")
class PromptKD(TextMethod):
    """Deep vision prompts and a projector, trained to predict what a teacher predicts; no labels.

    The student has no text tower of its own: class texts (C, T) are the teacher's, encoded once.
    With v the projected unit image, t the texts, s the student's scale and T the temperature::

        kd_weight * T^2 * KL( softmax(teacher logits / T) || softmax(s v t' / T) )

    as released the mean over all B * C entries (``kl_reduction`` "batchmean": over images), hence
    the large weight (1000; the paper's 200 for Aircraft, Flowers and DTD is only a comment in the
    release). A refiner receives the same KL as its criterion.

    ``teacher`` is @RunTeacher, @PublishedTeacher or @ZeroShotTeacher; None is the student's own
    frozen CLIP. ``regime`` says which unlabeled images are seen, of both halves of the classes:
    "limited" the few-shot draw (``experiment.shots``), "transductive" all (shots must be 0); the
    release is transductive and picks its epoch on test images.

    ``teacher_logits`` "once" runs the teacher once per image and keeps its logits, which is exact
    for images whose views are fixed (``experiment.num_views`` 0, or ``experiment.fixed_views``);
    "each_step" runs it on every augmented view, as the release does. The depth is 9 as released, or
    every block of a shallower tower.

    The released code runs only in fp16, and only with a teacher path derived from the dataset.

    Source: Li et al., PromptKD: Unsupervised Prompt Distillation for Vision-Language Models,
    CVPR 2024, arXiv 2403.02781.
    """

    regime = "limited"
    image_input = "pixels"
    eval_batch_size = 256

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: ClassNames,
        seeds: Seeds,
        *,
        teacher: Annotated[Callable[..., Teacher], Part("teacher")] | None = None,
        regime: Literal["limited", "transductive"] = "limited",
        num_ctx_vision: NonNegativeInt = 4,
        depth_vision: NonNegativeInt | None = None,
        temperature: PositiveFloat = 1.0,
        kd_weight: NonNegativeFloat = 1000.0,
        kl_reduction: KlReduction = "mean",
        teacher_logits: Literal["once", "each_step"] = "once",
        prompt_dtype: PromptDtype = "parameter",
    ) -> None:
        super().__init__(clip, classes)
        tower_depth = clip.spec.vision_depth
        self.regime = regime
        self.temperature, self.kd_weight = temperature, kd_weight
        self.kl_reduction: KlReduction = kl_reduction
        self.teacher_logits = teacher_logits
        self.vision_prompts = VisionPrompts(
            clip,
            seeds,
            num_ctx=num_ctx_vision,
            depth=checked_depth(
                "PromptKD",
                "depth_vision",
                depth_vision,
                tower_depth=tower_depth,
                default=RELEASED_DEPTH,
            ),
            prompt_dtype=prompt_dtype,
        )
        self.teacher: Teacher = (teacher or ZeroShotTeacher)(clip, classes)
        if self.teacher.reads_frozen:
            self.reads_frozen = frozenset({"training"})
        self.projector = Projector(
            clip.spec.joint_width, self.teacher.text_width, seeds.at("projector")
        )
        self.known: dict[ClassNames, KnownLogits] = {}

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Without vision prompts their number and depth are 0."""
        if 0 not in (parameters["num_ctx_vision"], parameters["depth_vision"]):
            return parameters
        none = {"num_ctx_vision": 0, "depth_vision": 0, "prompt_dtype": "parameter"}
        return {**parameters, **none}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Class texts are the teacher's; which prompts an earlier run made is not known here."""
        teacher = parameters["teacher"]
        if teacher == Reference("ZeroShotTeacher"):
            return not values["ZeroShotTeacher.templates"]
        return bool(teacher != Reference("PublishedTeacher"))

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        return hooked_by_vision_prompts(parameters)

    def set_classes(self, classes: ClassNames) -> None:
        self.classes = classes

    def output(self) -> MethodOutput:
        return replace(super().output(), text_width=self.teacher.text_width)

    def class_texts(self) -> Tensor:
        return self.teacher.texts(self.classes)

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Features of the prompted image tower, in the student's width; not normalized."""
        if not len(self.vision_prompts.prompts):
            return super().image_features(batch)
        assert batch.pixels is not None, "vision prompts need pixels"
        return self.clip.encode_image(batch.pixels, self.vision_prompts.hook(), need=batch.need)

    def forward(self, batch: Batch) -> Forward:
        """``image`` and ``text`` in the teacher's width, ``local`` in the student's."""
        features = self.image_features(batch)
        return Forward(
            image=unit(self.projector(features.pooled)),
            text=self.class_texts() if self._texts is None else self._texts,
            logit_scale=self.clip.scale,
            local=features.local,
            attention=features.attention,
        )

    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        self.known = {}  # another training may have a different list of images

    def training_state(self) -> Mapping[str, Tensor]:
        """The teacher's logits: in batches of other sizes it would round them differently."""
        known = self.known.get(self.classes)
        return {} if known is None else known.state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            known = self.known.setdefault(self.classes, KnownLogits())
            known.restore(state, self.clip.scale.device)

    def targets(self, batch: Batch) -> Tensor:
        """Teacher logits (B, C); computed once per image of the training list."""
        if self.teacher_logits == "each_step" or batch.index is None:
            return self.teacher.logits(batch, self.classes)
        known = self.known.setdefault(self.classes, KnownLogits())
        positions = batch.index.tolist() if batch.positions is None else batch.positions
        if missing := known.missing(positions):
            logits = self.teacher.logits(batch.rows(missing), self.classes)
            check_finite({"logits": logits}, "the teacher's output", "check its weights")
            known.learn([positions[place] for place in missing], logits)
        return known.of(positions)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``T^2 * KL(teacher || student)`` of rows of logits; targets are the teacher's."""
        student = (logits / self.temperature).log_softmax(dim=-1)
        teacher = (targets / self.temperature).log_softmax(dim=-1)
        return self.temperature**2 * kl_divergence(teacher, student, reduction=self.kl_reduction)

    def released_names(self) -> Mapping[str, str | None]:
        projector = two_layer_names("VPT_image_trans")
        own = {f"projector.{ours}": name for ours, name in projector.items()}
        return released_vision_prompts(len(self.vision_prompts.prompts)) | own

    def loss_terms(self) -> Mapping[str, LossTerm]:
        return {"kd": self.distillation}

    def classification_terms(self) -> Mapping[str, float]:
        return {"kd": self.kd_weight}

    def distillation(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor:
        """The weighted criterion on the logits of the whole image."""
        return self.kd_weight * criterion(out.logits(), targets)
