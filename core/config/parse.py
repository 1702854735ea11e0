"""Reads configuration files in gin's syntax, without importing, calling or building anything.

To gin itself, a .gin file is code: it can import any module and call its contents. Here gin's
parser only parses the text; syntax that configurations of this suite do not need is refused, with
file and line. The result of a file and its includes is one table of raw bindings.
"""

import functools
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gin import config_parser

from core.config.library import ConfigLibrary, PresetPath
from core.config.registry import did_you_mean_key
from core.config.value_types import Reference, shortened
from core.suggestions import did_you_mean

OVERRIDE = "--set"
PLUGINS = "plugins"
LINE = re.compile(r"[A-Za-z_]\w*\.\w+ = [^\\]+")
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
DEEPEST_NESTING = 50
BARE_WORD = re.compile(r"[\w./~:+-][^'\"\[\](){}@%\n]*")

CLEARER = {
    "Expected newline.": "unexpected text after the value: a value is a single literal",
    "Unable to parse value.": "the value is missing, or not a literal",
    "Unexpected token.": "this is not `Class.parameter = value`",
}
"""Messages of gin's parser, and more helpful ones in their place."""


@dataclass(frozen=True, slots=True)
class Macro:
    """``%name`` in a value: the value defined elsewhere by ``name = ...``."""

    name: str


@dataclass(frozen=True, slots=True)
class Binding:
    """One ``key = value`` as written. A key without a dot defines a macro. ``included`` says that
    it comes from an included file or a preset, and not from what a person typed.
    """

    key: str
    value: object
    source: str
    included: bool = False


@dataclass(frozen=True, slots=True)
class Include:
    """One ``include 'path'`` as written."""

    path: str
    source: str


@dataclass(frozen=True, slots=True)
class Plugins:
    """One ``plugins = ('file.py', ...)`` as written: code that registers further classes."""

    names: tuple[str, ...]
    source: str


LoadPlugins = Callable[[Plugins, Path], Sequence[Path]]
"""Loads the plug-ins that a file in this folder names; returns the folders of their presets."""

Statement = Binding | Include | Plugins


class _RefusedError(SyntaxError):
    """Syntax that gin accepts but this suite refuses."""


class _Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
    """Turns references and macros into plain values without looking anything up."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        name = scoped_configurable_name
        if evaluate:
            raise _RefusedError(f"'@{name}()' would build an object immediately; write '@{name}'")
        if "/" in name:
            raise _RefusedError(f"'@{name}' has a scope, and scopes are not supported")
        return Reference(name)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's parser, except that a repeated dict key is an error instead of silently overriding, and
    so are more brackets in each other than a recursive parser survives.
    """

    def __init__(self, text: str) -> None:
        self._keys: list[str] = []
        self._depth = 0
        super().__init__(text, _Delegate())

    def _maybe_parse_container(self) -> tuple[bool, object]:
        if self._depth > DEEPEST_NESTING:
            raise _RefusedError(f"brackets are nested more than {DEEPEST_NESTING} deep")
        outer, self._keys = self._keys, []
        self._depth += 1
        result: tuple[bool, object] = super()._maybe_parse_container()
        self._depth -= 1
        self._keys = outer
        return result

    def _parse_dict_item(self) -> tuple[str, object]:
        location = self._current_location()
        key, value = super()._parse_dict_item()
        if not isinstance(key, str):
            raise _RefusedError(f"the dict key {key!r} must be text in quotes", location)
        if key in self._keys:
            raise _RefusedError(f"the key {key!r} appears twice in one dict", location)
        self._keys.append(key)
        return key, value


