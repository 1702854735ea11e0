"""The central interfaces: a base method, a refiner on top of it, a loss term.

Every hook that training, evaluation or a configuration calls on a method or a refiner is declared
here with a default, or in ``core.config.Configurable``, which all registered classes share
(``simplify``, ``idle``, ``input_files``). Shapes: B images, C classes, D joint width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.clip.image_towers import POOLED
from core.config import Configurable
from core.types import (
    NO_FROZEN_USE,
    Batch,
    ClassNames,
    Forward,
    FrozenUse,
    ImageFeatures,
    Memory,
    MethodOutput,
    Tower,
)

Criterion = Callable[[Tensor, Tensor], Tensor]
"""A classification loss: logits and targets to a 0-d mean over rows."""


Gradients = Mapping[str, Tensor]
"""Gradients by the name of the parameter."""

Score = Callable[[Batch], Forward]
"""The output for a batch of the whole model: the method with the refiner on top of it."""

NOTHING_SHAPED: frozenset[str] = frozenset()


class ParameterGroup(NamedTuple):
    """Parameters with a rate of their own: ``lr_factor`` times the scheduled learning rate, but in
    a constant warm-up, and another weight decay, unless None.
    """

    parameters: tuple[nn.Parameter, ...]
    lr_factor: float = 1.0
    weight_decay: float | None = None


class LossTerm(Protocol):
    """One summand of an objective, its weight already applied; 0-d."""

    def __call__(self, out: Forward, targets: Tensor, criterion: Criterion) -> Tensor: ...


class Method(nn.Module, Configurable, ABC):
    """Learns prompts for a frozen CLIP; one subclass per file.

    Built as ``Method(clip, classes, seeds, *, hyper-parameters)``. ``regime`` states which images
    training may see; ``provides`` which image fields a refiner may request; ``batch_coupled`` that
    a prediction depends on the other images of its batch; ``image_input`` whether training can run
    on cached frozen features or must see pixels; ``eval_batch_size`` bounds an evaluation batch;
    ``released_unused`` are patterns of names in the authors' checkpoints that are not needed.

    ``trains`` says that there is something to learn from training images, ``trains_by_gradient``
    that this takes steps: without, the budget has no effect, and ``begin_training`` is all.
    ``data_shaped`` names learned tensors whose first size depends on the training images: they
    have no rows until ``begin_training`` gives them some, or a checkpoint does.
    ``graphed_steps`` False says that a step does what a recording of the device's work would not
    repeat, and is not found by trying (``core/train/graphed_step.py``).
    ``views_per_image`` counts the views of an image in a training batch: the batch itself and
    ``Batch.views``. ``test_views`` counts the random views in ``Batch.views`` of an evaluation
    batch, whose own images are the evaluation view; they need pixels.
    ``reads_frozen`` says which images a method that sees pixels reads through the frozen tower as
    well: their batches come with the pooled ``features`` of that tower, computed once whoever asks
    for them, or taken from the cache where the view is fixed. ``frozen_features`` gives them,
    whether a batch has them or not. An instance may need fewer than its class.

    ``adapts_to`` names what the method adapts to at test time, "" for nothing: "image", every test
    image on its own, whatever else is in the batch; or "stream", one image after the other, in an
    order that the run's seed draws. ``reset_adaptation`` is called before every batch of images,
    or once before and after the stream; then ``adapt`` and ``forward`` with the same batch.
    """

    regime: str = "inductive"
    provides: ClassVar[frozenset[str]] = frozenset({"pooled", "local", "attention"})
    batch_coupled: bool = False
    image_input: ClassVar[Literal["features", "pixels"]] = "features"
    trains: ClassVar[bool] = True
    trains_by_gradient: ClassVar[bool] = True
    data_shaped: ClassVar[frozenset[str]] = NOTHING_SHAPED
    views_per_image: ClassVar[int] = 1
    graphed_steps: ClassVar[bool] = True
    test_views: int = 0
    reads_frozen: frozenset[FrozenUse] = NO_FROZEN_USE
    adapts_to: ClassVar[Literal["", "image", "stream"]] = ""
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

    def classification_terms(self) -> Mapping[str, float]:
        """Those of ``loss_terms`` that are ``criterion`` on the logits, by name, with the weight
        that they have: "ce" of weight 1, if there is one. A refiner with a classifier of its own
        shares them, and refuses a method that names none.
        """
        return {"ce": 1.0} if "ce" in self.loss_terms() else {}

    @classmethod
    def reads_template(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
        """Whether a dataset's template can matter, given the method's parameters by bare name and
        those of all classes by ``Class.parameter``. False where the method makes its own prompts.
        """
        return True

    @classmethod
    def closed_set(cls, parameters: Mapping[str, Any]) -> str:
        """Why only classes that were trained on can be scored, given the method's parameters by
        bare name; "" if others can be as well. Protocols that score others refuse such a method.
        """
        return ""

    @classmethod
    def hooked_towers(cls, parameters: Mapping[str, Any]) -> frozenset[Tower]:
        """The towers into whose blocks the method puts something, given its parameters by bare
        name: deep prompts, fusions. A backbone without a way in is refused before any work.
        """
        return frozenset()

    def texts_once(self) -> AbstractContextManager[None]:
        """A context in which class texts may be encoded once and kept, for evaluation."""
        return nullcontext()

    def begin_training(self, batches: Iterable[Batch], num_epochs: int) -> None:
        """Called once before the optimizer is built and the first step is made; ``batches`` is one
        pass over the training images, where these are cached features with all their fixed views.
        Parameters that depend on them are set here.
        """

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Parameters with a rate of their own; all others have the optimizer's."""
        return ()

    def guide_terms(self) -> Mapping[str, LossTerm]:
        """Terms that are no part of the loss, but whose gradients ``after_backward`` receives."""
        return {}

    def after_backward(self, gradients: Mapping[str, Gradients]) -> None:
        """Called in every step between the gradient of the loss and the update, to change the
        ``grad`` of parameters in place. ``gradients`` are those of each guide term with respect to
        the method's parameters, by the name of the term and of the parameter.
        """

    def metrics(self) -> Mapping[str, float | Tensor]:
        """What the epoch log holds of the epoch that ends, beside the loss terms; asked for once an
        epoch, before ``end_epoch``. Counters start anew with it. Tensors of one number stay on the
        device, so that the host waits for all of an epoch at once.
        """
        return {}

    def training_state(self) -> Mapping[str, Tensor]:
        """What later epochs depend on beside parameters, saved buffers and what ``begin_training``
        makes: sums over epochs, answers that were kept. A training that is resumed starts with
        ``begin_training`` and then gets this back.
        """
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``training_state`` returned, of the same run after some epoch."""

    def end_epoch(self, epoch: int) -> None:
        """Called after each epoch, counted from 1."""

    def end_training(self) -> None:
        """Called once after the last epoch, before the epoch to report is chosen."""

    def adapt(self, batch: Batch, score: Score) -> None:
        """Adapt to the images of an evaluation batch, without their labels.

        Gradients are enabled. What is kept is no learned state: neither a Parameter nor a saved
        buffer. ``score`` is the output of method and refiner as adapted so far.
        """

    def reset_adaptation(self) -> None:
        """Forget what ``adapt`` kept."""

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
            provides=self.provides & spec.support.image_fields,
            classification=self.classification_terms(),
        )

    def image_features(self, batch: Batch) -> ImageFeatures:
        """What ``forward`` scores: the features of the frozen tower, unless a method changes it."""
        return self.frozen_features(batch, batch.need)

    def frozen_features(self, batch: Batch, need: frozenset[str] = POOLED) -> ImageFeatures:
        """Features of the frozen tower, without gradient: what the batch knows of them, or else
        those of its pixels.
        """
        known = batch.features
        if known is not None and (batch.pixels is None or known.has(need)):
            return known
        assert batch.pixels is not None
        with torch.no_grad():
            return self.clip.encode_image(batch.pixels, need=need)


class Refiner(nn.Module, Configurable, ABC):
    """Takes a base method's output and improves its class texts.

    Built as ``Refiner(source, seeds, *, parts)`` with the method's ``output()`` as the source, and
    then told the classes by ``set_classes``. ``released_file`` is the folder of its own checkpoint
    file, if the authors write one beside the method's. ``data_shaped`` as in Method.
    """

    released_file: ClassVar[str] = ""
    data_shaped: ClassVar[frozenset[str]] = NOTHING_SHAPED

    @abstractmethod
    def forward(self, out: Forward) -> Forward:
        """The same output with refined ``text``; never changes state."""

    def set_classes(self, classes: ClassNames) -> None:
        """The classes that the method scores from now on: once after construction, those that are
        trained on, and whenever the method is re-bound.
        """

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """As ``Method.parameter_groups``."""
        return ()

    def metrics(self) -> Mapping[str, float | Tensor]:
        """As ``Method.metrics``."""
        return {}

    def observe(self, out: Forward, targets: Tensor | None = None) -> None:
        """State change of one training step, such as a cache write.

        Receives the output of ``forward`` and the targets of the method's criterion: labels (B,),
        or (B, C) where the method learns from a teacher.
        """

    def released_names(self) -> Mapping[str, str | None]:
        """As ``Method.released_names``."""
        return {}

    def training_state(self) -> Mapping[str, Tensor]:
        """As ``Method.training_state``."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """As ``Method.load_training_state``."""

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

    def method_terms(self, terms: Mapping[str, LossTerm]) -> Mapping[str, LossTerm]:
        """The method's own terms, of its loss or its guides, as they are computed from the output
        of ``forward``: unchanged, unless the refiner takes some of their weight or of their input.
        """
        return terms
