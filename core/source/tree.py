"""Files of source code, and everything that a definition in them calls.

A module belongs to the tree if it lies in one of its folders. What others define (the standard
library, installed packages) is known by its name only, and so is what lies outside by choice: see
``SourceTree``.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.source.module import Definition, Imported, Module, read_module
from core.source.syntax import Chain

DIGITS = 16
HOOK = "__getattr__"


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder from which modules are imported. ``packages`` limits it to these top-level names."""

    path: Path
    packages: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """A definition in a module."""

    module: Module
    definition: Definition


@dataclass(frozen=True, slots=True)
class Called:
    """All definitions that some definitions call, with themselves: the hash of each, by place.

    ``hash`` does not depend on where a definition stands: moving one is no change.
    """

    hashes: Mapping[Place, str]

    @property
    def hash(self) -> str:
        return _digest("\n".join(sorted(self.hashes.values())))

    def listing(self) -> dict[str, dict[str, str]]:
        """The hashes by file and name."""
        found: dict[str, dict[str, str]] = {}
        ordered = sorted(self.hashes.items(), key=lambda item: (item[0].module.path, item[1]))
        for place, text in ordered:
            names = found.setdefault(place.module.path, {})
            name = place.definition.name
            names[name] = _digest(names[name] + text) if name in names else text
        return {path: dict(sorted(names.items())) for path, names in sorted(found.items())}