def read_text(
    text: str, name: str, *, packages: tuple[str, ...] = (), resolved: bool = False
) -> list[Statement]:
    """The statements of one text. ``name`` is its name in messages.

    Raises ValueError for invalid syntax, scopes, imports from outside ``packages``, an include
    below a binding, a key that is bound twice, and, in a ``resolved`` text, any include, import or
    plug-in.
    """
    if resolved and (known := _one_per_line(text, name)) is not None:
        return list(known)
    statements: list[Statement] = []
    bound: dict[str, str] = {}
    for raw in _raw_statements(text, name):
        source = f"{name}:{raw.location.line_num}"
        if isinstance(raw, config_parser.BindingStatement):
            binding = _binding(raw, source)
            if binding.key in bound:
                first = bound[binding.key]
                raise ValueError(f"{source}: {binding.key} is already bound at {first}; keep one")
            if binding.key == PLUGINS:
                statements.append(_plugins(binding, resolved=resolved))
                continue
            bound[binding.key] = source
            statements.append(binding)
        elif isinstance(raw, config_parser.BlockDeclaration):
            continue  # its bindings follow as separate statements
        elif resolved:
            raise ValueError(
                f"{source}: a resolved configuration must not have an include or import"
            )
        elif isinstance(raw, config_parser.ImportStatement):
            _check_import(raw, source, packages)
        elif bound:
            raise ValueError(f"{source}: an include must precede the bindings of its file")
        else:
            statements.append(Include(raw.filename, source))
    return statements


def _one_per_line(text: str, name: str) -> list[Binding] | None:
    """The bindings of a text with one on every line, as ``Config.text`` writes it, each different
    line parsed once; None for any other text.
    """
    lines = text.splitlines()
    found = [_line(line) if LINE.fullmatch(line) else None for line in lines]
    bindings = [b and replace(b, source=f"{name}:{n}") for n, b in enumerate(found, start=1)]
    known = [binding for binding in bindings if binding is not None]
    alone = len({binding.key for binding in known}) == len(known) == len(lines)
    return known if alone else None


@functools.lru_cache(maxsize=10_000)
def _line(text: str) -> Binding | None:
    """The binding of a line; None where it is not one, or where that takes other lines."""
    try:
        (raw,) = _raw_statements(text, "")
        is_binding = isinstance(raw, config_parser.BindingStatement)
        return _binding(raw, "") if is_binding else None
    except ValueError:
        return None


def _raw_statements(text: str, name: str) -> Iterator[Any]:
    parser = None
    try:
        parser = _Parser(text)
        while statement := parser.parse_statement():
            yield statement
    except SyntaxError as error:
        line = error.lineno or (parser.current_token.start[0] if parser else 1)
        raise ValueError(f"{name}:{line}: {_reason(error)}") from None
    except tokenize.TokenError as error:
        line = parser.current_token.start[0] if parser else 1
        reason = f"{error.args[0]} (is a bracket or a quote left open?)"
        raise ValueError(f"{name}:{line}: {reason}") from None
    except StopIteration:
        raise ValueError(f"{name}: the text ends in the middle of a statement") from None


def _reason(error: SyntaxError) -> str:
    """A one-line message that says what to write instead, where the parser's own would not."""
    message = str(error.msg)
    if isinstance(error, _RefusedError):
        return message
    word = re.search(r"Failed to parse token '(.*)'", message, re.DOTALL)
    if word is None:
        plain = f"{message.rstrip('.')}; a line is `Class.parameter = value`, the value a literal"
        return CLEARER.get(message, plain)
    if word[1].lstrip("-").lower() in ("nan", "inf", "infinity"):
        return f"{word[1]} is not a setting: a number must be finite"
    if word[1].isidentifier():
        return (
            f"{word[1]} is not a value: write @{word[1]} for a class, %{word[1]} for a macro, "
            f"'{word[1]}' for text"
        )
    return f"{word[1]!r} is not a literal"


def _check_import(
    raw: config_parser.ImportStatement, source: str, packages: tuple[str, ...]
) -> None:
    """Accept an import of a known package, which is already loaded; refuse any other."""
    if raw.module.split(".")[0] not in packages:
        raise ValueError(
            f"{source}: `{raw.format()}` is refused: a configuration may only name modules of "
            f"{', '.join(packages) or '(none)'}"
        )


