"""Teachers for distillation: frozen models with class texts that classify images.

Shapes: B images, C classes, T teacher width. Nothing here is trained.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.backbone import shared_clip
from core.clip.frozen import FrozenCLIP, TowerlessCLIP
from core.clip.image_towers import POOLED
from core.clip.templates import Templates, templates_of
from core.config import Config, Configurable, build, config_from_text, lookup, register
from core.finite import check_finite
from core.interfaces import Method, Refiner
from core.seeding import Seeds
from core.store.names import CONFIG_NAME, WEIGHTS_NAME
from core.store.record import RunRecord, read_record
from core.store.run_facts import own_scores
from core.store.settings import has_config, read_config
from core.train.checkpoints import load_checkpoint
from core.train.model import RefinedMethod
from core.train.published_checkpoints import Published, load_published, read_published
from core.types import Batch, ClassNames, Forward
from methods.base import TextMethod
from methods.ivlp import IVLP
from methods.zero_shot import ZeroShot

NO_SEEDS = Seeds(0)


class Teacher(nn.Module, Configurable):
    """A frozen method with class texts of its own. Built as ``Teacher(student_clip, classes)``.

    Always in eval mode. Class texts are encoded once for each list of classes and kept.
    ``reads_frozen`` says that it reads the images through the student's own frozen tower, whose
    features a batch may have already.
    """

    def __init__(self, student: FrozenCLIP, method: TextMethod) -> None:
        super().__init__()
        _check_same_images(student, method.clip)
        self.shares_tower = method.clip is student
        self.method: TextMethod = method.to(student.scale.device, student.scale.dtype)
        self.requires_grad_(False)
        self.eval()
        self._texts: dict[tuple[ClassNames, torch.dtype, torch.device], Tensor] = {}

    @property
    def reads_frozen(self) -> bool:
        method = self.method
        reads = method.image_input == "features" or "evaluation" in method.reads_frozen
        return self.shares_tower and reads

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
            with self.method.clip.in_full_precision():  # they are kept
                texts = self.method.class_texts()
            about = {"class texts": texts, "logit scale": scale}
            check_finite(about, f"the teacher {self.method.clip.name}", "check its weights")
            self._texts[key] = texts
        return self._texts[key]

    @torch.no_grad()
    def logits(self, batch: Batch, classes: ClassNames) -> Tensor:
        """The teacher's logits for the images of a batch: (B, C)."""
        texts = self.texts(classes)
        if self.method.classes != classes:  # kept texts are not all that depends on them
            self.method.set_classes(classes)
        known = batch.features if self.shares_tower or batch.pixels is None else None
        with self.method.given_texts(texts):
            out: Forward = self.method(replace(batch, features=known, need=POOLED))
        return out.logits()


