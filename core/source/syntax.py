"""Code as canonical text, and the names that it reads from its module.

The text leaves out what cannot change what the code does: comments, docstrings and other constants
that stand alone, ``pass``, positions, the spelling of literals, annotations but those of class
bodies (which declare fields), imports (a name that is read stands for what it is imported from),
blocks for type checkers, and the wording of error messages. It does not depend on the version of
Python.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Chain = tuple[str, ...]
"""A name and the attributes read from it: ``blocks.full_block`` is ("blocks", "full_block")."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_IMPORTS = (ast.Import, ast.ImportFrom)
_UNREAD = frozenset({"ctx", "kind", "type_comment", "returns", "type_params"})
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
"""The fields of a statement that hold statements, in the order of the source."""
_WITH_MESSAGE = frozenset(
    {"FileNotFoundError", "NotImplementedError", "RuntimeError", "TypeError", "ValueError"}
)
"""Exceptions whose text is for people. The text of others (KeyError) can be data."""


def canonical(statement: ast.stmt) -> str:
    """The text of a statement; equal for two that do the same by the rules above."""
    return "".join(map(_text, _kept([statement], in_class=False)))


def is_for_type_checkers(node: ast.stmt) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:``."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def is_for_scripts(node: ast.stmt) -> bool:
    """Whether a statement is ``if __name__ == "__main__":``."""
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare):
        return False
    return isinstance(node.test.left, ast.Name) and node.test.left.id == "__name__"


def _without_wording(node: ast.Raise) -> ast.Raise:
    """``raise ValueError("text")`` without the text; what an f-string computes stays."""
    error = node.exc
    if not (
        isinstance(error, ast.Call)
        and isinstance(error.func, ast.Name)
        and error.func.id in _WITH_MESSAGE
    ):
        return node
    arguments = [part for argument in error.args for part in _computed(argument)]
    made = ast.Call(func=error.func, args=arguments, keywords=error.keywords)
    return ast.Raise(exc=made, cause=node.cause)


def _computed(argument: ast.expr) -> list[ast.expr]:
    """An argument without the literal text in it."""
    parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
    return [p for p in parts if not (isinstance(p, ast.Constant) and isinstance(p.value, str))]


def _text(value: Any, *, in_class: bool = False) -> str:
    if isinstance(value, ast.AST):
        return _node(value, in_class=in_class)
    if isinstance(value, list):
        return f"[{','.join(_text(item, in_class=in_class) for item in value)}]"
    return repr(value)


def _node(node: ast.AST, *, in_class: bool) -> str:
    inside = isinstance(node, ast.ClassDef) or (
        in_class and not isinstance(node, (*_FUNCTIONS, ast.Lambda))
    )
    fields = []
    node = _without_wording(node) if isinstance(node, ast.Raise) else node
    for name in node._fields:
        value = getattr(node, name, None)
        if name in _UNREAD or (name == "annotation" and not isinstance(node, ast.AnnAssign)):
            continue
        if name in _BLOCKS and isinstance(value, list):
            value = list(_kept(value, in_class=inside))
        if value is None or value == []:
            continue
        fields.append(f"{name}={_text(value, in_class=inside)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _kept(body: Iterable[ast.stmt], *, in_class: bool) -> Iterator[ast.stmt]:
    """The statements of a block that do something."""
    for statement in body:
        if isinstance(statement, (ast.Pass, *_IMPORTS)) or is_for_type_checkers(statement):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.AnnAssign) and not in_class:
            if statement.value is not None:
                yield ast.Assign(targets=[statement.target], value=statement.value)
            continue
        yield statement


