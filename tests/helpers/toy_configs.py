"""A small family of registered classes, and files that configure them, for the config tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from core.config import (
    Config,
    ConfigLibrary,
    Configurable,
    Part,
    PositiveFloat,
    PositiveInt,
    Probability,
    Reference,
    Value,
    isolated_registry,
    load_config,
    register,
)


class ToyNoCache(Configurable):
    """No memory."""

    def __init__(self, width: int) -> None:
        self.width = width


class ToyEmaCache(Configurable):
    """A moving average."""

    def __init__(
        self,
        width: int,
        *,
        num_slots: PositiveInt = 8,
        decay: Probability = 0.9,
        mode: Literal["hard", "soft"] = "hard",
    ) -> None:
        if num_slots == 13:
            raise KeyError("unlucky")
        self.settings = (width, num_slots, decay, mode)


class ToyOff(Configurable):
    """No mixing: a cache cannot matter."""


class ToyMix(Configurable):
    """Mixing."""

    def __init__(self, *, hidden: PositiveInt = 4) -> None:
        self.hidden = hidden


class ToyNullRefiner(Configurable):
    """No refiner."""

    def __init__(self, width: int) -> None:
        self.width = width


class ToyRefiner(Configurable):
    """A refiner with two parts."""

    def __init__(
        self,
        width: int,
        *,
        cache: Annotated[Callable[..., Any], Part("toy_cache")],
        mixing: Annotated[Callable[..., Any], Part("toy_mixing")],
        weight: float = 1.0,
    ) -> None:
        self.cache = cache(width)
        self.mixing = mixing()
        self.weight = weight

    @classmethod
    def simplify(cls, parameters: dict[str, Value]) -> dict[str, Value] | Reference:
        """Without mixing no cache matters; without weight nothing does."""
        if parameters["mixing"] == Reference("ToyOff"):
            parameters["cache"] = Reference("ToyNoCache")
        if parameters["weight"] == 0:
            return Reference("ToyNullRefiner")
        return parameters


@dataclass(frozen=True, kw_only=True)
class ToyExperiment(Configurable):
    """One run."""

    refiner: Annotated[Callable[..., Any], Part("toy_refiner")]
    lr: PositiveFloat = 0.001
    seeds: tuple[int, ...] = (1,)
    name: str = "plain"
    root: str | None = None
    runtime: str = "unset"


@dataclass(frozen=True, kw_only=True)
class ToyGrid(Configurable):
    """Several runs."""

    variants: dict[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registers the toys, and nothing else, for one test, in an empty working folder with a library
    of its own.
    """
    (tmp_path / "library").mkdir()
    monkeypatch.chdir(tmp_path)
    with isolated_registry(empty=True):
        register("toy_cache")(ToyNoCache)
        register("toy_cache")(ToyEmaCache)
        register("toy_mixing")(ToyOff)
        register("toy_mixing")(ToyMix)
        register("toy_refiner")(ToyNullRefiner)
        register("toy_refiner")(ToyRefiner)
        register("toy_experiment", name="toy")(ToyExperiment)
        register("toy_grid", name="toy_grid")(ToyGrid)
        yield


FULL = """
toy.refiner = @ToyRefiner
toy.lr = 0.01
ToyRefiner.cache = @ToyEmaCache
ToyRefiner.mixing = @ToyMix
ToyEmaCache.num_slots = 16
"""


def write(name: str, text: str) -> str:
    """Writes a file below the working folder."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return name


def read(path: str | Path, *overrides: str) -> Config:
    """The configuration of a file, with the library of the working folder."""
    library = ConfigLibrary(
        folder=Path("library"), sorted_by=("kinds",), packages=("core", "methods")
    )
    return load_config(path, overrides, library)


def load(text: str, *overrides: str) -> Config:
    """The configuration of a file a.gin with this text."""
    return read(write("a.gin", text), *overrides)


def refusal(text: str, *overrides: str) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)
