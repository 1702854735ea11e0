"""A small family of registered classes, and files that configure them, for the config tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import core.config.parse
import core.config.registry
from core.config.config import Config, Reference, load_config
from core.config.registry import (
    Part,
    PositiveFloat,
    PositiveInt,
    Probability,
    Value,
    _temporary_entries,
    register,
)


class ToyNoCache:
    """No memory."""

    def __init__(self, width: int) -> None:
        self.width = width


class ToyEmaCache:
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


class ToyOff:
    """No mixing: a cache cannot matter."""


class ToyMix:
    """Mixing."""

    def __init__(self, *, hidden: PositiveInt = 4) -> None:
        self.hidden = hidden


class ToyNullRefiner:
    """No refiner."""

    def __init__(self, width: int) -> None:
        self.width = width


class ToyRefiner:
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
class ToyExperiment:
    """One run."""

    refiner: Annotated[Callable[..., Any], Part("toy_refiner")]
    lr: PositiveFloat = 0.001
    seeds: tuple[int, ...] = (1,)
    name: str = "plain"
    root: str | None = None
    runtime: str = "unset"


@dataclass(frozen=True, kw_only=True)
class ToyGrid:
    """Several runs."""

    variants: dict[str, dict[str, Any]] = field(default_factory=dict)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registers the toys for one test, in an empty working folder with its own ready-made files."""
    ready_made = tmp_path / "ready_made"
    ready_made.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(core.config.parse, "CONFIG_DIR", ready_made)
    monkeypatch.setattr(
        core.config.registry, "_TABLE", {}
    )  # whoever else was imported stays out of hints
    with _temporary_entries():
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


def load(text: str, *overrides: str) -> Config:
    """The configuration of a file a.gin with this text."""
    return load_config(write("a.gin", text), overrides)


def refusal(text: str, *overrides: str) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)
