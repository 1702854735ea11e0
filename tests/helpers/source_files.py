"""The source files of the project as syntax trees, and who imports whom."""

import ast
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.helpers.paths import ROOT

PACKAGES = ("core", "methods", "refiners", "experiments", "analysis", "refinelab")
FILES: list[Path] = sorted(
    [ROOT / "main.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
)
TEST_FILES = sorted(f for f in (ROOT / "tests").rglob("*.py") if "golden" not in f.parts[-2])


def name_of(file: Path) -> str:
    """The path below the project: ``core/seeding.py``."""
    return file.relative_to(ROOT).as_posix()


def module_of(name: str) -> str:
    """The module of a file: ``core/seeding.py`` is core.seeding, an ``__init__.py`` its folder."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(name_of(file)): name_of(file) for file in FILES}


@functools.cache
def syntax_tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


@functools.cache
def imports(name: str) -> frozenset[str]:
    """Every module that a file imports, with the names it takes from it, wherever it does so."""
    found = set()
    for node in ast.walk(syntax_tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write the whole name of the module"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def imported_modules(name: str) -> set[str]:
    """The modules of the project that a file imports."""
    ours = {found if found in MODULES else found.rpartition(".")[0] for found in imports(name)}
    return {module for module in ours if module in MODULES}


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in graph:
        if node not in number:
            visit(node)
    return found
