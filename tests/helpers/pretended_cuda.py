"""A pretended GPU for a machine without one: real numbers on the CPU, tensors that say "cuda:0".

``with PretendedCuda() as gpu`` makes ``device="cuda"`` work on a CPU-only build of torch. Every
tensor keeps its numbers in ordinary memory; a table says on which device each storage pretends to
be. A function mode answers what a program asks of devices (``.device``, ``.to``, factories,
generators, ``.numpy``); a dispatch mode holds every operator call, backward and optimizer included,
against the rules of a real GPU:

* tensors of two devices in one call are an error (``DeviceMismatch``) that names the program's
  line;
* whatever makes the host wait for the GPU is counted by line in ``gpu.waits``: numbers read back,
  copies between the memories that are not ``non_blocking``, operators whose result's size depends
  on numbers;
* operators whose CUDA kernels add in no fixed order, where several numbers do meet in one place,
  are counted in ``gpu.unordered``, and those that torch refuses in deterministic runs are refused;
* the backward passes of ``x[index]`` in which several numbers meet, which CUDA sorts and adds one
  after the other, are counted in ``gpu.one_by_one``;
* copies from the host are counted by line in ``gpu.copies``, and in ``gpu.pageable`` those from
  memory that is not pinned, for which a driver may let the host wait.

Why not FakeTensorMode: on a CPU-only build (tried with torch 2.13.0+cpu) forward works for
"cuda:0", ``.to("cuda")`` is refused and the first backward aborts the process, since no CUDA device
guard is linked in. FakeTensors have no numbers either, and methods read some while they are built.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import core.clip.backbone as backbone
import experiments.run.environment as environment
import experiments.run.image_source as image_source

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
FREE_BYTES = 80 * 2**30
aten = torch.ops.aten
GETTERS = {
    Tensor.device.__get__: "",
    Tensor.is_cuda.__get__: "cuda",
    Tensor.is_cpu.__get__: "cpu",
}

# On a GPU the host waits in these: it needs a number, or the size of the result.
READ_BACK = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
    "aten::repeat_interleave",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Their CUDA kernels add with atomics: in no fixed order where several numbers meet in one place.
UNORDERED = {
    "aten::index_add_",
    "aten::index_add",
    "aten::scatter_add",
    "aten::scatter_add_",
    "aten::embedding_dense_backward",
}
# torch.use_deterministic_algorithms refuses these on a GPU: it knows no order for them.
SAME_KIND = "aten::_has_compatible_shallow_copy_type"  # asks of tensors on any devices
REFUSED = {
    "aten::put_",
    "aten::histc",
    "aten::kthvalue",
    "aten::median.dim",
    "aten::nll_loss2d_forward",
    "aten::reflection_pad2d_backward",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::grid_sampler_2d_backward",
    "aten::_adaptive_avg_pool2d_backward",
    "aten::avg_pool3d_backward",
    "aten::max_pool3d_with_indices_backward",
    "aten::_ctc_loss_backward",
}
REFUSED_OF_FRACTIONS = {"aten::cumsum", "aten::cumsum_"}


class DeviceMismatch(RuntimeError):
    """What torch says on a GPU: expected all tensors to be on the same device."""


class Devices:
    """Where each storage pretends to be; storages that nobody moved are on the CPU."""

    def __init__(self) -> None:
        self.moved: dict[int, tuple[StorageWeakRef, torch.device | None]] = {}

    def of(self, tensor: Tensor) -> torch.device | None:
        """cuda:0, cpu, or None for a constant that the backward pass made and fits everywhere."""
        if tensor.device.type != "cpu":
            return tensor.device
        found = self.moved.get(tensor.untyped_storage()._cdata)
        return CPU if found is None or found[0].expired() else found[1]

    def known(self, tensor: Tensor) -> bool:
        found = self.moved.get(tensor.untyped_storage()._cdata)
        return found is not None and not found[0].expired()

    def put(self, tensor: Tensor, device: torch.device | None) -> None:
        storage = tensor.untyped_storage()  # a weak reference keeps its number from being reused
        self.moved[storage._cdata] = (StorageWeakRef(storage), device)
        if len(self.moved) > 20_000:
            self.moved = {k: v for k, v in self.moved.items() if not v[0].expired()}


def forget() -> None:
    """Nothing that an earlier run put on a device is used again."""
    backbone._shared_clip.cache_clear()
    image_source._store.cache_clear()
    environment._lasting.cache_clear()


class PretendedCuda:
    """The pretended GPU. ``root``: whose lines are named. With ``strict`` a mismatch is raised."""

    def __init__(self, root: Path, *, strict: bool = True, sites: int = 3) -> None:
        self.root, self.strict, self.sites = root, strict, sites
        self.devices = Devices()
        self.waits: Counter[str] = Counter()
        self.unordered: Counter[str] = Counter()
        self.one_by_one: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.copied = {"host to device": 0, "device to host": 0}
        self.copies: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()
        self.pinned = Devices()
        self.free_bytes = FREE_BYTES  # of the pretended memory
        self.asked_by_python = False  # whether a tensor that is made now was asked for by name
        self.number_put = False  # ``x[i] = 3``: torch makes the number on x's device
        self.checked_on_cpu = False  # one_hot reads numbers back on the CPU alone
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PretendedCuda:
        forget()
        for name, value in {
            "device_count": lambda: 1,
            "get_device_name": lambda *_: "pretended",
            "max_memory_allocated": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None,
            "synchronize": lambda *_: None,
            "mem_get_info": lambda *_: (self.free_bytes, FREE_BYTES),
            "memory_reserved": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
            "Stream": mock.MagicMock(),
            "current_stream": mock.MagicMock(),
            "stream": lambda *_: contextlib.nullcontext(),
        }.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, value))
        nothing = mock.patch.object(Tensor, "record_stream", return_value=None)
        self._stack.enter_context(nothing)
        cpu_autocast = torch.autocast
        self._stack.enter_context(
            mock.patch.object(torch, "autocast", lambda device_type, **k: cpu_autocast("cpu", **k))
        )
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            ask = partial(getattr(torch, name), "cpu")
            self._stack.enter_context(mock.patch.object(torch, name, lambda *_, ask=ask: ask()))
        # Newer torch hands torch.autograd.backward itself to the mode, and takes the mode away for
        # the whole backward pass; what is recomputed there must see it, too.
        if hasattr(torch.autograd, "has_torch_function"):
            self._stack.enter_context(
                mock.patch.object(torch.autograd, "has_torch_function", return_value=False)
            )
        # What is packed for the backward pass is looked at with the modes away: leave devices out.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        shapes = {"default": lambda x: {"shape": x.shape, "dtype": x.dtype}}
        self._stack.enter_context(mock.patch.dict(checks, shapes))
        ordered = torch.are_deterministic_algorithms_enabled()
        self._stack.callback(torch.use_deterministic_algorithms, ordered)
        self._stack.enter_context(_Operators(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()
        forget()

    def line(self) -> str:
        """The lines of the program that are being executed, innermost first."""
        here = f"{self.root}/"
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(here)]
        others = (f"{here}tests/", "/site-packages/")  # an environment may be below the root
        frames = [f for f in frames if not any(other in f.filename for other in others)]
        lines = [f"{Path(f.filename).relative_to(self.root)}:{f.lineno}" for f in frames[::-1]]
        return " < ".join(lines[: self.sites]) or "(backward or optimizer)"

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {self.line()}"] += 1

    def mismatch(self, text: str) -> None:
        self.mixed[f"{text} at {self.line()}"] += 1
        if self.strict:
            raise DeviceMismatch(f"{text} at {self.line()}")

    def copy(self, tensor: Tensor, target: torch.device, non_blocking: bool) -> None:
        """Book a copy between the memories."""
        way = "host to device" if target.type == "cuda" else "device to host"
        self.copied[way] += tensor.nbytes
        if target.type == "cuda":
            self.copies[self.line()] += 1
            if not self.pinned.known(tensor):
                self.pageable[self.line()] += 1
        if not non_blocking:
            self.wait(f"copy {way}")


class _Functions(TorchFunctionMode):
    """What a program asks of devices."""

    def __init__(self, gpu: PretendedCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        gpu, devices = self.gpu, self.gpu.devices
        if func in GETTERS:  # each access makes a new method wrapper: compared, never identical
            place = devices.of(args[0]) or CUDA
            return place if func == Tensor.device.__get__ else place.type == GETTERS[func]
        if func is Tensor.backward:
            with self:
                return torch.autograd.backward(*args, **kwargs)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self.move(func, args, kwargs)
        if func is Tensor.pin_memory:
            return self.pin(Tensor.clone(args[0]))
        if kwargs.pop("pin_memory", False):
            return self.pin(func(*args, **kwargs))
        if func in (Tensor.numpy, Tensor.__array__) and devices.of(args[0]) == CUDA:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {gpu.line()}")
        if func is Tensor.tolist and devices.of(args[0]) == CUDA:
            gpu.wait("tolist")
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if target is None or target.type != "cuda":
            now = {
                "asked_by_python": not any(
                    isinstance(x, Tensor) for x in tree_iter((args, kwargs))
                ),
                "number_put": func is Tensor.__setitem__ and not isinstance(args[2], Tensor),
                "checked_on_cpu": func is torch.nn.functional.one_hot,
            }
            with mock.patch.multiple(gpu, **now):
                return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError(
                f"Expected a 'cuda' device type for generator but found 'cpu' at {gpu.line()}"
            )
        out = func(*args, **{**kwargs, "device": CPU})
        if func in (torch.tensor, torch.as_tensor):
            gpu.copy(out, CUDA, non_blocking=False)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                devices.put(tensor, CUDA)
        return out

    def pin(self, tensor: Tensor) -> Tensor:
        """A tensor of the host in memory that counts as pinned."""
        self.gpu.pinned.put(tensor, CPU)
        self.gpu.devices.put(tensor, CPU)
        return tensor

    def move(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``to``, ``cpu`` and ``cuda``: a copy where the device changes."""
        devices, (tensor, *rest) = self.gpu.devices, args
        now = devices.of(tensor) or CUDA
        target = {Tensor.cpu: CPU, Tensor.cuda: CUDA}.get(func)
        plain: list[Any] = []
        for value in [*rest, *([kwargs.pop("device")] if "device" in kwargs else [])]:
            if isinstance(value, Tensor):
                target = devices.of(value)
                plain.append(value.dtype)
            elif isinstance(value, str | torch.device | int) and not isinstance(value, bool):
                target = (
                    torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
                )
            elif isinstance(value, torch.dtype):
                plain.append(value)
            elif value is not None:
                kwargs.setdefault("non_blocking" if "non_blocking" not in kwargs else "copy", value)
        if target is not None and target.type == "cuda":
            target = CUDA
        if target is None or target == now:
            return Tensor.to(tensor, *plain, **kwargs) if plain or kwargs else tensor
        self.gpu.copy(tensor, target, bool(kwargs.get("non_blocking")))
        kwargs["copy"] = True
        out = Tensor.to(tensor, *(plain or [tensor.dtype]), **kwargs)
        devices.put(out, target)
        return out


