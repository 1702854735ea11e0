"""The source files of a plug-in, and one hash of what they say. Standard library only."""

import ast
import hashlib
import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from core.source.syntax import canonical, imports_of

PACKAGE_FILE = "__init__.py"
NOT_MEMBERS = ("__init__", "__main__", "conftest", "setup")
DIGITS = 16


def members(path: Path) -> list[Path]:
    """The files of a plug-in that are imported: a file, or the ``__init__.py`` of a folder and
    every file directly in it that registers something.
    """
    if path.is_file():
        return [path]
    own = (file for file in path.glob("*.py") if _is_member(file) and registers(file))
    package = path / PACKAGE_FILE
    return [*([package] if package.is_file() else []), *sorted(own)]


def _is_member(file: Path) -> bool:
    name = file.stem
    return name.isidentifier() and name not in NOT_MEMBERS and not name.startswith("test_")


def top_of(path: Path) -> Path:
    """The outermost package that a file or folder is in, or itself."""
    while (path.parent / PACKAGE_FILE).is_file():
        path = path.parent
    return path


def source_files(path: Path) -> list[Path]:
    """The files of a plug-in, those beside it that they import, and the ``__init__.py`` of the
    packages that it is in, in order.
    """
    top = top_of(path)
    packages = (place / PACKAGE_FILE for place in path.parents if place.is_relative_to(top))
    return _with_imports([*members(path), *(file for file in packages if file.is_file())], path)


def _with_imports(first: Iterable[Path], path: Path) -> list[Path]:
    """Some files of a plug-in and what they import of it and beside it, in order."""
    pending = list(first)
    folders = (path if path.is_dir() else path.parent, top_of(path).parent)
    files = set(pending)
    while pending:
        new = {file for file in _imported(pending.pop(), folders) if file not in files}
        files |= new
        pending += sorted(new)
    return sorted(files)


def _imported(file: Path, folders: tuple[Path, ...]) -> Iterator[Path]:
    """The files below some folders that a file imports."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names, places = [alias.name for alias in node.names], folders
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}." if node.module else ""
            names = [module.strip("."), *(f"{module}{alias.name}" for alias in node.names)]
            places = (file.parents[node.level - 1],) if node.level else folders
        else:
            continue
        for name, folder in itertools.product(filter(None, names), places):
            place = folder.joinpath(*name.split("."))
            found = (place.with_name(f"{place.name}.py"), place / PACKAGE_FILE)
            yield from (one for one in found if one.is_file())


def sources_sha256(path: Path) -> str:
    """A hash (16 hex digits) of a plug-in's files without comments, docstrings and formatting.

    Raises SyntaxError for a file that is not Python, and OSError for one that cannot be read.
    """
    home = path if path.is_dir() else path.parent
    files = source_files(path)
    content = [(os.path.relpath(file, home), _meaning(_tree(file))) for file in files]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:DIGITS]


def reader_sha256(path: Path, reader: Path) -> str:
    """A hash (16 hex digits) of the code of a plug-in that reads a dataset: the file ``reader`` of
    the function, the files that register datasets with it, and what these import of the plug-in.

    Comments, docstrings, formatting and the version of Python do not matter, and neither do
    methods in other files: to edit one leaves datasets as they are.
    """
    files = set(_with_imports([reader], path))
    for member in members(path):
        using = _with_imports([member], path) if registers(member, ("register_dataset",)) else []
        files |= set(using) if reader in using else set()
    content = sorted((os.path.relpath(file, reader.parent), _code(_tree(file))) for file in files)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:DIGITS]


def _code(tree: ast.Module) -> str:
    imports = [ast.unparse(node) for node in imports_of(tree)]
    return "\n".join([*imports, *map(canonical, tree.body)])


def registers(file: Path, names: Collection[str] = ("register", "register_dataset")) -> bool:
    """Whether a file registers something: it calls one of these functions."""
    return any(
        _called(node.func) in names for node in ast.walk(_tree(file)) if isinstance(node, ast.Call)
    )


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


def _meaning(tree: ast.Module) -> str:
    """A syntax tree as text, without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and _is_text(first.value):
                node.body = node.body[1:]
    return ast.dump(tree)


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
