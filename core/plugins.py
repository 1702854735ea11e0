"""Plug-ins: Python code from elsewhere that registers its own methods, refiners, parts, optimizers
and datasets.

A plug-in is a file, a folder or the name of a module. It is code: only what a person names is
loaded, on the command line or in a configuration of their own (``experiments/configs``).
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from hashlib import sha256 as _sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from core.config import forget_class, registered_classes
from core.data.catalog import forget_dataset, note_code, registered_datasets
from core.plugin_sources import (
    PACKAGE_FILE,
    members,
    reader_sha256,
    source_files,
    sources_sha256,
    top_of,
)
from core.program import PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A loaded plug-in: ``name`` is its absolute path or its module, ``classes`` and ``datasets``
    are the names that it registers, ``sha256`` is the hash of its sources.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[str, ...]
    datasets: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its presets are: its own folder, or that of its file."""
        return self.path if self.path.is_dir() else self.path.parent


_LOADED: dict[Path, Plugin] = {}


def loaded_plugins() -> tuple[Plugin, ...]:
    """The plug-ins of this process, in the order in which they were loaded."""
    return tuple(_LOADED.values())


def used_plugins(classes: Iterable[str], datasets: Iterable[str]) -> tuple[Plugin, ...]:
    """The loaded plug-ins that register one of these classes or datasets."""
    names = (set(classes), set(datasets))
    return tuple(
        plugin
        for plugin in loaded_plugins()
        if not names[0].isdisjoint(plugin.classes) or not names[1].isdisjoint(plugin.datasets)
    )


def load_plugins(names: Iterable[str], folder: Path | None = None) -> list[Plugin]:
    """Load plug-ins in their order; paths start at ``folder``, by default the working folder.

    A plug-in that is loaded already is not loaded again. Raises ValueError, one line, for one that
    does not exist, cannot be imported, takes a name that is registered, or registers nothing.
    """
    return [_load(name, folder or Path.cwd()) for name in names]


def load_unchanged(hashes: Mapping[str, str]) -> None:
    """Load plug-ins whose sources must have these hashes. Raises ValueError otherwise."""
    for name, sha256 in hashes.items():
        (plugin,) = load_plugins([name])
        if plugin.sha256 != sha256:
            raise ValueError(
                f"the plug-in {name} has changed since this command was started: repeat it"
            )


def _load(name: str, folder: Path) -> Plugin:
    path, module = locate_plugin(name, folder)
    try:
        sha256 = sources_sha256(path)
    except (SyntaxError, ValueError) as error:
        raise ValueError(_where(name, path, error)) from error
    if known := _LOADED.get(path):
        if known.sha256 != sha256:
            raise ValueError(f"the plug-in {name} has changed since it was loaded: restart Python")
        return known
    with _all_or_nothing(path):
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no part of an answer
                _import_plugin(path, module)
        except (Exception, SystemExit) as error:
            raise ValueError(_where(name, path, error)) from error
        files = set(source_files(path))
        plugin = Plugin(
            name=module or str(path),
            path=path,
            sha256=sha256,
            classes=tuple(e.name for e in registered_classes() if _file_of(e.cls) in files),
            datasets=tuple(d.name for d in registered_datasets() if _file_of(d.load) in files),
        )
        if not plugin.classes and not plugin.datasets:
            raise ValueError(
                f"the plug-in {name} registers nothing: put @register(kind) above a class, or "
                "@register_dataset(name) above a function that reads a dataset"
            )
    for dataset in registered_datasets():
        if dataset.name in plugin.datasets and not dataset.code:
            note_code(dataset.name, reader_sha256(path, _file_of(dataset.load)))
    _LOADED[path] = plugin
    return plugin


def locate_plugin(name: str, folder: Path) -> tuple[Path, str]:
    """The file or folder of a plug-in, and its module where it was given by the name of one.

    Raises ValueError where there is neither.
    """
    if not name.strip():
        raise ValueError("a plug-in must have a name: give a .py file, a folder or a module")
    path = folder / Path(name).expanduser()
    exists = is_plugin = False
    with suppress(OSError, ValueError):  # a name that no file can have
        exists = path.exists()
        is_plugin = path.is_dir() or (path.is_file() and path.suffix == ".py")
    if is_plugin:
        found = path.resolve()
        return (found.parent if found.name == PACKAGE_FILE else found), ""
    if exists:
        raise ValueError(f"the plug-in {name} is neither a .py file nor a folder")
    if _is_module_name(name):
        _make_importable(folder)
        if (origin := _module_path(name)) is not None:
            return origin, name
    raise ValueError(
        f"there is no plug-in {name}: neither a .py file or folder in {folder}, nor a module that "
        "can be imported"
    )


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split(".")) and not name.endswith(".py")


