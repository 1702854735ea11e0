"""The shipped settings of every registered method, found in the configurations themselves."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import Config, Reference, lookup, registered_classes
from experiments.configs import SHIPPED, config_path, read_config_file

BASE = "base"
METHODS, PUBLISHED = "methods", "published"
NONE = Reference("NullRefiner")
# The protocol whose published settings are taken where a method has several.
PROTOCOLS = ("base_to_new", "few_shot", "cross_dataset", "domain_generalization")


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPreset:
    """Where the settings of a method are: ``config`` is a shipped configuration and ``bindings``
    choose the method where no configuration does; ``batch_size`` is the published one, None where
    nothing is published, as for a method that does not train.
    """

    method: str
    config: str
    bindings: tuple[str, ...] = ()
    batch_size: int | None = None

    def read(self, *overrides: str) -> Config:
        """The configuration, with overrides on top of it, which name a dataset."""
        return read_config_file(config_path(self.config), [*self.bindings, *overrides])

    def read_scorable(self, *overrides: str) -> Config:
        """The same; a method that cannot score new classes scores those that it is trained on."""
        config = self.read(*overrides)
        entry = lookup(self.method, "method")
        values = config.operative("experiment")
        own = {name: values[f"{entry.name}.{name}"] for name in entry.parameters}
        if entry.ask("closed_set", own):
            return config.with_bindings({"experiment.protocol": "few_shot"}, "closed set")
        return config


def method_presets() -> dict[str, MethodPreset]:
    """The settings of every registered method, by its name."""
    return dict(_presets(tuple(entry.name for entry in registered_classes("method"))))


@functools.lru_cache(maxsize=1)
def _presets(methods: tuple[str, ...]) -> dict[str, MethodPreset]:
    usual, published = list(_alone(METHODS)), [config for _, config in _alone(PUBLISHED)]
    return {method: _preset(method, usual, published) for method in methods}


def _preset(
    method: str, usual: Sequence[tuple[str, Config]], published: Sequence[Config]
) -> MethodPreset:
    own = [name for name, config in usual if _binds(config, method)]
    sizes: dict[object, object] = {}
    for config in published:
        if _binds(config, method):
            found = config.bindings
            sizes[found.get("experiment.protocol")] = found.get("experiment.batch_size")
    named = (sizes.get(protocol) for protocol in PROTOCOLS)
    size = next((value for value in named if isinstance(value, int)), None)
    if not own:
        chosen = (f"experiment.method=@{method}",)
        return MethodPreset(method=method, config=BASE, bindings=chosen, batch_size=size)
    name = min(own, key=lambda name: (name.replace("_", "") != method.lower(), len(name), name))
    return MethodPreset(method=method, config=name, batch_size=size)


def _binds(config: Config, method: str) -> bool:
    return config.bindings.get("experiment.method") == Reference(method)


def _alone(folder: str) -> Iterator[tuple[str, Config]]:
    """The shipped configurations of a folder in which a method runs without a refiner."""
    for name, path in SHIPPED.files().items():
        if path.parent == SHIPPED.folder / folder:
            config = _read(path)
            if config is not None and config.bindings.get("experiment.refiner") == NONE:
                yield name, config


@functools.cache
def _read(path: Path) -> Config | None:
    """A configuration, or None for one of a grid, which has settings that no run has."""
    if path.stem.startswith("grid_"):
        return None
    return read_config_file(path)