class SourceTree:
    """Modules by name, each read once, and what their definitions call.

    Paths below ``home`` are listed relative to it. ``outside`` are modules and packages of the tree
    that are not followed. ``aliases`` maps the names of top-level packages to the package that they
    stand for, "" where they are only a prefix.
    """

    def __init__(
        self,
        home: Path,
        folders: Sequence[SourceFolder],
        *,
        outside: Iterable[str] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.folders = list(folders)
        self.outside = frozenset(outside)
        self.aliases = aliases or {}
        self.places: dict[str, Path] = {}
        self._sources: dict[Path, str] = {}
        self._modules: dict[str, Module | None] = {}
        self._hashes: dict[Definition, tuple[str, tuple[Place, ...]]] = {}

    def add(self, module: str, path: Path, *, alone: bool) -> None:
        """Another top-level module: a file, or the folder of a package, whose name may differ.

        Unless it is ``alone``, the modules beside it belong to the tree as well.
        """
        if self.places.get(module) != path:
            self.places[module] = path
            self.folders += [] if alone else [SourceFolder(path.parent)]
            self._modules = {name: found for name, found in self._modules.items() if found}

    def keep(self, path: Path) -> None:
        """Read a file now, so that a later change of it is not seen."""
        self._source(path)

    def _source(self, path: Path) -> str:
        if path not in self._sources:
            try:
                self._sources[path] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                self._sources[path] = ""
        return self._sources[path]

    def module(self, name: str) -> Module | None:
        """The module of that name, None where the tree has none or it is outside."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        parts = tuple(name.split("."))
        parents = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        if parents & self.outside or not name:
            return None
        for stem in self._stems(parts):
            package = stem / "__init__.py"
            path = package if package.is_file() else stem.with_name(f"{stem.name}.py")
            path = stem if stem.is_file() else path
            if path.is_file():
                return self._parsed(path, name)
            if stem.is_dir():  # a package without a file of its own
                return Module(name, "", {}, {}, [], [])
        return None

    def _stems(self, parts: tuple[str, ...]) -> Iterator[Path]:
        """The places where a module can be, without the ending of its file."""
        if place := self.places.get(parts[0]):
            yield place.joinpath(*parts[1:])
            return
        for folder in self.folders:
            if not folder.packages or parts[0] in folder.packages:
                yield folder.path.joinpath(*parts)

    def _parsed(self, path: Path, name: str) -> Module:
        near = path.is_relative_to(self.home)
        where = (path.relative_to(self.home) if near else path).as_posix()
        return read_module(self._source(path), name, where, is_package=path.name == "__init__.py")

    def find(self, module: str, name: str) -> list[Place]:
        """The places of a definition, wherever the module has it from; empty where there is none.

        ``name`` may go on with attributes: ``Class.method`` is the class.
        """
        start = self.module(self._real(module))
        return list(self._in_module(start, tuple(name.split(".")), set())[0]) if start else []

    def search(self, package: str, name: str) -> list[Place]:
        """The places of a definition in any module of a top-level package."""
        found: dict[Place, None] = {}
        for stem in self._stems((package,)):
            for path in sorted(stem.rglob("*.py")):
                inner = path.relative_to(stem).with_suffix("").parts
                inner = inner[:-1] if inner[-1] == "__init__" else inner
                if module := self.module(".".join((package, *inner))):
                    found |= {Place(module, d): None for d in module.definitions.get(name, ())}
        return list(found)

    def called(self, places: Iterable[Place]) -> Called:
        """Everything that these definitions call, with themselves."""
        hashes: dict[Place, str] = {}
        pending = list(places)
        while pending:
            place = pending.pop()
            if place in hashes:
                continue
            hashes[place], calls = self._followed(place)
            pending += [*calls, *(Place(place.module, d) for d in place.module.always)]
        return Called(hashes)

    def _followed(self, place: Place) -> tuple[str, tuple[Place, ...]]:
        """The hash of one definition, and the places that it calls."""
        if place.definition not in self._hashes:
            named, calls = set(), dict[Place, None]()
            for chain in place.definition.reads:
                found, about = self._resolved(place, chain)
                calls |= dict.fromkeys(found)
                named |= {f"{chain[0]}: {name}" for name in about}
            text = "\n".join([place.definition.text, *sorted(named)])
            self._hashes[place.definition] = _digest(text), tuple(calls)
        return self._hashes[place.definition]

    def _resolved(self, place: Place, chain: Chain) -> tuple[dict[Place, None], set[str]]:
        """What a definition reads by a name: the places, and what others call it."""
        own = place.definition.imports.get(chain[0], ())
        found, about = self._in_module(place.module, chain, set())
        for imported in own:
            more, names = self._imported(imported, chain[1:], set())
            found, about = found | more, about | names
        return found, about

    def _in_module(
        self, module: Module, chain: Chain, seen: set[tuple[str, Chain]]
    ) -> tuple[dict[Place, None], set[str]]:
        """What a module has by this name."""
        if (module.name, chain) in seen:
            return {}, set()
        seen.add((module.name, chain))
        if module.unread is not None:
            return {Place(module, module.unread): None}, {chain[0]}
        found = {Place(module, d): None for d in module.definitions.get(chain[0], ())}
        about = {chain[0]} if found else set[str]()
        for imported in module.imports.get(chain[0], ()):
            more, names = self._imported(imported, chain[1:], seen)
            found, about = found | more, about | names
        if not found and not about:
            for star in module.stars:
                if other := self.module(self._real(star)):
                    more, names = self._in_module(other, chain, seen)
                    found, about = found | more, about | names
        return found, about

    def _imported(
        self, imported: Imported, rest: Chain, seen: set[tuple[str, Chain]]
    ) -> tuple[dict[Place, None], set[str]]:
        """What an import stands for, and the attributes read from it."""
        origin = self._real(imported.module)
        if not origin and imported.name:  # from ALIAS import PACKAGE
            return self._imported(Imported(imported.name), rest, seen)
        module = self.module(origin)
        chain = (imported.name, *rest) if imported.name else rest
        if module is None:
            known = any(origin == name or origin.startswith(f"{name}.") for name in self.outside)
            name = f".{imported.name}" if imported.name else ""
            return {}, {imported.name if known and name else f"{imported.module}{name}"}
        if not chain:
            return dict.fromkeys(_all_of(module)), set()
        found, about = self._in_module(module, chain, seen)
        if found or about:
            return found, about
        below = ".".join(filter(None, (origin, chain[0])))
        if self.module(below) is not None or below in self.outside:
            return self._imported(Imported(below), chain[1:], seen)
        return {Place(module, d): None for d in module.definitions.get(HOOK, ())}, {chain[0]}

    def _real(self, name: str) -> str:
        top, _, rest = name.partition(".")
        if top not in self.aliases:
            return name
        return ".".join(filter(None, (self.aliases[top], rest)))


def _all_of(module: Module) -> Iterator[Place]:
    for definitions in module.definitions.values():
        yield from (Place(module, definition) for definition in definitions)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
