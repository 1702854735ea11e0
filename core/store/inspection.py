"""What the inspect command finds in one run: the values that ``RUN/inspect/`` shows.

Pictures are PNG files as bytes. Standard library only, so that drawing does not load torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.store.predictions import PredictedClasses
from core.store.record import RunRecord

NOT_IN_FILES = {"in_files": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """A test image as the model sees it, with its class and the predicted one."""

    path: str
    true: str
    predicted: str
    confidence: float
    png: bytes = field(repr=False, metadata=NOT_IN_FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusedPair:
    """``count`` of the ``images`` of the class ``true`` are predicted as ``predicted``; the
    examples are those with the highest confidence.
    """

    dataset: str
    subset: str
    true: str
    predicted: str
    count: int
    images: int
    examples: tuple[ShownImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPatch:
    """A patch of a test image and its surroundings. ``box`` is the patch within the picture: left,
    top, right and bottom as fractions.
    """

    path: str
    true: str
    cosine: float
    box: tuple[float, float, float, float] = field(metadata=NOT_IN_FILES)
    png: bytes = field(repr=False, metadata=NOT_IN_FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A class text or a word that is near to a vector; ``value`` is a cosine or a distance."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotView:
    """One slot of a memory: ``share`` of the patches have it as their nearest slot; ``label`` is
    its class where slots have one.
    """

    slot: int
    label: str
    share: float
    texts: tuple[Neighbor, ...]
    patches: tuple[SlotPatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionView:
    """Where CLS attends in the last block, (rows x columns) of patches, and the nearest slot of
    every patch; ``slots`` is empty without a memory.
    """

    image: ShownImage
    grid: tuple[int, int]
    attention: tuple[float, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextView:
    """A learned context vector and the words of the vocabulary that are nearest to it."""

    name: str
    by_cosine: tuple[Neighbor, ...]
    by_distance: tuple[Neighbor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that is shown of one run. ``not_shown`` maps what cannot be shown to the reason.

    ``num_images`` test images were looked at for patches and attention, of which ``num_patches``
    each. ``slot_cosine`` is the mean cosine between two slots.
    """

    record: RunRecord
    settings: Mapping[str, str]
    predictions: tuple[PredictedClasses, ...]
    epochs: tuple[Mapping[str, Any], ...]
    confused: tuple[ConfusedPair, ...]
    num_images: int
    num_patches: int
    num_slots: int
    slot_cosine: float | None
    slots: tuple[SlotView, ...]
    attention: tuple[AttentionView, ...]
    context: tuple[ContextView, ...]
    not_shown: Mapping[str, str]
