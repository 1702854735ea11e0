"""Loading checkpoints of the released trainers into the methods of this suite.

CoOp and what followed it, such as KgCoOp, MaPLe and TextRefiner, are trainers of Dassl (Zhou et
al., Domain Adaptive Ensemble Learning, TIP 2021, arXiv 2003.07325). It writes one torch file per
epoch and registered model, ``OUTPUT/<registered name>/model.pth.tar-<epoch>``, holding
``state_dict``, ``epoch``, ``optimizer``, ``scheduler`` and ``val_result``; TextRefiner adds
``memory_item`` to the file of its memory. Methods, refiners and parts declare how these files name
their tensors (``released_names``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.clip.weights import add_named, tensors_of
from core.finite import check_finite, check_real
from core.tensor_files import is_safetensors, load_torch, read_safetensors

WHAT = "checkpoint"
MEMORY = "memory_item"
# They are derived from the class names; the released code drops them whenever it loads a file.
CLASS_BUFFERS = r"token_(prefix|suffix|midfix)\d*|tokenized_prompts|frozen_text_embedding"
# The file's own CLIP, prompts apart. PromptSRC averages even its frozen tensors in half precision,
# which changes them by up to 7e-4 relative; a run uses the backbone it names.
BACKBONE = r"(image_encoder|text_encoder|ZS_image_encoder)\.(?!.*VPT).*|logit_scale"


class _Shell:
    """Stands in for an object in a checkpoint that is not needed; discards its content."""

    def __init__(self, *args: object) -> None:
        """Accepts and ignores the object's constructor arguments."""

    def __setstate__(self, state: object) -> None:
        """Accepts and ignores the object's state."""


def _plain_dict(*args: object) -> dict[Any, Any]:
    return {}


# A scheduler with warm-up pickles the scheduler behind it, and with it the optimizer, as objects,
# so that almost no published file consists of tensors and numbers alone. These names are read as
# empty stand-ins; any other object in a file is refused.
SHELLS = tuple(
    (_Shell, name)
    for name in (
        "torch.optim.sgd.SGD",
        "torch.optim.adam.Adam",
        "torch.optim.adamw.AdamW",
        "torch.optim.rmsprop.RMSprop",
        "torch.optim.lr_scheduler.StepLR",
        "torch.optim.lr_scheduler.MultiStepLR",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    )
)
PLAIN = ((dict, "builtins.dict"), (_plain_dict, "collections.defaultdict"))


@dataclass(frozen=True, kw_only=True)
class Published:
    """The tensors of a published checkpoint, without the prefix ``prompt_learner.``; its epoch."""

    path: Path
    tensors: Mapping[str, Tensor]
    epoch: int = 0

    def beside(self, registered: str) -> "Published":
        """With the tensors of another registered model, saved at the same time."""
        path = self.path.parent.parent / registered / self.path.name
        if not path.is_file():
            raise ValueError(
                f"{self.path} is one of two files: the other is expected at {path}; keep the "
                "folders as the trainer wrote them"
            )
        return replace(self, tensors={**self.tensors, **read_published(path).tensors})


def read_published(path: Path) -> Published:
    """Read a checkpoint with ``weights_only``: nothing in it is executed.

    Raises ValueError for a file that is missing, damaged, holds other objects, or no tensors.
    """
    if path.is_dir():
        raise ValueError(
            f"checkpoint {path} is a folder; give the file in it, such as "
            f"{_newest(path) or path / 'prompt_learner' / 'model.pth.tar-50'}"
        )
    if is_safetensors(path):
        loaded: Any = read_safetensors(path, WHAT)
    else:
        with torch.serialization.safe_globals([*SHELLS, *PLAIN]):
            loaded = load_torch(path, WHAT)
    named = loaded if isinstance(loaded, dict) else {}
    state, epoch = named.get("state_dict", named), named.get("epoch", 0)
    beside = {MEMORY: named[MEMORY]} if MEMORY in named else {}
    what = f"{WHAT} {path}"
    state = tensors_of({**state, **beside} if isinstance(state, dict) else {}, what)
    if not state:
        raise ValueError(f"checkpoint {path} holds no tensors, neither alone nor in 'state_dict'")
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        add_named(tensors, name.removeprefix("prompt_learner."), value, what)
    return Published(path=path, tensors=tensors, epoch=epoch if isinstance(epoch, int) else 0)


