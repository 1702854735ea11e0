"""What a configuration says of a search: the ``search.*`` bindings, checked before any trial."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from core.config import (
    Config,
    Configurable,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Reference,
    build,
    lookup,
    register,
)
from core.seeding import derive_seed
from experiments.search.samplers import Pruner, Sampler
from experiments.study.planner import ROOT, STUDY_NAME

SEARCH = "search"
SPACE = "search.space"
RANDOM = "Random"
MAX_RUNS = 10_000

Objective = Literal["val", "hm", "base", "new", "train_seconds", "trainable_parameters"]
Stage = Literal["seed", "dataset", "run"]
Mode = Literal["rounds", "asynchronous"]
ProtocolName = Literal["validation", "pseudo_new"]


class Aim(NamedTuple):
    """How an objective is judged: the protocol of its runs ("" for any), the better direction,
    which metric of the final study it stands for, and a line of help.
    """

    protocol: ProtocolName | Literal[""]
    maximized: bool
    test_metric: str
    summary: str


AIMS: Mapping[str, Aim] = MappingProxyType(
    {
        "val": Aim(
            "validation", True, "base", "accuracy on few-shot validation images of base classes"
        ),
        "hm": Aim(
            "pseudo_new", True, "hm", "harmonic mean over pseudo-base and pseudo-new classes"
        ),
        "base": Aim("pseudo_new", True, "base", "accuracy on pseudo-base classes"),
        "new": Aim("pseudo_new", True, "new", "accuracy on pseudo-new classes"),
        "train_seconds": Aim(
            "", False, "train_seconds", "seconds of training a run; measured, never twice the same"
        ),
        "trainable_parameters": Aim(
            "", False, "trainable_parameters", "numbers that training moves"
        ),
    }
)


@register("search", name=SEARCH)
@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Configurable):
    """A hyper-parameter search that never sees test images or new classes.

    ``space`` maps ``Class.parameter`` to a range (a dict with low and high, perhaps log or step)
    or to a tuple of choices. ``objectives`` is what trials are judged by, averaged over
    ``datasets`` and ``seeds``; the first one names the winner. ``final_seeds`` judge the winner on
    test images, once. ``round_size`` trials are proposed at a time and told together, which makes
    a resumed search equal an uninterrupted one; ``mode`` "asynchronous" keeps as many under way
    instead and is not reproducible. ``seed`` is the sampler's. ``stage`` says after what a pruner
    looks at a trial. A run is stopped after ``run_seconds``. ``storage`` is an Optuna storage URL
    that receives a copy of the study.
    """

    study: str
    space: dict[str, Any]
    datasets: tuple[str, ...]
    seeds: tuple[NonNegativeInt, ...]
    final_seeds: tuple[NonNegativeInt, ...]
    sampler: Annotated[Callable[..., Sampler], Part("sampler")]
    pruner: Annotated[Callable[..., Pruner], Part("pruner")]
    objectives: tuple[Objective, ...] = ("val",)
    trials: PositiveInt = 60
    round_size: PositiveInt = 4
    mode: Mode = "rounds"
    seed: NonNegativeInt = 0
    stage: Stage = "seed"
    run_seconds: PositiveFloat | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        if not STUDY_NAME.fullmatch(self.study):
            raise ValueError(
                f"search.study names a folder: letters, digits, '_', '-', '.', got {self.study!r}"
            )
        lists: dict[str, tuple[Any, ...]] = {
            "datasets": self.datasets,
            "seeds": self.seeds,
            "final_seeds": self.final_seeds,
            "objectives": self.objectives,
        }
        for name, values in lists.items():
            if not values:
                raise ValueError(f"search.{name} is empty: name at least one")
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"search.{name} must not repeat a value, {twice[0]!r} does")
        if both := sorted(set(self.seeds) & set(self.final_seeds)):
            raise ValueError(
                f"search.final_seeds must be fresh, {both[0]} is among search.seeds as well: the "
                "winner was chosen by it"
            )
        self._check_objectives()
        if (runs := self.trials * len(self.datasets) * len(self.seeds)) > MAX_RUNS:
            raise ValueError(
                f"the search has {runs} runs, more than {MAX_RUNS}: take fewer trials, datasets "
                "or seeds"
            )

    def _check_objectives(self) -> None:
        protocols = {AIMS[name].protocol for name in self.objectives} - {""}
        if len(protocols) != 1:
            told = "only costs" if not protocols else "'val' and pseudo-new classes"
            raise ValueError(
                f"search.objectives must have an accuracy of one kind of run, got {told} in "
                f"{self.objectives}; take 'val', or some of 'hm', 'base' and 'new'"
            )
        if not AIMS[self.objectives[0]].maximized:
            raise ValueError(
                f"search.objectives begins with what names the winner, an accuracy, got "
                f"{self.objectives[0]!r}"
            )

    @property
    def protocol(self) -> str:
        """The protocol of the trials' runs."""
        return next(AIMS[name].protocol for name in self.objectives if AIMS[name].protocol)

    @property
    def directions(self) -> tuple[str, ...]:
        """What is better of each objective, in Optuna's words."""
        return tuple("maximize" if AIMS[n].maximized else "minimize" for n in self.objectives)


