"""The tensors of a TorchScript archive, read without loading the program.

``torch.jit.load`` runs code of the archive (``__setstate__`` of its classes), so it is not used.
An archive is a zip file: ``data.pkl`` pickles the root module, an object whose attributes are
modules, tensors and constants; ``data/N`` holds the bytes of storage N; ``code/`` holds the source
of the classes, which says which attributes are parameters and buffers. The pickle is read by an
unpickler that knows tensors, lists and stand-ins for classes, and refuses every other name.
"""

import ast
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONSTANTS = "constants.pkl"
CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  __\w+__ = .*\n)*)", re.MULTILINE)
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")


def is_torchscript(path: Path) -> bool:
    """Both TorchScript and ``torch.save`` write a zip file; only the former has constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == [CONSTANTS] for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of an archive's root module, by name; nothing is executed.

    Equal to the ``state_dict()`` of what ``torch.jit.load`` returns. Raises ValueError for an
    archive that holds anything but modules, tensors, numbers, texts and lists of them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next(name.split("/")[0] for name in names if name.endswith(f"/{CONSTANTS}"))
            _check_byte_order(archive, root)
            module = _Unpickler(archive, root).load()
            return dict(_named_tensors(module, _saved_names(archive, root), ""))
    except ValueError:
        raise
    except (KeyError, EOFError, RuntimeError, pickle.UnpicklingError, OSError) as error:
        raise ValueError(f"its content is damaged ({type(error).__name__})") from error
    except (zipfile.BadZipFile, struct.error, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"its content is damaged ({type(error).__name__})") from error


class _Object:
    """Stands in for an object of the archive: the name of its class, and its attributes."""

    class_name = ""

    def __init__(self, *arguments: object) -> None:
        if arguments:
            raise ValueError(f"{self.class_name} is built from arguments, modules are not")
        self.attributes: Mapping[str, object] = {}

    def __setstate__(self, state: object) -> None:
        """Keep the attributes; a state of another form belongs to a class with code of its own."""
        if not isinstance(state, dict):
            raise ValueError(f"{self.class_name} has a state of its own, which only code can read")
        self.attributes = state


class _Storage:
    """Stands in for the class of a storage; only its dtype matters."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(pickle.Unpickler):
    """Reads the pickle of one archive, and refuses every name that is not in its short list."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for; nothing is imported."""
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuilt
        if module == "torch" and name in DTYPES:
            return _Storage(DTYPES[name])
        if module == "torch.jit._pickle" and name in LISTS:
            return lambda values: values
        if module == "torch.jit._pickle" and name == "restore_type_tag":
            return lambda value, type_name: value
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *pairs: OrderedDict(*pairs)
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Stand-in", (_Object,), {"class_name": f"{module}.{name}"})
        shown = ascii(f"{module}.{name}")[1:-1][:80]
        raise ValueError(f"it names {shown}, which could run code; only modules and tensors do")

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage of a tensor, flat, on the CPU."""
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(count, int):
            raise ValueError(f"it refers to {kind!a}, only storages of tensors are read")
        if key not in self._storages:
            member = self._archive.getinfo(f"{self._root}/data/{key}")
            if member.file_size != count * storage.dtype.itemsize:
                raise ValueError(f"its storage {key} has {member.file_size} bytes")
            data = bytearray(self._archive.read(member))
            flat = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0)
            self._storages[key] = flat.to(storage.dtype)
        return self._storages[key]


def _rebuilt(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> Tensor:
    """A tensor from its storage; as_strided refuses what lies outside of it."""
    return storage.as_strided(size, stride, offset)


def _check_byte_order(archive: zipfile.ZipFile, root: str) -> None:
    name = f"{root}/byteorder"
    if name in archive.namelist() and archive.read(name).strip() != b"little":
        raise ValueError("its numbers are big-endian; save it on another machine")


def _saved_names(archive: zipfile.ZipFile, root: str) -> dict[str, frozenset[str]]:
    """The parameters and buffers of every class, from the text of the archive's sources."""
    found: dict[str, frozenset[str]] = {}
    prefix = f"{root}/code/"
    for name in archive.namelist():
        if not (name.startswith(prefix) and name.endswith(".py")):
            continue
        module = name.removeprefix(prefix).removesuffix(".py").replace("/", ".")
        for class_name, header in CLASS.findall(archive.read(name).decode()):
            lists = dict(line.strip().split(" = ", 1) for line in header.splitlines())
            saved = [
                ast.literal_eval(lists.get(key, "[]")) for key in ("__parameters__", "__buffers__")
            ]
            found[f"{module}.{class_name}"] = frozenset(str(n) for part in saved for n in part)
    return found


def _named_tensors(
    module: object, saved: Mapping[str, frozenset[str]], prefix: str
) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, _Object):
        raise ValueError(f"its content is a {type(module).__name__}, not a module")
    own = saved.get(module.class_name)
    if own is None:
        raise ValueError(f"it has no source of {module.class_name}")
    for name, value in module.attributes.items():
        if isinstance(value, Tensor) and name in own:
            yield f"{prefix}{name}", value
        elif isinstance(value, _Object) and value.class_name in saved:
            yield from _named_tensors(value, saved, f"{prefix}{name}.")