def _binding(raw: config_parser.BindingStatement, source: str) -> Binding:
    key = f"{raw.selector}.{raw.arg_name}" if raw.arg_name else raw.selector
    if raw.scope:
        raise ValueError(
            f"{source}: {raw.scope}/{key} has a scope, and scopes are not supported; write {key}"
        )
    return Binding(key, raw.value, source)


def _plugins(binding: Binding, *, resolved: bool) -> Plugins:
    """The plug-ins that a file names. Raises ValueError for anything but texts."""
    if resolved:
        raise ValueError(
            f"{binding.source}: a resolved configuration must not name plug-ins, which are code; "
            "give them with --plugin"
        )
    names = (binding.value,) if isinstance(binding.value, str) else binding.value
    if not isinstance(names, tuple | list) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(
            f"{binding.source}: {PLUGINS} must be texts, such as ('my_paper/method.py',), "
            f"got {shortened(repr(binding.value))}"
        )
    return Plugins(tuple(names), binding.source)


def read_file(
    path: Path | str,
    library: ConfigLibrary | None = None,
    load_plugins: LoadPlugins | None = None,
) -> list[Binding]:
    """The bindings of a file and its includes; of two with the same key, the later one wins.

    An include is looked up beside the file that names it, then in the library. A file that is
    included several times is read once, at the first, so that it cannot undo changes made by
    another file in between. The plug-ins of a file are loaded before its includes are looked up.
    """
    file = path if isinstance(path, PresetPath) else _find(str(path), Path(), "", library)
    return list(_FileReader(library, load_plugins).includes_first(file, chain=()))


class _FileReader:
    """Reads one file and what it includes, each once; plug-ins add to the library on the way."""

    def __init__(self, library: ConfigLibrary | None, load_plugins: LoadPlugins | None) -> None:
        self.library = library
        self.load_plugins = load_plugins
        self.done: set[Path] = set()

    def includes_first(self, file: Path, chain: tuple[Path, ...]) -> Iterator[Binding]:
        included = bool(chain) or self._is_preset(file)
        chain = (*chain, file)
        self.done.add(file.resolve())
        packages = self.library.packages if self.library else ()
        statements = read_text(_content(file), _shown(file), packages=packages)
        for statement in statements:
            if isinstance(statement, Plugins):
                self._load(statement, file.parent)
        for statement in statements:
            if isinstance(statement, Binding):
                yield replace(statement, included=included)
            elif isinstance(statement, Include):
                yield from self._include(statement, chain)

    def _include(self, statement: Include, chain: tuple[Path, ...]) -> Iterator[Binding]:
        prefix = f"{statement.source}: "
        included = _find(statement.path, chain[-1].parent, prefix, self.library)
        if included.resolve() in {above.resolve() for above in chain}:
            circle = " -> ".join(_shown(link) for link in (*chain, included))
            raise ValueError(f"{prefix}the includes form a circle: {circle}")
        if included.resolve() not in self.done:
            yield from self.includes_first(included, chain)

    def _is_preset(self, file: Path) -> bool:
        """Whether a file is shipped, or was found by its name."""
        if isinstance(file, PresetPath) or self.library is None:
            return isinstance(file, PresetPath)
        return file.resolve().is_relative_to(self.library.folder.resolve())

    def _load(self, plugins: Plugins, folder: Path) -> None:
        if self.load_plugins is None:
            raise ValueError(f"{plugins.source}: plug-ins cannot be named here; give --plugin")
        folders = self.load_plugins(plugins, folder)
        if self.library is not None:
            self.library = self.library.with_folders(folders)


def _find(path: str, folder: Path, prefix: str, library: ConfigLibrary | None) -> Path:
    with suppress(OSError, ValueError):  # a name that no file can have: too long, a null character
        if (folder / path).is_file():
            return folder / path
        if library and (found := library.find(path)):
            return found
    near = library.nearest(path) if library else None
    raise ValueError(
        f"{prefix}there is no configuration file {shortened(repr(path))} in {_shown(folder)}"
        f"{f' or {_shown(library.folder)}' if library else ''}"
        f"{f'; did you mean {near!r}?' if near else ''}"
    )


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{_shown(file)}: not UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise ValueError(f"{_shown(file)}: cannot be read ({error.strerror})") from None