def imports_of(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports in a statement, at any depth, but those for type checkers."""
    if isinstance(node, _IMPORTS):
        yield node
    elif not (isinstance(node, ast.stmt) and is_for_type_checkers(node)):
        for block in _BLOCKS:
            for child in getattr(node, block, ()):
                yield from imports_of(child)


def free_chains(statement: ast.stmt) -> set[Chain]:
    """The names that a statement reads and does not bind itself, with their attributes.

    A name bound by a class body counts as free: the methods of the class do not see it. Annotations
    are not read. Imports in functions bind nothing here: what they name is read from elsewhere.
    """
    found: set[Chain] = set()
    _NameReader(found).read(statement, frozenset())
    return found


class _NameReader:
    """Collects free names; ``bound`` are those of the functions around a node."""

    def __init__(self, found: set[Chain]) -> None:
        self.found = found

    def read(self, node: ast.AST, bound: frozenset[str]) -> None:
        if isinstance(node, _FUNCTIONS):
            self._function(node, node.body, bound)
            self._all(node.decorator_list, bound)
        elif isinstance(node, ast.Lambda):
            self._function(node, [node.body], bound)
        elif isinstance(node, _COMPREHENSIONS):
            self.read(node.generators[0].iter, bound)  # evaluated outside of the comprehension
            self._children(node, bound | set(_bound([g.target for g in node.generators])))
        elif isinstance(node, ast.Name | ast.Attribute) and (chain := _chain(node)):
            if isinstance(node.ctx, ast.Load) or len(chain) > 1:
                self.found |= {chain} if chain[0] not in bound else set()
        elif isinstance(node, ast.AnnAssign):
            self._all([node.target, *([node.value] if node.value else [])], bound)
        elif isinstance(node, ast.AugAssign):
            self._all([node.target, node.value], bound)
        elif not (isinstance(node, ast.stmt) and is_for_type_checkers(node)):
            self._children(node, bound)

    def _children(self, node: ast.AST, bound: frozenset[str]) -> None:
        self._all(ast.iter_child_nodes(node), bound)

    def _all(self, nodes: Iterable[ast.AST], bound: frozenset[str]) -> None:
        for node in nodes:
            self.read(node, bound)

    def _function(self, node: Any, body: Sequence[ast.AST], bound: frozenset[str]) -> None:
        arguments: ast.arguments = node.args
        defaults = [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
        self._all(defaults, bound)
        own = {argument.arg for argument in ast.walk(arguments) if isinstance(argument, ast.arg)}
        freed = {name for n in body for g in ast.walk(n) if isinstance(g, ast.Global)
                 for name in g.names}  # fmt: skip
        self._all(body, (bound | own | set(_bound(body))) - freed)


def _chain(node: ast.expr) -> Chain:
    """``a.b.c`` as a chain; () where it does not begin with a name."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else ()


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that a function binds, but those that it imports; not those of functions in it."""
    for node in nodes:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, _COMPREHENSIONS):
            yield from (w.target.id for w in ast.walk(node) if isinstance(w, ast.NamedExpr))
            continue
        yield from _bound(ast.iter_child_nodes(node))


def stored_names(statement: ast.stmt) -> Iterator[str]:
    """The names of its module that a top-level statement binds or changes in place, imports aside.

    ``TABLE["a"] = 1`` and ``TABLE.size = 1`` change TABLE.
    """
    yield from _bound([statement])
    for node in _outside_functions(statement):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target: ast.expr = node
            while isinstance(target, ast.Attribute | ast.Subscript):
                target = target.value
            if isinstance(target, ast.Name):
                yield target.id


def changed_by_decorators(statement: ast.stmt) -> Iterator[str]:
    """The names whose attributes decorate a definition: ``@g.register`` may change g."""
    for decorator in getattr(statement, "decorator_list", []):
        chain = _chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if len(chain) > 1:
            yield chain[0]


def calls_something(statement: ast.stmt) -> bool:
    """Whether a top-level statement is, or has outside of functions, an expression of its own."""
    return any(
        isinstance(node, ast.Assert | ast.Raise)
        or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant))
        for node in _outside_functions(statement)
    )


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _outside_functions(child)
