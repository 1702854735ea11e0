"""Files of tensors: reading them without executing anything, and saying what another file is.

Files of tensors are downloaded, copied and renamed by people, and what arrives is often something
else: an error page, a pointer to the file, a part of it, an archive with the file in it, the format
of another library. Every reader here says which in one line, with the way out.
"""

import json
import pickle
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

HEAD_BYTES = 1024
UNPACKED = 2**26  # bytes by which a torch file may grow: only the texts of programs are compressed
SMALLEST = 16  # bytes; no file of tensors is smaller
DOWNLOAD = "download the file again"
CONVERT = "convert it to a torch file or to safetensors where that library is installed"
OTHER_OBJECTS = "it holds other objects than tensors and numbers"
STATE = "save the model's state_dict() instead of the model"
UNPACK = "unpack it and give the file of weights in it"

# The first bytes of files that people give for files of tensors: what they are and the way out.
MAGIC = {
    b"version https://git-lfs.github.com": (
        "a Git LFS pointer: a text in place of the file",
        "run 'git lfs pull' where it was cloned, or download the file itself",
    ),
    b"\x1f\x8b": ("a gzip file", UNPACK),
    b"BZh": ("a bzip2 file", UNPACK),
    b"\xfd7zXZ\x00": ("an xz file", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd file", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!": ("a rar archive", UNPACK),
    b"\x93NUMPY": ("a NumPy array", CONVERT),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, the format of Keras and TensorFlow", CONVERT),
    b"GGUF": ("a GGUF file", CONVERT),
    b"\x89PNG": ("a PNG image", "give the file of weights"),
    b"\xff\xd8\xff": ("a JPEG image", "give the file of weights"),
    b"%PDF": ("a PDF document", "give the file of weights"),
}
# What the pickle of a state dict names.
TENSORS = re.compile(
    r"torch\._utils\.\w+|torch\._tensor\.\w+|torch\.\w*Storage|torch\.storage\.\w+|torch\.Size|"
    r"torch\.device|torch\.serialization\.\w+|torch\.nn\.parameter\.Parameter|collections\.\w+|"
    r"_codecs\.encode|builtins\.dict|numpy\.\w+|numpy\.\w+\.multiarray\.\w+|torch\.optim\.[\w.]+"
)
SUFFIXES = {
    ".onnx": ("an ONNX model", CONVERT),
    ".pb": ("a TensorFlow graph", CONVERT),
    ".tflite": ("a TensorFlow Lite model", CONVERT),
    ".h5": ("an HDF5 file, the format of Keras and TensorFlow", CONVERT),
    ".msgpack": ("a Flax file, the format of JAX", CONVERT),
    ".npz": ("a NumPy archive", CONVERT),
}


def read_safetensors(path: Path, what: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ``what`` names the file in messages.

    Raises ValueError, in one line, for a file that is missing, damaged or something else.
    """
    _check_present(path, what)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        found = unreadable(path, what, error)
        if _head(path)[:1] in (b"P", b"\x80") and _other_kind(path) is None:
            kind = "it is a pickle or a torch file, not safetensors; give the file that was written"
            found = ValueError(f"{what} {path} cannot be read: {kind}")
        raise found from error
    return tensors


def load_torch(path: Path, what: str) -> Any:
    """What ``torch.save`` wrote, read with ``weights_only``: no code in it runs.

    Raises ValueError, in one line, for a file that is missing, damaged or something else.
    """
    _check_present(path, what)
    check_size(path, what)
    try:
        # As a stream: by a path, torch.load would decide by the suffix.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise unreadable(path, what, error) from error


def check_size(path: Path, what: str) -> None:
    """Raise ValueError for a zip file whose members are much larger than the file.

    torch stores tensors as they are; a small file that unpacks to gigabytes would fill the memory.
    """
    if unpacked := _unpacked(path):
        kind, way_out = _compressed(unpacked)
        raise ValueError(f"{what} {path} cannot be read: it is {kind}; {way_out}")


def _unpacked(path: Path) -> int:
    """The size to which a zip file unpacks where that is more than it should be; else 0."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return 0  # not a zip file, or damaged: the reader says so
    return unpacked if unpacked > path.stat().st_size + UNPACKED else 0


def _compressed(unpacked: int) -> tuple[str, str]:
    return f"a compressed archive that unpacks to {unpacked} bytes; torch writes none", DOWNLOAD


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do: the length of a JSON header, and the header.

    Also True for a file that was cut behind that.
    """
    head = _head(path)
    if len(head) < 9 or head[8:9] != b"{" or _is_text(head[:64]):
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= int(length) < 2**27


def unreadable(path: Path, what: str, error: Exception) -> ValueError:
    """The one-line error for a file that a reader could not read."""
    found = _other_kind(path)
    if found is None:
        reason = first_line(error)
        way_out = STATE if reason == OTHER_OBJECTS else DOWNLOAD
        return ValueError(f"{what} {path} cannot be read: {reason}; {way_out}")
    kind, way_out = found
    return ValueError(f"{what} {path} cannot be read: it is {kind}; {way_out}")


def first_line(error: Exception) -> str:
    """The first line of an error's text, printable, for a one-line message.

    Never torch's advice to switch ``weights_only`` off.
    """
    if "weights_only" in str(error) or str(error).startswith("Weights only"):
        return OTHER_OBJECTS
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(c for c in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) if c.isprintable())[:300]


def _check_present(path: Path, what: str) -> None:
    if path.is_dir():
        raise ValueError(f"{what} {path} is a folder; give a file in it")
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _is_text(head: bytes) -> bool:
    """Whether the beginning of a file is text, a few stray bytes apart."""
    if not head or b"\x00" in head:
        return False
    shown = sum(byte >= 0x80 or chr(byte).isprintable() or byte in b"\t\n\r\x1b" for byte in head)
    high = sum(byte >= 0x80 for byte in head)
    return shown >= 0.95 * len(head) and high <= 0.3 * len(head)


def _other_kind(path: Path) -> tuple[str, str] | None:
    """What an unreadable file is, and the way out; None where it is only damaged."""
    head, size = _head(path), path.stat().st_size
    if size < SMALLEST:
        return ("empty" if not size else f"cut: it has only {size} bytes"), DOWNLOAD
    if not any(head):
        return "filled with zeros, as an interrupted copy leaves it", DOWNLOAD
    for magic, found in MAGIC.items():
        if head.startswith(magic):
            return found
    if _is_text(head):
        return _text_kind(head.decode(errors="replace").lstrip("\ufeff \n\r\t"))
    if head[257:262] == b"ustar" or (not head.startswith(b"PK") and tarfile.is_tarfile(path)):
        return "a tar archive", UNPACK
    if head.startswith(b"PK\x03\x04"):
        if zipfile.is_zipfile(path):
            return _zip_kind(path)
        return f"cut: a torch file without its end ({size} bytes)", DOWNLOAD
    if is_safetensors(path):
        return f"cut or damaged: a safetensors file of {_header(path)}", DOWNLOAD
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        with path.open("rb") as file:
            return _pickle_kind(file)
    if head[4:8] == b"TFL3":
        return SUFFIXES[".tflite"]
    if head[:1] == b"\x08" and (b"pytorch" in head[:64] or b"onnx" in head[:64].lower()):
        return SUFFIXES[".onnx"]
    unknown = ("not a file of tensors of any known format", "give a torch or a safetensors file")
    return SUFFIXES.get(path.suffix.lower(), unknown)


def _text_kind(text: str) -> tuple[str, str]:
    lower = text[:200].lower()
    if lower.startswith(("<!doctype html", "<html", "<head")):
        return "an HTML page, saved in place of the file", DOWNLOAD
    if lower.startswith("<"):
        return "an XML page, often the error of a server, saved in place of the file", DOWNLOAD
    if lower.startswith(("{", "[")):
        return "a JSON text", "give the file of weights beside it"
    return f"a text that begins {text[:30]!a}", "give the file of weights"


def _zip_kind(path: Path) -> tuple[str, str] | None:
    """What a complete zip file is; None for a torch file whose content is damaged."""
    if unpacked := _unpacked(path):
        return _compressed(unpacked)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            data = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
            if any(name.split("/")[1:] == ["constants.pkl"] for name in names):
                return "a TorchScript archive, which is a program", STATE
            if data:
                with archive.open(data[0]) as file:
                    return _pickle_kind(file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        return "damaged: a zip file whose content cannot be read", DOWNLOAD
    if names and all(name.endswith(".npy") for name in names):
        return SUFFIXES[".npz"]
    return "a zip archive that torch.save did not write", UNPACK


def _pickle_kind(file: IO[bytes]) -> tuple[str, str] | None:
    """What a pickle is, from the classes that it names, none of which is imported."""
    try:
        named = list(dict.fromkeys(_pickled_names(file)))
    except (ValueError, EOFError, pickle.UnpicklingError):
        return "cut or damaged: a torch file that ends too early", DOWNLOAD
    foreign = [name for name in named if not TENSORS.fullmatch(name)]
    if not foreign:
        return None
    shown = ascii(foreign[0])[1:-1][:80]
    return (
        f"a pickle of Python objects, among them {shown}; only tensors are read, because objects "
        "can run code",
        STATE,
    )


def _pickled_names(file: IO[bytes]) -> Iterator[str]:
    """The classes and functions that a file of one or more pickles names."""
    for _ in range(4):  # the old format of torch.save is several pickles in a row
        texts, memo = [""], list[str]()  # the texts pushed so far; what MEMOIZE kept
        for code, argument, _ in pickletools.genops(file):
            if code.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif code.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif code.name == "MEMOIZE":
                memo.append(texts[-1])
            elif code.name in ("BINGET", "LONG_BINGET") and int(str(argument)) < len(memo):
                texts.append(memo[int(str(argument))])
            elif isinstance(argument, str):
                texts.append(argument)
        if not file.read(1):
            return
        file.seek(-1, 1)


def _header(path: Path) -> str:
    """How long a safetensors file is and should be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        text = file.read(length)
    try:
        header = json.loads(text)
        ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        return f"{size} bytes that should have {8 + length + max(ends, default=0)}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return f"{size} bytes whose header is incomplete"
