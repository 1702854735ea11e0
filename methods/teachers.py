"""Teachers for distillation: frozen models that know class texts and judge images.

Shapes: B images, C classes, T teacher width. Nothing here is trained.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.backbone import read_state_dict, shared_clip
from core.clip.frozen import POOLED, FrozenCLIP
from core.config import Reference, config_from_text
from core.interfaces import Method, Refiner
from core.registry import lookup, register
from core.seeding import Seeds
from core.train.checkpoint import load_checkpoint
from core.train.model import RefinedMethod
from core.types import Batch, ClassNames, Forward
from methods.base import TextMethod
from methods.ivlp import IVLP
from methods.zero_shot import ZeroShot

CONFIG_NAME = "config.gin"
WEIGHTS_NAME = "weights.safetensors"
NO_SEEDS = Seeds(0)


class Teacher(nn.Module):
    """A frozen method with class texts of its own. Built as ``Teacher(student_clip, classes)``.

    Always in eval mode. Class texts are encoded once for each list of classes and kept.
    """

    def __init__(self, student: FrozenCLIP, method: TextMethod) -> None:
        super().__init__()
        _check_same_images(student, method.clip)
        self.method: TextMethod = method.to(student.scale.device, student.scale.dtype)
        self.requires_grad_(False)
        self.eval()
        self._texts: dict[tuple[ClassNames, torch.dtype, torch.device], Tensor] = {}

    @property
    def text_width(self) -> int:
        return self.method.output().text_width

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def texts(self, classes: ClassNames) -> Tensor:
        """Class texts (C, T), unit norm."""
        scale = self.method.clip.scale
        key = (classes, scale.dtype, scale.device)
        if key not in self._texts:
            self.method.set_classes(classes)
            self._texts[key] = self.method.class_texts()
        return self._texts[key]

    @torch.no_grad()
    def logits(self, batch: Batch, classes: ClassNames) -> Tensor:
        """What the teacher says to the images of a batch: (B, C)."""
        texts = self.texts(classes)
        with self.method.given_texts(texts):
            out: Forward = self.method(replace(batch, need=POOLED))
        return out.logits()


@register("teacher")
class ZeroShotTeacher(Teacher):
    """Zero-shot CLIP: the student's own backbone, or a larger one.

    ``backbone`` None is the student's. ``templates`` are those of ZeroShot; empty is the data
    set's own.

    Source: Radford et al., ICML 2021, arXiv 2103.00020.
    """

    def __init__(
        self,
        student: FrozenCLIP,
        classes: ClassNames,
        *,
        backbone: str | None = None,
        weights: str | None = None,
        templates: tuple[str, ...] = (),
    ) -> None:
        clip = _clip(backbone, weights, student) if backbone else student
        super().__init__(student, ZeroShot(clip, classes, NO_SEEDS, templates=templates))


@register("teacher")
class RunTeacher(Teacher):
    """What an earlier run of ours learned, such as stage 1 of PromptKD: PromptSRC on a large CLIP.

    ``run`` is the run's folder, or the weights file in it. Any method whose class texts do not
    depend on the image can teach, without a refiner. Which images the earlier run saw is the
    user's to choose: for base-to-new it should have been trained on the base classes.

    Source: stage 1 of Li et al., PromptKD, CVPR 2024, arXiv 2403.02781.
    """

    def __init__(self, student: FrozenCLIP, classes: ClassNames, *, run: str) -> None:
        folder = Path(run).parent if Path(run).is_file() else Path(run)
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise ValueError(
                f"RunTeacher.run = {run!r} is not a finished run: there is no {path}; give the "
                "folder of a run of ours, or use @PublishedTeacher for another file"
            )
        values = config_from_text(path.read_text(), str(path)).operative("experiment")
        clip = _clip(values["experiment.backbone"], values["experiment.weights"], student)
        method = _part(values["experiment.method"], values)(clip, classes, NO_SEEDS)
        refiner = _part(values["experiment.refiner"], values)(method.output(), NO_SEEDS)
        _check_teaches(method, refiner, run)
        load_checkpoint(folder / WEIGHTS_NAME, RefinedMethod(method, refiner))
        super().__init__(student, method)


@register("teacher")
class PublishedTeacher(Teacher):
    """A checkpoint of the authors' code for IVLP or PromptSRC, as PromptKD distributes them.

    ``path`` is a torch file, read without executing anything in it, whose ``state_dict`` holds the
    prompts: ``prompt_learner.ctx``, ``image_encoder.VPT`` and a ``VPT_shallow`` for each later
    block. Numbers and depths follow from it; ``ctx_init`` must be the one it was trained with.
    Only the prompts are taken. The file's CLIP tensors, which the release averages in fp16 and so
    changes by up to 7e-4 relative, are left alone in favour of ``backbone`` with ``weights``.

    Source: Li et al., PromptKD: Unsupervised Prompt Distillation for Vision-Language Models,
    CVPR 2024, arXiv 2403.02781.
    """

    def __init__(
        self,
        student: FrozenCLIP,
        classes: ClassNames,
        *,
        path: str,
        backbone: str = "ViT-L-14-quickgelu",
        weights: str | None = "openai",
        ctx_init: str = "a photo of a",
    ) -> None:
        text, vision = published_prompts(Path(path))
        clip = _clip(backbone, weights, student)
        widths = (clip.spec.text_width, clip.spec.vision_width)
        found = (text[0].shape[1], vision[0].shape[1] if vision else clip.spec.vision_width)
        if found != widths:
            raise ValueError(
                f"{path} holds prompts of text and vision widths {found}, but "
                f"{backbone} has {widths}; set PublishedTeacher.backbone to its own backbone"
            )
        method = IVLP(
            clip,
            classes,
            NO_SEEDS,
            num_ctx_text=len(text[0]),
            num_ctx_vision=len(vision[0]) if vision else 0,
            depth_text=len(text),
            depth_vision=len(vision),
            ctx_init=ctx_init,
        )
        method.set_prompts(text, vision)
        super().__init__(student, method)


def published_prompts(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Text and vision prompts of a published file, block by block.

    Raises ValueError for a missing or unsafe file, and for one that holds no such prompts.
    """
    state = read_state_dict(path)
    if "prompt_learner.ctx" not in state:
        raise ValueError(
            f"{path} is no IVLP or PromptSRC checkpoint: it has no tensor 'prompt_learner.ctx' "
            f"(first names: {sorted(state)[:3]})"
        )
    text = [state["prompt_learner.ctx"], *_later_prompts(state, "text_encoder")]
    if text[0].dim() != 2:
        raise ValueError(f"{path} holds a class-specific context, which cannot teach other classes")
    if "image_encoder.VPT" not in state:
        return text, []
    return text, [state["image_encoder.VPT"], *_later_prompts(state, "image_encoder")]


