"""Files of source code, and everything that a definition in them calls.

A module belongs to the tree if it lies in one of its folders. What others define (the standard
library, installed packages) is known by its name only, and so is what lies outside by choice: see
``SourceTree``.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


class Target(NamedTuple):
    """What a name stands for: a definition by the name that it has there, or what others call it
    (without a place).
    """

    name: str
    place: Place | None = None


Link = tuple[str, tuple[Target, ...]]
"""A name that a definition reads, and what it stands for, in the order of the statements."""


@dataclass(frozen=True, slots=True)
class Called:
    """All definitions that some definitions call, with themselves, in the order in which they are
    reached: the hash of each by itself, and what the names that it reads stand for.

    ``hash`` covers both. Definitions are numbered as they are reached, so it does not depend on
    where one stands: moving it is no change.
    """

    hashes: Mapping[Place, str]
    links: Mapping[Place, tuple[Link, ...]]

    @property
    def hash(self) -> str:
        numbers = {place: number for number, place in enumerate(self.hashes)}
        lines = []
        for place, text in self.hashes.items():
            links = [
                (read, [(name, found and numbers[found]) for name, found in targets])
                for read, targets in self.links[place]
            ]
            lines.append(repr((text, links)))
        return _digest("\n".join(lines))

    def listing(self) -> dict[str, dict[str, str]]:
        """The hashes by file and name."""
        found: dict[str, dict[str, str]] = {}
        ordered = sorted(
            self.hashes.items(), key=lambda item: (item[0].module.path, item[0].definition.number)
        )
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
        self._followed: dict[Definition, tuple[str, tuple[Link, ...]]] = {}

    def add(self, module: str, path: Path, *, alone: bool) -> None:
        """Another top-level module: a file, or the folder of a package, whose name may differ.

        Unless it is ``alone``, the modules beside it belong to the tree as well.
        """
        if self.places.get(module) != path:
            self.places[module] = path
            self.folders += [] if alone else [SourceFolder(path.parent)]
            self._modules = {name: found for name, found in self._modules.items() if found}

    def keep(self, path: Path) -> str:
        """Read a file now, so that a later change is not seen; "" where it cannot be read."""
        return self._source(path)

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
                return Module(name, "")
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
        found = self._in_module(start, tuple(name.split(".")), set()) if start else []
        return list(dict.fromkeys(target.place for target in found if target.place))

    def search(self, package: str, name: str) -> list[Place]:
        """The places of a definition in any module of a top-level package."""
        found: dict[Place, None] = {}
        for stem in self._stems((package,)):
            for path in sorted(stem.rglob("*.py")):
                inner = path.relative_to(stem).with_suffix("").parts
                inner = inner[:-1] if inner[-1] == "__init__" else inner
                if module := self.module(".".join((package, *inner))):
                    found |= {Place(module, d): None for d in module.definitions(name)}
        return list(found)

    def whole(self, module: str, among: Callable[[str], bool]) -> list[Place]:
        """Everything in a module, in the modules of the tree that it imports, and so on, and in
        their packages, as far as ``among`` has their names.
        """
        pending, found = [module], dict[str, Module]()
        while pending:
            name = self._real(pending.pop())
            read = self.module(name) if name not in found and among(name) else None
            if read is not None:
                found[name] = read
                pending += [*_packages(name), *read.imported]
        modules = [found[name] for name in sorted(found)]
        return [Place(read, definition) for read in modules for definition in read.everything()]

    def called(self, places: Iterable[Place]) -> Called:
        """Everything that these definitions call, with themselves."""
        hashes: dict[Place, str] = {}
        links: dict[Place, tuple[Link, ...]] = {}
        pending = deque(places)
        while pending:
            place = pending.popleft()
            if place in hashes:
                continue
            hashes[place], links[place] = self._follow(place)
            pending += [found for _, targets in links[place] for _, found in targets if found]
        return Called(hashes, links)

    def _follow(self, place: Place) -> tuple[str, tuple[Link, ...]]:
        """The hash of one definition by itself, and what the names that it reads stand for."""
        definition = place.definition
        if definition not in self._followed:
            links: list[Link] = []
            named: set[str] = set()
            for chain in definition.reads:
                targets = tuple(self._resolved(place, chain))
                first = place.module.read_by(definition, chain[0])
                links.append((".".join([first, *chain[1:]]), targets))
                named |= {f"{chain[0]}: {target.name}" for target in targets if target.name}
            text = "\n".join([definition.text, *sorted(named)])
            ran = tuple(Target("", found) for found in self._run_at_import(place.module))
            self._followed[definition] = _digest(text), (*links, ("", ran))
        return self._followed[definition]

    def _run_at_import(self, module: Module) -> Iterator[Place]:
        """The statements of a module and of its packages that may change anything."""
        for read in (*map(self.module, _packages(module.name)), module):
            if read is not None:
                yield from (Place(read, definition) for definition in read.always)

    def _resolved(self, place: Place, chain: Chain) -> list[Target]:
        """What a definition reads by a name."""
        found = self._in_module(place.module, chain, set())
        for imported in place.definition.imports.get(chain[0], ()):
            found += self._imported(imported, chain[1:], set())
        if not found and chain[0] == "globals":
            found += _all_of(place.module)
        return found

    def _in_module(
        self, module: Module, chain: Chain, seen: set[tuple[str, Chain]]
    ) -> list[Target]:
        """What a module has by this name."""
        if (module.name, chain) in seen:
            return []
        seen.add((module.name, chain))
        if module.unread is not None:
            return [Target(chain[0], Place(module, module.unread))]
        found: list[Target] = []
        for bound in module.names.get(chain[0], ()):
            if isinstance(bound, Imported):
                found += self._imported(bound, chain[1:], seen)
            else:
                found.append(Target(chain[0], Place(module, bound)))
        if not found:
            for other in map(self.module, map(self._real, module.stars)):
                found += self._in_module(other, chain, seen) if other else []
        return found

    def _imported(
        self, imported: Imported, rest: Chain, seen: set[tuple[str, Chain]]
    ) -> list[Target]:
        """What an import stands for, and the attributes read from it."""
        origin = self._real(imported.module)
        if not origin and imported.name:  # from ALIAS import PACKAGE
            return self._imported(Imported(imported.name), rest, seen)
        module = self.module(origin)
        chain = (imported.name, *rest) if imported.name else rest
        if module is None:
            known = any(origin == name or origin.startswith(f"{name}.") for name in self.outside)
            name = f".{imported.name}" if imported.name else ""
            return [Target(imported.name if known and name else f"{imported.module}{name}")]
        if not chain:
            return _all_of(module)
        if found := self._in_module(module, chain, seen):
            return found
        below = ".".join(filter(None, (origin, chain[0])))
        if self.module(below) is not None or below in self.outside:
            return self._imported(Imported(below), chain[1:], seen)
        return [Target(chain[0]), *(Target("", Place(module, d)) for d in module.definitions(HOOK))]

    def _real(self, name: str) -> str:
        top, _, rest = name.partition(".")
        if top not in self.aliases:
            return name
        return ".".join(filter(None, (self.aliases[top], rest)))


def _packages(module: str) -> list[str]:
    """The packages that a module is in, from the outermost."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _all_of(module: Module) -> list[Target]:
    return [Target("", Place(module, definition)) for definition in module.everything()]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