class Parsed(NamedTuple):
    """A search, its sampler and pruner, all their settings as text, and what trials start from."""

    search: Search
    sampler: Sampler
    pruner: Pruner
    options: Mapping[str, Any]
    base: Config


def search_of(config: Config, *, trials: int | None = None, control: bool = False) -> Parsed:
    """The search that a configuration binds.

    ``trials`` replaces ``search.trials``. ``control`` makes it the random search of equal budget,
    in a study of its own, with a seed of its own: the random trials that a sampler begins with must
    not be the control's as well.

    Raises ValueError for a search that is missing, incomplete or breaks a rule.
    """
    if not any(key.startswith(f"{SEARCH}.") for key in config.bindings):
        raise ValueError("the configuration has no search: bind search.study, search.space, ...")
    if trials is not None:
        config = config.with_bindings({f"{SEARCH}.trials": trials}, "--trials")
    if control:
        config = config.without({f"{SEARCH}.pruner", *_of_kind(config, "sampler", "pruner")})
        plain = {f"{SEARCH}.sampler": Reference(RANDOM), f"{SEARCH}.pruner": Reference("NoPruning")}
        config = config.with_bindings(plain, "--control")
    without_parts = (
        config.with_bindings({SPACE: {}}, SEARCH) if SPACE in config.bindings else config
    )
    values: dict[str, Any] = without_parts.operative(SEARCH)
    values[SPACE] = config.bindings[SPACE]
    search = Search(**_own(values, SEARCH))
    if control:
        own_seed = derive_seed(search.seed, "control")
        search = replace(search, study=f"{search.study}_random", mode="rounds", seed=own_seed)
    sampler = build(without_parts, values["search.sampler"].name)
    pruner = build(without_parts, values["search.pruner"].name)
    _check_sampler(search, sampler, pruner)
    outside = {key for key in config.bindings if key.startswith((f"{SEARCH}.", "grid."))}
    outside |= set(_of_kind(config, "sampler", "pruner"))
    _check_base(config)
    options = {key: value for key, value in values.items() if not key.startswith(f"{SEARCH}.")}
    return Parsed(search, sampler, pruner, options, config.without(outside))


def _own(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def _of_kind(config: Config, *kinds: str) -> list[str]:
    """Bindings of classes of these kinds."""
    return [key for key in config.bindings if lookup(key.rpartition(".")[0]).kind in kinds]


def _check_sampler(search: Search, sampler: Sampler, pruner: Pruner) -> None:
    name = type(sampler).__name__
    if sampler.objectives == "one" and len(search.objectives) > 1:
        raise ValueError(
            f"@{name} knows one objective, got search.objectives = {search.objectives}; use @TPE, "
            "@GP or @NSGA3"
        )
    if pruner.prunes and len(search.objectives) > 1:
        raise ValueError(
            f"a pruner compares one objective, got search.objectives = {search.objectives}; use "
            "@NoPruning"
        )


def _check_base(config: Config) -> None:
    selection = config.bindings.get(f"{ROOT}.selection", "last")
    if selection != "last":
        raise ValueError(
            f"a search judges the last epoch, got {ROOT}.selection = {selection!r}: validation "
            "images judge the trials already; use 'last' and search experiment.epochs"
        )
    for key in (f"{ROOT}.dataset", f"{ROOT}.seed"):
        if config.sources.get(key) == "--set":
            name = key.rpartition(".")[2]
            raise ValueError(f"--set {key}: a search has a list of them; set search.{name}s")