class _Operators(TorchDispatchMode):
    """Every operator call, held against the rules of a GPU."""

    def __init__(self, gpu: PretendedCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
            places = [self.gpu.devices.of(x) for x in inputs]
            on_gpu = CUDA in places
            if on_gpu:
                self.check(func, args, kwargs, inputs, places)
            out = func(*args, **kwargs)
            # What C++ makes takes after a tensor that is not seen here: it fits everywhere.
            free = None in places if inputs else not self.gpu.asked_by_python
            made = CUDA if on_gpu else None if free else CPU
            if made != CPU:
                given = {tensor.untyped_storage()._cdata for tensor in inputs}
                for tensor in tree_iter(out):
                    if not isinstance(tensor, Tensor) or self.gpu.devices.known(tensor):
                        continue
                    if tensor.untyped_storage()._cdata not in given:  # else it stays where it is
                        self.gpu.devices.put(tensor, made)
        return out

    def check(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], places: list[Any]
    ) -> None:
        gpu, name = self.gpu, func._schema.name
        gpu.calls[name] += 1
        if name in UNORDERED and _meet(name, args):
            gpu.unordered[f"{name} at {gpu.line()}"] += 1
        if name in INDEXING and args[3:] and args[3] and _repeated(args[1]):
            gpu.one_by_one[f"{name} at {gpu.line()}"] += 1
        fractions = name in REFUSED_OF_FRACTIONS and args[0].is_floating_point()
        if (name in REFUSED or fractions) and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name} does not have a deterministic implementation, but you set")
        if (name in READ_BACK or f"aten::{func.__name__}" in READ_BACK) and not gpu.checked_on_cpu:
            gpu.wait(name)
        if kwargs.get("generator") is not None and kwargs["generator"].device.type == "cpu":
            gpu.mismatch(f"{name}: a generator of the CPU for a tensor on the GPU")
        if name == SAME_KIND:
            return
        host = [x for x, place in zip(inputs, places, strict=True) if place == CPU]
        host = [x for x in host if not (gpu.number_put and x.dim() == 0)]
        if name == "aten::copy_":
            if host:
                target = CUDA if gpu.devices.of(args[0]) == CUDA else CPU
                gpu.copy(
                    args[1], target, bool((args[2:] and args[2]) or kwargs.get("non_blocking"))
                )
            return
        if name in INDEXING:
            for index in args[1]:
                if index is None:
                    continue
                if index.dtype in (torch.bool, torch.uint8):
                    gpu.wait("boolean index")
                if gpu.devices.of(index) == CPU and gpu.devices.of(args[0]) == CUDA:
                    gpu.copy(index, CUDA, non_blocking=False)  # allowed, and copied in every call
                    host = [x for x in host if x is not index]
        if torch.Tag.pointwise in func.tags or name.startswith("aten::_foreach"):
            host = [x for x in host if x.dim() > 0]  # a number of the CPU may take part
        if host:
            gpu.mismatch(f"{name}: {[tuple(x.shape) for x in host]} on the CPU among GPU tensors")


def _meet(name: str, args: Any) -> bool:
    """Whether several numbers are added in one place."""
    if name.startswith("aten::scatter_add"):
        axis, places = args[1], args[2].sort(dim=args[1]).values
        rest = max(places.shape[axis] - 1, 0)
        return bool((places.narrow(axis, 0, rest) == places.narrow(axis, min(1, rest), rest)).any())
    places = args[2 if name.startswith("aten::index_add") else 1]
    return len(places.unique()) < places.numel()


def _repeated(indices: Any) -> bool:
    """Whether an index names a place twice."""
    given = [index for index in indices if index is not None and index.dtype == torch.int64]
    places = torch.stack([index.flatten() for index in torch.broadcast_tensors(*given)])
    return len(places.unique(dim=1).T) < places.shape[1]