def _later_prompts(state: Mapping[str, Tensor], tower: str) -> list[Tensor]:
    """Prompts of blocks 1, 2, ... of one tower."""
    pattern = re.compile(rf"{tower}\.transformer\.resblocks\.(\d+)\.VPT_shallow")
    found = {int(m[1]): state[name] for name in state if (m := pattern.fullmatch(name))}
    if sorted(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"{tower} has prompts in blocks {sorted(found)}, expected 1, 2, ...")
    return [found[layer] for layer in sorted(found)]


def _clip(backbone: Any, weights: Any, student: FrozenCLIP) -> FrozenCLIP:
    """A teacher's backbone, where the student's is and as precise."""
    return shared_clip(backbone, weights, str(student.scale.device), student.scale.dtype)


def _part(value: Any, values: Mapping[str, Any]) -> Any:
    """A class with its settings bound; other values as they are."""
    if not isinstance(value, Reference):
        return value
    entry = lookup(value.name)
    settings = {name: _part(values[f"{entry.name}.{name}"], values) for name in entry.parameters}
    return functools.partial(entry.cls, **settings)


def _check_teaches(method: Method, refiner: Refiner, run: str) -> None:
    if list(refiner.state_dict()):
        raise ValueError(f"the run {run!r} used a refiner; a teacher is a base method alone")
    if not isinstance(method, TextMethod):
        raise ValueError(
            f"the run {run!r} trained {type(method).__name__}, whose class texts depend on the "
            "image; a teacher needs one text a class, such as PromptSRC gives"
        )


def _check_same_images(student: FrozenCLIP, teacher: FrozenCLIP) -> None:
    """Raise ValueError unless one batch of pixels serves both."""

    def seen(clip: FrozenCLIP) -> tuple[Any, ...]:
        return clip.spec.image_size, clip.spec.image_mean, clip.spec.image_std

    if seen(student) != seen(teacher):
        raise ValueError(
            f"teacher {teacher.name} and student {student.name} see images of different size or "
            f"normalisation: {seen(teacher)} and {seen(student)}; use a teacher with the same"
        )