@register("teacher")
class ZeroShotTeacher(Teacher):
    """Zero-shot CLIP: the student's own backbone, or a larger one.

    ``backbone`` None means the student's. ``templates`` are as in ZeroShot; empty means the
    dataset's own.

    Source: Radford et al., ICML 2021, arXiv 2103.00020.
    """

    @classmethod
    def simplify(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """A named ensemble is the templates in it."""
        return {**parameters, "templates": templates_of(parameters["templates"])}

    def __init__(
        self,
        student: FrozenCLIP,
        classes: ClassNames,
        *,
        backbone: str | None = None,
        weights: str | None = None,
        templates: Templates = (),
    ) -> None:
        clip = _clip(backbone, weights, student) if backbone else student
        super().__init__(student, ZeroShot(clip, classes, NO_SEEDS, templates=templates))


@register("teacher")
class RunTeacher(Teacher):
    """An earlier run of this suite, such as stage 1 of PromptKD: PromptSRC on a large CLIP.

    ``run`` is the run's folder, or the weights file in it. Any method whose class texts do not
    depend on the image can teach, without a refiner. The user chooses which images the earlier run
    saw: for base-to-new it should have been trained on the base classes. A method that learns
    something for every class teaches classes that it was trained on, in any order.

    The frozen weights, and the data where they are the student's, must be those of the earlier
    run's record; ``allow_changed`` goes on where they are not.

    Source: stage 1 of Li et al., PromptKD, CVPR 2024, arXiv 2403.02781.
    """

    @classmethod
    def input_files(cls, parameters: Mapping[str, Any]) -> tuple[Path, ...]:
        """The earlier run's files: their content determines what a student learns."""
        folder = _run_folder(parameters["run"])
        return folder / CONFIG_NAME, folder / WEIGHTS_NAME

    permissions = frozenset({"allow_changed"})

    def __init__(
        self,
        student: FrozenCLIP,
        classes: ClassNames,
        *,
        run: str,
        allow_changed: bool = False,
    ) -> None:
        folder = _run_folder(run)
        path = folder / CONFIG_NAME
        if not has_config(folder):
            raise ValueError(
                f"RunTeacher.run = {run!r} is not a finished run: {path} does not exist; give the "
                "folder of a run of this suite, or use @PublishedTeacher for another file"
            )
        config = config_from_text(read_config(folder), str(path))
        earlier = build(config, "experiment")
        clip = _clip(earlier.backbone, earlier.weights, student)
        record = read_record(folder)
        if record is not None:
            _check_record(record, clip, run, allow_changed=allow_changed)
        own = replace(classes, template=earlier.template or classes.template)
        trained = _trained_classes(record, config, own, run)
        method = earlier.method(clip, trained, NO_SEEDS)
        refiner = earlier.refiner(method.output(), NO_SEEDS)
        _check_teaches(method, refiner, run)
        sha256 = "" if record is None else record.weights_sha256
        model = RefinedMethod(method, refiner)
        load_checkpoint(folder / WEIGHTS_NAME, model, sha256=sha256)
        try:
            model.set_classes(classes)
        except ValueError as error:
            raise ValueError(
                f"the run {run!r} cannot teach the student's classes: {error}"
            ) from error
        super().__init__(student, method)


@register("teacher")
class PublishedTeacher(Teacher):
    """A checkpoint of the authors' code for IVLP or PromptSRC, as PromptKD distributes them.

    ``path`` is a torch file, read without executing anything in it, whose ``state_dict`` holds the
    prompts: ``prompt_learner.ctx``, ``image_encoder.VPT`` and a ``VPT_shallow`` for each later
    block. Numbers and depths are derived from it; ``ctx_init`` must be the one it was trained with.
    Only the prompts are taken. The file's CLIP tensors, which the release averages in fp16 and so
    changes by up to 7e-4 relative, are ignored in favor of ``backbone`` with ``weights``.

    Source: Li et al., PromptKD: Unsupervised Prompt Distillation for Vision-Language Models,
    CVPR 2024, arXiv 2403.02781.
    """

    @classmethod
    def input_files(cls, parameters: Mapping[str, Any]) -> tuple[Path, ...]:
        return (Path(parameters["path"]),)

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
        published = read_published(Path(path))
        clip = _clip(backbone, weights, student)
        shapes = _prompt_shapes(published, clip)
        method = IVLP(clip, classes, NO_SEEDS, ctx_init=ctx_init, **shapes)
        load_published(method, method.released_names(), published)
        super().__init__(student, method)


def _run_folder(run: str) -> Path:
    return Path(run).parent if Path(run).is_file() else Path(run)


def _trained_classes(
    record: RunRecord | None, config: Config, classes: ClassNames, run: str
) -> ClassNames:
    """The classes that an earlier run was trained on, with the template of ``classes``.

    Without scores in its record they are unknown. Then they are ``classes``, the student's, except
    for a method that learns something for every class, which is refused with a ValueError.
    """
    scored = () if record is None else own_scores(record)
    names = next((found.class_names for found in scored if found.classes != "new"), None)
    if names is not None:
        return replace(classes, names=names)
    values: dict[str, Any] = config.operative("experiment")
    name = values["experiment.method"].name
    own = {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{name}.")}
    if reason := lookup(name).ask("closed_set", own):
        raise ValueError(
            f"the run {run!r} cannot teach: {name} scores only classes that it was trained on "
            f"({reason}), and no record says which; give the folder of a finished run"
        )
    return classes


def _prompt_shapes(published: Published, clip: FrozenCLIP) -> dict[str, Any]:
    """Numbers and depths of the prompts in an IVLP or PromptSRC checkpoint, as IVLP calls them.

    Raises ValueError for a file without such prompts, and for prompts of another backbone.
    """
    path, tensors = published.path, published.tensors
    if "ctx" not in tensors:
        raise ValueError(
            f"{path} is not an IVLP or PromptSRC checkpoint: it has no tensor 'prompt_learner.ctx' "
            f"(first names: {sorted(tensors)[:3]})"
        )
    text = tensors["ctx"]
    if text.dim() != 2:
        raise ValueError(f"{path} holds a class-specific context, which cannot teach other classes")
    vision = tensors.get("image_encoder.VPT", torch.zeros(0, clip.spec.vision_width))
    widths = (clip.spec.text_width, clip.spec.vision_width)
    found = (text.shape[1], vision.shape[1])
    if found != widths:
        raise ValueError(
            f"{path} holds prompts of text and vision widths {found}, but {clip.name} has "
            f"{widths}; set PublishedTeacher.backbone to its own backbone"
        )
    later = [name.split(".")[0] for name in tensors if name.endswith(".VPT_shallow")]
    return {
        "num_ctx_text": len(text),
        "num_ctx_vision": len(vision),
        "depth_text": 1 + later.count("text_encoder"),
        "depth_vision": (1 + later.count("image_encoder")) if len(vision) else 0,
    }


def _clip(backbone: Any, weights: Any, student: FrozenCLIP) -> FrozenCLIP:
    """A teacher's backbone, on the device and in the precision of the student's.

    Where the student plans without towers, so does the teacher.
    """
    clip = shared_clip(backbone, weights, str(student.scale.device), student.stored_as)
    return TowerlessCLIP(clip) if isinstance(student, TowerlessCLIP) else clip


def _check_teaches(method: Method, refiner: Refiner, run: str) -> None:
    if list(refiner.state_dict()):
        raise ValueError(
            f"the run {run!r} used a refiner; a teacher must be a base method without refiner"
        )
    if not isinstance(method, TextMethod):
        raise ValueError(
            f"the run {run!r} trained {type(method).__name__}, whose class texts depend on the "
            "image; a teacher needs one text per class, as PromptSRC has"
        )


def _check_record(record: RunRecord, clip: FrozenCLIP, run: str, *, allow_changed: bool) -> None:
    """Raise ValueError for an earlier run that did not finish, or had another backbone."""
    if record.status != "finished":
        raise ValueError(f"the run {run!r} cannot teach: it {record.status} ({record.message})")
    activation = "quick-GELU" if clip.spec.quick_gelu else "GELU"
    now = {"backbone": clip.spec.fingerprint, "activation": activation}
    for name, value in now.items():
        stored = record.fingerprints.get(name, value)
        if stored != value and not allow_changed:
            raise ValueError(
                f"the run {run!r} was made with another {name} ({stored}, now {value}); restore "
                "the weights, or set RunTeacher.allow_changed = True"
            )


def _check_same_images(student: FrozenCLIP, teacher: FrozenCLIP) -> None:
    """Raise ValueError unless the same batch of pixels is valid for both."""

    def seen(clip: FrozenCLIP) -> tuple[Any, ...]:
        spec = clip.spec
        squash = ("squashed",) if spec.squash else ()
        return spec.image_size, spec.image_mean, spec.image_std, *squash

    if seen(student) != seen(teacher):
        raise ValueError(
            f"teacher {teacher.name} and student {student.name} see images of different size or "
            f"normalization: {seen(teacher)} and {seen(student)}; use a teacher with the same input"
        )