def _module_path(name: str) -> Path | None:
    """The file of a module, or the folder of a package; None where there is none.

    Raises ValueError where a package that it is in cannot be imported.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        return None
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{name}.".startswith(f"{missing}."):
            return None
        raise ValueError(_where(name, Path.cwd(), error)) from error
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin and spec.origin.endswith(".py") else None


def _import_plugin(path: Path, module: str) -> None:
    """Import a plug-in; of a folder, every file directly in it that registers something, too."""
    name = module or _import_path(path)
    importlib.import_module(name)
    if not path.is_dir():
        return
    alone = not (path / PACKAGE_FILE).is_file()
    if alone:
        _make_importable(path)
    for file in members(path):
        if file.name != PACKAGE_FILE and not _is_imported(file):
            imported = importlib.import_module(f"{name}.{file.stem}")
            if alone:  # the others may import it by its bare name
                sys.modules.setdefault(file.stem, imported)


def _is_imported(file: Path) -> bool:
    """Whether a file is that of a module, under any name."""
    modules = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    return any(own.get("__file__") == str(file) for own in modules)


def _import_path(path: Path) -> str:
    """Make a file or folder importable; returns the name of its module.

    A file of a package is imported as its module, so that relative imports work. What lies beside
    it can be imported by name, unless that name is taken.
    """
    top = top_of(path)
    _make_importable(top.parent)
    inner = [part.removesuffix(".py") for part in path.relative_to(top).parts]
    return ".".join([_import_top(top), *inner])


def _make_importable(folder: Path) -> None:
    """Append a folder to the places of modules: it shadows nothing that is there."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_top(top: Path) -> str:
    """Import a file or a package that is in no other; returns its name, a new one where the name
    of the file or folder is that of another module.
    """
    file = top / PACKAGE_FILE if top.is_dir() else top
    for name, module in list(sys.modules.items()):
        if "." not in name and _is_at(module, file, top):
            return name
    name = top.stem if top.is_file() else top.name
    if not name.isidentifier() or not _is_free(name, top):
        name = f"plugin_{_sha256(str(top).encode()).hexdigest()[:8]}_{name}"
        name = "".join(sign if sign.isalnum() else "_" for sign in name)
    folders = [str(top)] if top.is_dir() else None
    spec = (
        importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
        if file.is_file()
        else ModuleSpec(name, None, is_package=True)
    )
    assert spec is not None
    if not file.is_file():
        spec.submodule_search_locations = folders
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        if spec.loader is not None:
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return name


def _is_at(module: ModuleType, file: Path, top: Path) -> bool:
    """Whether a module is that of a file, or the package of a folder without one."""
    own = getattr(module, "__file__", None)
    if file.is_file():
        return isinstance(own, str) and Path(own) == file
    return own is None and [str(top)] == list(getattr(module, "__path__", ()))


def _is_free(name: str, top: Path) -> bool:
    """Whether a name is that of no other module."""
    return name not in sys.modules and _module_path(name) in (None, top)


def _file_of(defined: Any) -> Path:
    """The file of a class or a function."""
    return Path(str(getattr(sys.modules.get(defined.__module__), "__file__", ""))).resolve()


@contextmanager
def _all_or_nothing(path: Path) -> Iterator[None]:
    """Undo what a plug-in has registered, and forget its modules, where it cannot be loaded."""
    classes = {entry.name for entry in registered_classes()}
    datasets = {dataset.name for dataset in registered_datasets()}
    modules = set(sys.modules)
    try:
        yield
    except ValueError:
        for entry in registered_classes():
            if entry.name not in classes:
                forget_class(entry.name)
        for dataset in registered_datasets():
            if dataset.name not in datasets:
                forget_dataset(dataset.name)
        home = path if path.is_dir() else path.parent
        forget_modules(home, sys.modules.keys() - modules)
        raise


def forget_modules(home: Path, names: Iterable[str]) -> None:
    """Forget those of these modules whose files are in a folder."""
    for name in names:
        own = getattr(sys.modules[name], "__dict__", {})  # of modules that libraries pretend
        places = (own.get("__file__"), *(own.get("__path__") or ()))
        if any(isinstance(place, str) and Path(place).is_relative_to(home) for place in places):
            del sys.modules[name]


def _where(name: str, path: Path, error: BaseException) -> str:
    """What went wrong in a plug-in, with the line of its own that is to blame."""
    home = path if path.is_dir() else path.parent
    place = f"the plug-in {name}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{place}: {error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    lines = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(home)
    ]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return ": ".join([place, *lines[-1:], f"{kind}{error}{_other_name(error)}"])


def _other_name(error: BaseException) -> str:
    """The name under which a module of the project is installed, where the short one was used."""
    name = error.name if isinstance(error, ModuleNotFoundError) and PREFIX else None
    if not name or _module_path(PREFIX + name.partition(".")[0]) is None:
        return ""
    return f"; it is installed as {PREFIX}{name}"