@torch.no_grad()
def load_published(
    module: nn.Module,
    names: Mapping[str, str | None],
    published: Published,
    *,
    unused: tuple[str, ...] = (),
) -> None:
    """Load published tensors into a module, in the module's precision.

    ``names`` maps the module's tensors to published names, None where the file does not have one.
    ``unused`` are patterns of published names that are not needed. Raises ValueError, before
    anything changes, for a trainable parameter that ``names`` leaves out, and for tensors that are
    missing, unknown or of another shape.
    """
    own = module.state_dict(keep_vars=True)
    if lost := sorted(k for k, v in own.items() if v.requires_grad and k not in names):
        raise ValueError(
            f"{published.path} cannot be read into this configuration: {lost[0]!r} has no name in "
            "published checkpoints; use released methods and parts"
        )
    wanted = {ours: theirs for ours, theirs in names.items() if theirs is not None}
    _check_names(published, set(wanted.values()), unused)
    counters = {theirs for ours, theirs in wanted.items() if not own[ours].is_floating_point()}
    used = {theirs: published.tensors[theirs] for theirs in wanted.values()}
    check_real(used, f"{WHAT} {published.path}", whole=counters)
    found = {ours: _matrix(published.tensors[theirs]) for ours, theirs in wanted.items()}
    single = {wanted[k]: v.to(own[k].dtype) for k, v in found.items()}
    check_finite(single, f"{WHAT} {published.path}", "the training diverged or the file is damaged")
    for ours, theirs in wanted.items():
        if found[ours].shape != own[ours].shape:
            raise ValueError(
                f"{theirs!r} is {tuple(found[ours].shape)} in {published.path}, but {ours!r} is "
                f"{tuple(own[ours].shape)} here; set the method, its sizes and the backbone as "
                f"they were trained{_context_hint(ours, found[ours], own[ours])}"
            )
    for ours, value in found.items():
        own[ours].copy_(value)


def _context_hint(name: str, found: Tensor, own: Tensor) -> str:
    """The way out for a context of another number of vectors: its words decide about it."""
    if name.rpartition(".")[2] != "ctx" or found.shape[-1:] != own.shape[-1:] or found.dim() < 2:
        return ""
    number = found.shape[-2]
    return (
        f": a context of {number} vectors had {number} words in ctx_init, or ctx_init = '' with "
        f"num_ctx = {number}"
    )


def two_layer_names(prefix: str) -> dict[str, str]:
    """Published names of a head of two 1x1 convolutions with batch norm between, by name here."""
    names = {
        f"{ours}.{kind}": f"{prefix}.conv1.{place}.{kind}"
        for ours, place in (("fc1", 0), ("norm", 1), ("fc2", 3))
        for kind in ("weight", "bias")
    }
    running = ("running_mean", "running_var", "num_batches_tracked")
    return names | {f"norm.{kind}": f"{prefix}.conv1.1.{kind}" for kind in running}


def _newest(folder: Path) -> Path | None:
    """The last checkpoint in a folder that a trainer wrote."""
    found = sorted(folder.rglob("model.pth.tar-*"), key=lambda path: (len(path.name), path.name))
    return found[-1] if found else None


def _check_names(published: Published, wanted: set[str], unused: tuple[str, ...]) -> None:
    dropped = re.compile("|".join((CLASS_BUFFERS, BACKBONE, *unused)))
    there = set(published.tensors)
    unknown = sorted(name for name in there - wanted if not dropped.fullmatch(name))
    for problem, names in (("lacks", sorted(wanted - there)), ("also holds", unknown)):
        if names:
            raise ValueError(
                f"{published.path} does not fit this configuration: it {problem} {len(names)} "
                f"tensors, first {names[0]!r}; is it from another method or other prompt depths?"
            )


def _matrix(value: Tensor) -> Tensor:
    """A 1x1 convolution is a matrix."""
    return value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value
