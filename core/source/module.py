"""A file of source code taken apart into its top-level definitions."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from core.source.syntax import (
    Chain,
    calls_something,
    canonical,
    free_chains,
    imports_of,
    is_for_scripts,
    is_for_type_checkers,
    stored_names,
)

STATEMENTS = "module statements"
"""What is listed for statements that bind no name; no definition is called so."""
UNREADABLE = "not valid Python"
"""What is listed for a file that cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import binds a name to: a module, or something in it."""

    module: str
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """One top-level statement: what it binds, as canonical text, and the names that it reads.

    ``imports`` are those inside its functions, by the name that they bind.
    """

    name: str
    text: str = field(repr=False)
    reads: frozenset[Chain] = field(repr=False)
    imports: Mapping[str, tuple[Imported, ...]] = field(repr=False)


@dataclass(slots=True, eq=False)
class Module:
    """The definitions of a module by the name that they bind or change, and its imports by theirs.

    ``always`` are statements that run whenever the module is imported and may change anything.
    ``unread`` stands for everything in a file that cannot be parsed.
    """

    name: str
    path: str
    definitions: dict[str, list[Definition]]
    imports: dict[str, list[Imported]]
    stars: list[str]
    always: list[Definition]
    unread: Definition | None = None


def read_module(source: str, name: str, path: str, *, is_package: bool) -> Module:
    """The module of a source text."""
    package = name if is_package else name.rpartition(".")[0]
    module = Module(name, path, {}, {}, [], [])
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        module.unread = Definition(UNREADABLE, source, frozenset(), {})
        return module
    for statement in body:
        if is_for_type_checkers(statement) or is_for_scripts(statement):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        _add(module, statement, package)
    return module


def _add(module: Module, statement: ast.stmt, package: str) -> None:
    inner = dict(_bindings(statement, package))
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        for name, found in inner.items():
            if name == "*":
                module.stars += [imported.module for imported in found]
            else:
                module.imports.setdefault(name, []).extend(found)
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return
    names = list(dict.fromkeys(stored_names(statement)))
    definition = Definition(
        name=", ".join(names) or STATEMENTS,
        text=canonical(statement),
        reads=frozenset(free_chains(statement)),
        imports=inner,
    )
    for name in names:
        module.definitions.setdefault(name, []).append(definition)
    if not names or calls_something(statement):
        module.always.append(definition)


def _bindings(statement: ast.stmt, package: str) -> Mapping[str, tuple[Imported, ...]]:
    """What the imports of a statement bind, by name."""
    found: defaultdict[str, dict[Imported, None]] = defaultdict(dict)
    for node in imports_of(statement):
        for name, imported in _bound(node, package):
            found[name][imported] = None
    return {name: tuple(imported) for name, imported in found.items()}


def _bound(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, Imported]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname, Imported(alias.name)) if alias.asname else (top, Imported(top))
        return
    origin = node.module or ""
    if node.level:
        parts = package.split(".")
        parents = parts[: len(parts) - node.level + 1]
        origin = ".".join([*parents, *([origin] if origin else [])])
    for alias in node.names:
        yield alias.asname or alias.name, Imported(origin, alias.name)
