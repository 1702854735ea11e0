"""The central interfaces: a base method, a refiner on top of it, a loss term.

Every hook that training, evaluation or a configuration calls on a method or a refiner is declared
here with a default, or in ``core.config.Configurable``, which all registered classes share
(``simplify``, ``idle``, ``input_files``). Shapes: B images, C classes, D joint width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.config import Configurable
from core.types import Batch, ClassNames, Forward, ImageFeatures, Memory, MethodOutput

Criterion = Callable[[Tensor, Tensor], Tensor]
"""A classification loss: logits and targets to a 0-d mean over rows."""


class LossTerm(Protocol):
    """One summand of an objective, its weight already applied; 0-d."""

    def __call__(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor: ...


class Method(nn.Module, Configurable, ABC):
    """Learns prompts for a frozen CLIP; one subclass per file.

    Built as ``Method(clip, classes, seeds, *, hyper-parameters)``. ``regime`` states which images
    training may see; ``provides`` which image fields a refiner may request; ``batch_coupled`` that
    a prediction depends on the other images of its batch; ``image_input`` whether training can run
    on cached frozen features or must see pixels; ``trains`` that there is something to learn;
    ``eval_batch_size`` bounds an evaluation batch; ``released_unused`` are patterns of names in the
    authors' checkpoints that are not needed.
    """

    regime: str = "inductive"
    provides: ClassVar[frozenset[str]] = frozenset({"pooled", "local", "attention"})
    batch_coupled: bool = False
    image_input: ClassVar[Literal["features", "pixels"]] = "features"
    trains: ClassVar[bool] = True
    eval_batch_size: ClassVar[int] = 4096
    released_unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, clip: FrozenCLIP, classes: ClassNames) -> None:
        super().__init__()
        self.clip = clip
        self.classes = classes

    @abstractmethod
    def forward(self, batch: Batch) -> Forward:
        """Unit image features, unit class texts and what a refiner needs, for one batch."""

    @abstractmethod
    def set_classes(self, classes: ClassNames) -> None:
        """Score other classes from now on, with what was learned; ValueError if not possible."""

    @abstractmethod
    def loss_terms(self) -> Mapping[str, LossTerm]:
        """The method's own objective; the loss is the sum."""

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Whether a dataset's template can matter, given the method's parameters by bare name and
        those of all classes by ``Class.parameter``. False where the method makes its own prompts.
        """
        return True

    def texts_once(self) -> AbstractContextManager[None]:
        """A context in which class texts may be encoded once and kept, for evaluation."""
        return nullcontext()

    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        """Called once before the first step; ``batches`` is one pass over the training images."""

    def end_epoch(self, epoch: int) -> None:
        """Called after each epoch, counted from 1."""

    def end_training(self) -> None:
        """Called once after the last epoch, before the epoch to report is chosen."""

    def released_names(self) -> Mapping[str, str | None]:
        """Learned tensors: name here -> name in the authors' checkpoints, where they exist.

        None marks a tensor that keeps its initial value on import. See
        ``core/train/published_checkpoints.py``.
        """
        return {}

    def context_vectors(self) -> Mapping[str, Tensor]:
        """Learned vectors (N, W), or one set per class (C, N, W), that stand at the input of the
        text tower in place of token embeddings, by a name for readers; none by default.
        """
        return {}

    def targets(self, batch: Batch) -> Tensor:
        """What ``criterion`` compares logits with; the labels unless a method overrides this."""
        return batch.labels

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The classification loss, reused by a refiner's semantic term; mean over rows."""
        return F.cross_entropy(logits, targets)

    def output(self) -> MethodOutput:
        """Widths and counts of what ``forward`` returns, for a refiner."""
        spec = self.clip.spec
        return MethodOutput(
            text_width=spec.joint_width,
            local_width=spec.joint_width,
            num_patches=spec.num_patches,
            num_classes=len(self.classes),
            provides=self.provides,
        )

    def image_features(self, batch: Batch) -> ImageFeatures:
        """Frozen features of the batch: the cached ones, or those of its pixels."""
        if batch.features is not None:
            return batch.features
        assert batch.pixels is not None
        with torch.no_grad():
            return self.clip.encode_image(batch.pixels, need=batch.need)


class Refiner(nn.Module, Configurable, ABC):
    """Takes a base method's output and improves its class texts.

    Built as ``Refiner(source, seeds, *, parts)`` with the method's ``output()`` as the source.
    ``released_file`` is the folder of its own checkpoint file, if the authors write one beside the
    method's.
    """

    released_file: ClassVar[str] = ""

    @abstractmethod
    def forward(self, out: Forward) -> Forward:
        """The same output with refined ``text``; never changes state."""

    def observe(self, out: Forward, targets: Tensor | None = None) -> None:
        """State change of one training step, such as a cache write.

        Receives the output of ``forward`` and the targets of the method's criterion: labels (B,),
        or (B, C) where the method learns from a teacher.
        """

    def released_names(self) -> Mapping[str, str | None]:
        """As ``Method.released_names``."""
        return {}

    def needs(self) -> frozenset[str]:
        """Image fields that training uses beyond ``pooled``."""
        return frozenset()

    def memory(self) -> Memory | None:
        """What class texts read from, for inspection; None for a refiner without a memory."""
        return None

    def memory_tokens(self, out: Forward) -> Tensor | None:
        """The local tokens (B, 1+P, D) of a method's output as the memory compares and stores them;
        None where the output has no local tokens or nothing is compared.
        """
        return None

    def loss_terms(self) -> Mapping[str, LossTerm]:
        """Terms added to the method's own."""
        return {}
