"""A file of source code taken apart into its top-level definitions."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from core.source.syntax import (
    Chain,
    calls_something,
    canonical,
    changed_by_decorators,
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


class Definition:
    """One top-level statement: what it binds, as canonical text, and the names that it reads.

    ``number`` is its place in the file, ``earlier`` the number of ``Module.bound`` before it.
    """

    def __init__(
        self, name: str, statement: ast.stmt, package: str, number: int, earlier: int = 0
    ) -> None:
        self.name = name
        self.number = number
        self.earlier = earlier
        self._statement = statement
        self._package = package

    @cached_property
    def text(self) -> str:
        """The canonical text."""
        return canonical(self._statement)

    @cached_property
    def reads(self) -> tuple[Chain, ...]:
        """The names that it reads from its module, with their attributes, in order."""
        return tuple(sorted(free_chains(self._statement)))

    @cached_property
    def imports(self) -> Mapping[str, list[Imported]]:
        """What the imports inside it bind, by name."""
        return _bindings(self._statement, self._package)


class Unreadable(Definition):
    """Everything in a file that cannot be parsed."""

    def __init__(self, source: str) -> None:
        super().__init__(UNREADABLE, ast.Pass(), "", 0)
        self._source = source

    @cached_property
    def text(self) -> str:
        """The file as it is."""
        return self._source


@dataclass(slots=True, eq=False)
class Module:
    """What the names of a module stand for, in the order of its statements: the definitions that
    bind or change them, and what they are imported from.

    ``bound`` has a name as often as it is bound or changed, in order.
    ``always`` are statements that run whenever the module is imported and may change anything.
    ``imported`` are the modules that it imports anywhere, and what may be one.
    """

    name: str
    path: str
    names: dict[str, list[Definition | Imported]] = field(default_factory=dict)
    bound: list[str] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    always: list[Definition] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    unread: Unreadable | None = None

    def bind(self, name: str, to: Definition | Imported) -> None:
        """Note what the next statement binds a name to."""
        self.names.setdefault(name, []).append(to)
        self.bound.append(name)

    def definitions(self, name: str) -> list[Definition]:
        """The definitions of a name, in order."""
        return [found for found in self.names.get(name, ()) if isinstance(found, Definition)]

    def read_by(self, definition: Definition, name: str) -> str:
        """A name as a definition reads it: with how often it was bound before, where that varies
        because it is bound more than once.
        """
        if len(self.names.get(name, ())) < 2:
            return name
        return f"{name}@{self.bound[: definition.earlier].count(name)}"

    def everything(self) -> list[Definition]:
        """All definitions and statements, in order."""
        found = {d: None for name in self.names for d in self.definitions(name)}
        unread = [self.unread] if self.unread else []
        return [*unread, *sorted(found | dict.fromkeys(self.always), key=lambda d: d.number)]


def read_module(source: str, name: str, path: str, *, is_package: bool) -> Module:
    """The module of a source text."""
    package = name if is_package else name.rpartition(".")[0]
    module = Module(name, path)
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        module.unread = Unreadable(source)
        return module
    for number, statement in enumerate(body):
        if is_for_type_checkers(statement) or is_for_scripts(statement):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        _add(module, statement, package, number)
    return module


def _add(module: Module, statement: ast.stmt, package: str, number: int) -> None:
    names = list(dict.fromkeys(stored_names(statement)))
    patches = any(isinstance(i, Imported) for name in names for i in module.names.get(name, ()))
    earlier = len(module.bound)
    _add_imports(module, statement, package)
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return
    definition = Definition(", ".join(names) or STATEMENTS, statement, package, number, earlier)
    names += [n for n in changed_by_decorators(statement) if module.definitions(n)]
    for name in dict.fromkeys(names):
        module.bind(name, definition)
    if not names or patches or calls_something(statement):
        module.always.append(definition)


def _add_imports(module: Module, statement: ast.stmt, package: str) -> None:
    local = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for node in imports_of(statement):
        if isinstance(node, ast.Import):
            module.imported += [alias.name for alias in node.names]
        for name, imported in _bound(node, package):
            if imported.name:
                module.imported += [imported.module, f"{imported.module}.{imported.name}"]
            if name == "*":
                module.stars += [] if local else [imported.module]
            elif not local:
                module.bind(name, imported)


def _bindings(statement: ast.stmt, package: str) -> Mapping[str, list[Imported]]:
    """What the imports of a statement bind, by name."""
    found: dict[str, list[Imported]] = {}
    for node in imports_of(statement):
        for name, imported in _bound(node, package):
            found.setdefault(name, []).append(imported)
    return found


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
