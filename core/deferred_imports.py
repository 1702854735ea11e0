"""Postpones the import of packages that a library names at its top and may never use.

What is imported meanwhile are stand-ins. A stand-in's attribute loads the package when it is first
used: called, looked into, subclassed or asked about an instance; what it then does is what the
package does. A package that is loaded already, or missing, is left alone.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def deferred_imports(*packages: str) -> Iterator[None]:
    """Let imports of these packages, and of what is below them, wait until they are needed."""
    finder = _StandInFinder(
        [name for name in packages if name not in sys.modules and _exists(name)]
    )
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.close()


def _exists(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    return PathFinder.find_spec(name if parent else last, path) is not None


class _StandInFinder(MetaPathFinder, Loader):
    """Answers imports of the packages with stand-ins until it is closed."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)
        self.made: dict[str, _StandIn] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if any(name == package or name.startswith(f"{package}.") for package in self.packages):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.made[spec.name] = _StandIn(spec.name, self)
        return self.made[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the real module is imported when it is used."""

    def close(self) -> None:
        """Take the stand-ins away from where imports and attributes find them."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name, module in self.made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
            parent, _, last = name.rpartition(".")
            if parent and vars(sys.modules.get(parent, object)).get(last) is module:
                delattr(sys.modules[parent], last)


class _StandIn(ModuleType):
    """A module that is imported when something in it is used."""

    def __init__(self, name: str, finder: _StandInFinder) -> None:
        super().__init__(name)
        self._finder = finder

    def _load(self) -> ModuleType:
        self._finder.close()
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _Deferred(self, name)


class _Deferred:
    """An attribute of a stand-in."""

    def __init__(self, module: _StandIn, name: str) -> None:
        self._module, self._name = module, name

    def _load(self) -> Any:
        return getattr(self._module._load(), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._load()[key]

    def __or__(self, other: Any) -> Any:
        return self._load() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._load()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._load(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._load())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._load())
