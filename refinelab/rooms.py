"""The rooms of the project (``core``, ``methods``, ...) as ``refinelab.core``, ...

Their files import each other by their short names. In a checkout, where ``python main.py`` has
imported ``core``, ``refinelab.core`` is that same module. Anywhere else the files are read with
``refinelab.`` before the names of rooms, so that a ``core`` of somebody else is left alone; a short
name that still leads to a file of the project is then the module of the long one. Either way a file
is imported once, and there is one registry.
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
ROOMS = ("core", "methods", "refiners", "experiments", "analysis")
OWN = Path(__file__).resolve().parent
HOME = OWN if (OWN / ROOMS[0]).is_dir() else OWN.parent
"""The folder of the rooms: this one where the package is installed, or the checkout."""


def install() -> None:
    """Make the long names importable. A second call changes nothing."""
    if not any(isinstance(finder, RoomFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RoomFinder())


class RoomFinder(MetaPathFinder):
    """Finds the rooms by their long names, and by their short ones where those are the project."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of the project, None for any other."""
        first, _, rest = fullname.partition(".")
        if first == PACKAGE and rest:
            return self._long(fullname, rest, path)
        return self._short(fullname, path) if first in ROOMS else None

    def _long(self, fullname: str, rest: str, path: Sequence[str] | None) -> ModuleSpec | None:
        room = rest.partition(".")[0]
        if room in ROOMS and _short_in_use():
            return _alias(fullname, rest)
        spec = PathFinder.find_spec(fullname, [str(HOME)] if rest in ROOMS else path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader) and not _short_in_use():
            spec.loader = LongNameLoader(spec.loader.name, spec.loader.path)
        return spec

    def _short(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """An alias of the long name, where the long names are in use and the file is the same."""
        room = fullname.partition(".")[0]
        if "." in fullname:
            return _alias(fullname, f"{PACKAGE}.{fullname}") if _is_long(room) else None
        if _short_in_use() or not _long_in_use():
            return None
        spec = PathFinder.find_spec(fullname, path)
        ours = spec is not None and spec.origin == str(HOME / room / "__init__.py")
        return _alias(fullname, f"{PACKAGE}.{fullname}") if ours else None


def _is_ours(module: ModuleType | None) -> bool:
    """Whether a module with the short name of a room is the project's."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().parent.parent == HOME


def _is_long(room: str) -> bool:
    """Whether the short name of a room is an alias of the long one."""
    module = sys.modules.get(room)
    return (
        module is not None
        and module is sys.modules.get(f"{PACKAGE}.{room}")
        and (module.__name__ == f"{PACKAGE}.{room}")
    )


def _short_in_use() -> bool:
    """Whether some room was imported by its short name."""
    return any(_is_ours(sys.modules.get(room)) and not _is_long(room) for room in ROOMS)


def _long_in_use() -> bool:
    return any(f"{PACKAGE}.{room}" in sys.modules for room in ROOMS)


def _alias(fullname: str, target: str) -> ModuleSpec:
    return ModuleSpec(fullname, AliasLoader(target))


class AliasLoader(Loader):
    """Gives a module that has another name already."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself."""
        module = importlib.import_module(self.target)
        room = self.target.removeprefix(f"{PACKAGE}.").partition(".")[0]
        if self.target.partition(".")[0] == room and not _is_ours(sys.modules[room]):
            raise ImportError(f"{spec.name}: the module {room} is somebody else's")
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run; the module keeps the spec of its own name."""
        module.__spec__ = self.spec


class LongNameLoader(SourceFileLoader):
    """Reads a file of the project with ``refinelab.`` before the names of rooms that it imports.

    The compiled file has a name of its own, beside that of the short names.
    """

    def source_to_code(  # type: ignore[override]
        self, data: Any, path: Any, *, _optimize: int = -1
    ) -> CodeType:
        """Compile a file after renaming its imports."""
        renamed = ast.fix_missing_locations(LongNames().visit(ast.parse(data, path)))
        code: CodeType = compile(renamed, path, "exec", dont_inherit=True, optimize=_optimize)
        return code

    def get_data(self, path: str) -> bytes:
        """The content of a file; of a compiled one, that of the long names."""
        return super().get_data(_compiled(path))

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Write a compiled file."""
        super().set_data(_compiled(path), data, _mode=_mode)


def _compiled(path: str) -> str:
    return f"{path.removesuffix('.pyc')}.{PACKAGE}.pyc" if path.endswith(".pyc") else path


class LongNames(ast.NodeTransformer):
    """``import core.x`` -> ``import refinelab.core.x`` and ``from refinelab import core``;
    ``from core.x import y`` -> ``from refinelab.core.x import y``.
    """

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """An import of modules, each in a statement of its own."""
        made: list[ast.stmt] = []
        for alias in node.names:
            room = alias.name.partition(".")[0]
            if room not in ROOMS:
                made.append(ast.Import([alias]))
                continue
            made.append(ast.Import([ast.alias(f"{PACKAGE}.{alias.name}", alias.asname)]))
            if alias.asname is None:
                made.append(ast.ImportFrom(PACKAGE, [ast.alias(room)], 0))
        return [ast.copy_location(statement, node) for statement in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        """An import of names."""
        if not node.level and node.module and node.module.partition(".")[0] in ROOMS:
            node.module = f"{PACKAGE}.{node.module}"
        return node