def _shown(path: Path) -> str:
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def read_overrides(overrides: Sequence[str], accepts_text: Callable[[str], bool]) -> list[Binding]:
    """The bindings of ``key=value`` strings from a command line.

    A bare word stands for text if ``accepts_text(key)``. Raises ValueError, naming the override.
    """
    bindings: dict[str, Binding] = {}
    for text in overrides:
        binding = _read_override(text, accepts_text)
        if binding.key in bindings:
            raise ValueError(f"{OVERRIDE} {text!r}: {binding.key} is set twice; keep one")
        bindings[binding.key] = binding
    return list(bindings.values())


def _read_override(text: str, accepts_text: Callable[[str], bool]) -> Binding:
    key, equals, value = (piece.strip() for piece in text.partition("="))
    if key == PLUGINS:
        raise ValueError(f"{OVERRIDE} {text!r}: plug-ins are given with --plugin")
    if not equals or not KEY.fullmatch(key) or "\n" in value:
        raise ValueError(f"{OVERRIDE} {text!r}: write {OVERRIDE} Class.parameter=value")
    try:
        (statement,) = read_text(f"{key} = {value}", OVERRIDE)
    except ValueError as error:
        if BARE_WORD.fullmatch(value) and accepts_text(key):
            return Binding(key, value, OVERRIDE)
        reason = str(error).removeprefix(f"{OVERRIDE}:1: ")
        raise ValueError(f"{OVERRIDE} {text!r}: {reason}") from None
    assert isinstance(statement, Binding), "one line that starts with `key =` is a binding"
    return Binding(key, statement.value, OVERRIDE)


def resolve(bindings: Sequence[Binding]) -> dict[str, Binding]:
    """The effective binding of every key, with macros replaced by their values.

    Raises ValueError on macros that are undefined, circular or never used. A macro set by an
    override must be used by an effective binding; one defined in a file may have been overridden.
    """
    macros = {binding.key: binding for binding in bindings if "." not in binding.key}
    settings = {binding.key: binding for binding in bindings if "." in binding.key}
    resolved = {
        key: replace(binding, value=_expand(binding.value, macros, binding.source, ()))
        for key, binding in settings.items()
    }
    mentioned = _macro_names([binding.value for binding in bindings])
    effective = _macro_names([binding.value for binding in (*settings.values(), *macros.values())])
    for name, macro in macros.items():
        if name not in (effective if macro.source == OVERRIDE else mentioned):
            raise ValueError(
                f"{macro.source}: nothing uses the macro {name!r}; "
                f"a setting is written Class.parameter = value{did_you_mean_key(name)}"
            )
    return resolved


def _expand(
    value: object, macros: Mapping[str, Binding], source: str, chain: tuple[str, ...]
) -> object:
    if isinstance(value, tuple | list):
        return tuple(_expand(item, macros, source, chain) for item in value)
    if isinstance(value, dict):
        return {key: _expand(item, macros, source, chain) for key, item in value.items()}
    if not isinstance(value, Macro):
        return value
    if value.name not in macros:
        raise ValueError(
            f"{source}: the macro %{value.name} is not defined; define it with a line "
            f"`{value.name} = ...`{did_you_mean(value.name, macros)}"
        )
    chain = (*chain, value.name)
    if len(chain) > DEEPEST_NESTING:
        raise ValueError(
            f"{source}: the macro %{chain[0]} leads through more than {DEEPEST_NESTING} others; "
            "give its value"
        )
    if value.name in chain[:-1]:
        raise ValueError(f"{source}: the macros {' -> '.join(chain)} form a circle")
    return _expand(macros[value.name].value, macros, source, chain)


def _macro_names(value: object) -> set[str]:
    if isinstance(value, Macro):
        return {value.name}
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return set().union(*(_macro_names(item) for item in value))
    return set()
