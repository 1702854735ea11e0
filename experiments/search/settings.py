"""The settings of a search, and the definition of the search that follows from them.

The ``search.*`` bindings are checked before any trial. ``search.json`` holds everything that
determines the trials and is written before the first one; a search of that name with another
definition is refused with a list of the differences. The number of trials is not part of it: a
search can be extended until its winner has been evaluated on test images.
"""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
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
    format_value,
    lookup,
    references,
    register,
)
from core.derived_seeds import derive_seed
from core.plugins import used_plugins
from core.store.manifest import MAX_SEED
from core.store.names import CONTROL_SUFFIX, FINAL_SUFFIX, checked_study_name
from core.store.search import is_search, read_definition, write_definition
from experiments.run.grid_settings import grid_settings
from experiments.search.samplers import Pruner, Sampler
from experiments.search.space import Space
from experiments.study.planner import ROOT, FingerprintOf
from experiments.study.replaced import OVERRIDE, replaced_settings

SEARCH = "search"
SPACE = "search.space"
RANDOM = "Random"
MAX_RUNS = 10_000
TRAINING_PACKAGES = ("torch", "open_clip_torch", "safetensors")
MAX_SHOWN = 5

ObjectiveName = Literal["val", "hm", "base", "new", "train_seconds", "trainable_parameters"]
Direction = Literal["maximize", "minimize"]
Stage = Literal["seed", "dataset", "run"]
Mode = Literal["rounds", "asynchronous"]
ProtocolName = Literal["validation", "pseudo_new"]


class SearchObjective(NamedTuple):
    """An objective: the protocol of the runs ("" for any), the direction of improvement, the
    corresponding metric of the final study, and a line of help.
    """

    protocol: ProtocolName | Literal[""]
    direction: Direction
    test_metric: str
    summary: str

    @property
    def maximized(self) -> bool:
        """Accuracies are maximized, costs minimized."""
        return self.direction == "maximize"


OBJECTIVES: Mapping[str, SearchObjective] = MappingProxyType(
    {
        "val": SearchObjective(
            "validation",
            "maximize",
            "base",
            "accuracy on few-shot validation images of base classes",
        ),
        "hm": SearchObjective(
            "pseudo_new", "maximize", "hm", "harmonic mean over pseudo-base and pseudo-new classes"
        ),
        "base": SearchObjective(
            "pseudo_new", "maximize", "base", "accuracy on pseudo-base classes"
        ),
        "new": SearchObjective("pseudo_new", "maximize", "new", "accuracy on pseudo-new classes"),
        "train_seconds": SearchObjective(
            "",
            "minimize",
            "train_seconds",
            "training time of a run in seconds; never exactly reproducible",
        ),
        "trainable_parameters": SearchObjective(
            "", "minimize", "trainable_parameters", "number of trainable parameters"
        ),
    }
)


@register("search", name=SEARCH)
@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Configurable):
    """A hyper-parameter search that never sees test images or new classes.

    ``space`` maps ``Class.parameter`` to a range (a dict with low and high, optionally log or step)
    or to a tuple of choices. Trials are scored by ``objectives``, means over ``datasets`` and
    ``seeds``; the first one decides the winner. The winner is evaluated on test images once, with
    ``final_seeds``. ``round_size`` trials are proposed at a time and told together, which makes a
    resumed search equal to an uninterrupted one; ``mode`` "asynchronous" keeps that many running
    instead and is not reproducible. ``seed`` is the sampler's. ``stage`` determines after which
    runs of a trial a pruner decides. A run is stopped after ``run_seconds``. ``storage`` is the URL
    of an Optuna storage that receives a copy of the study.
    """

    study: str
    space: dict[str, Any]
    datasets: tuple[str, ...]
    seeds: tuple[NonNegativeInt, ...]
    final_seeds: tuple[NonNegativeInt, ...]
    sampler: Annotated[Callable[..., Sampler], Part("sampler")]
    pruner: Annotated[Callable[..., Pruner], Part("pruner")]
    objectives: tuple[ObjectiveName, ...] = ("val",)
    trials: PositiveInt = 60
    round_size: PositiveInt = 4
    mode: Mode = "rounds"
    seed: NonNegativeInt = 0
    stage: Stage = "seed"
    run_seconds: PositiveFloat | None = None
    storage: str | None = None

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        """Without a pruner nothing is decided after a stage."""
        pruner: Any = lookup(parameters["pruner"].name).cls
        if pruner.prunes or parameters["stage"] == "seed":
            return {}
        return {"stage": "@NoPruning never ends a trial early; remove it, or use a pruner"}

    def __post_init__(self) -> None:
        checked_study_name(self.study, "search.study")
        lists: dict[str, tuple[Any, ...]] = {
            "datasets": self.datasets,
            "seeds": self.seeds,
            "final_seeds": self.final_seeds,
            "objectives": self.objectives,
        }
        for name, values in lists.items():
            if not values:
                raise ValueError(f"search.{name} is empty: give at least one")
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(
                    f"search.{name} must not repeat a value, but {twice[0]!r} appears twice"
                )
        if both := sorted(set(self.seeds) & set(self.final_seeds)):
            raise ValueError(
                f"search.final_seeds must be fresh, but {both[0]} is also among search.seeds: the "
                "winner was chosen with it"
            )
        if beyond := [seed for seed in (*self.seeds, *self.final_seeds) if seed > MAX_SEED]:
            raise ValueError(f"seeds of a search must be at most 2^64 - 1, got {beyond[0]}")
        self._check_objectives()
        if (runs := self.trials * len(self.datasets) * len(self.seeds)) > MAX_RUNS:
            raise ValueError(
                f"the search has {runs} runs, more than {MAX_RUNS}: use fewer trials, datasets "
                "or seeds"
            )

    def _check_objectives(self) -> None:
        protocols = {OBJECTIVES[name].protocol for name in self.objectives} - {""}
        if len(protocols) != 1:
            given = "only costs" if not protocols else "'val' and pseudo-new classes"
            raise ValueError(
                f"search.objectives must have accuracies of one kind of run, got {given} in "
                f"{self.objectives}; use 'val', or some of 'hm', 'base' and 'new'"
            )
        if not OBJECTIVES[self.objectives[0]].maximized:
            raise ValueError(
                "the first of search.objectives decides the winner and must be an accuracy, got "
                f"{self.objectives[0]!r}"
            )

    @property
    def protocol(self) -> str:
        """The protocol of the trials' runs."""
        return next(
            OBJECTIVES[name].protocol for name in self.objectives if OBJECTIVES[name].protocol
        )

    def run_bindings(self, dataset: str, seed: int) -> dict[str, Any]:
        """The bindings that set a run of a trial apart from the others, and its protocol."""
        return {
            f"{ROOT}.dataset": dataset,
            f"{ROOT}.seed": seed,
            f"{ROOT}.protocol": self.protocol,
            f"{ROOT}.targets": (),
        }

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The direction of improvement of each objective."""
        return tuple(OBJECTIVES[name].direction for name in self.objectives)


class SearchSetup(NamedTuple):
    """A search, its sampler and pruner, all their settings, and the configuration to be varied."""

    search: Search
    sampler: Sampler
    pruner: Pruner
    options: Mapping[str, Any]
    base: Config
    notes: tuple[str, ...] = ()


REPLACED_BY = {
    "dataset": "search.datasets",
    "seed": "search.seeds",
    "protocol": "search.objectives",
    "targets": "search.datasets",
}
"""Settings of a run that a search sets in each of its runs, and from where."""


def search_of(config: Config, *, trials: int | None = None, control: bool = False) -> SearchSetup:
    """The search that a configuration binds.

    ``trials`` replaces ``search.trials``. ``control`` turns it into the random search of equal
    budget, in a study of its own and with a seed of its own, so that the control does not share the
    random trials with which a sampler begins.

    Raises ValueError for a search that is missing, incomplete or breaks a rule.
    """
    if not any(key.startswith(f"{SEARCH}.") for key in config.bindings):
        raise ValueError(
            "the configuration does not define a search: bind search.study, search.space, ..."
        )
    if trials is not None:
        config = config.with_bindings({f"{SEARCH}.trials": trials}, "--trials")
    if control:
        config = config.without({f"{SEARCH}.pruner", *_of_kind(config, "sampler", "pruner")})
        plain = {f"{SEARCH}.sampler": Reference(RANDOM), f"{SEARCH}.pruner": Reference("NoPruning")}
        config = config.with_bindings(plain, "--control")
    without_parts = (
        config.with_bindings({SPACE: {}}, SEARCH) if SPACE in config.bindings else config
    )
    _check_own(without_parts)
    values: dict[str, Any] = without_parts.operative(SEARCH)
    values[SPACE] = config.bindings[SPACE]
    search = Search(**_own(values, SEARCH))
    if search.study.casefold().endswith((FINAL_SUFFIX, CONTROL_SUFFIX)):
        raise ValueError(
            f"search.study must not end in {FINAL_SUFFIX!r} or {CONTROL_SUFFIX!r}, which name the "
            f"other studies of a search, got {search.study!r}; choose another name"
        )
    if control:
        own_seed = derive_seed(search.seed, "control")
        study = f"{search.study}{CONTROL_SUFFIX}"
        search = replace(search, study=study, mode="rounds", seed=own_seed)
    sampler = build(without_parts, values["search.sampler"].name)
    pruner = build(without_parts, values["search.pruner"].name)
    _check_sampler(search, sampler, pruner)
    outside = {key for key in config.bindings if key.startswith(f"{SEARCH}.")}
    outside |= {*grid_settings(config, "a search")} | set(_of_kind(config, "sampler", "pruner"))
    _check_base(config)
    options = {key: value for key, value in values.items() if not key.startswith(f"{SEARCH}.")}
    base = config.without(outside)
    notes = replaced_settings(base, "search", REPLACED_BY)
    space = Space(search.space, base)
    return SearchSetup(search, sampler, pruner, options, space.base, (*notes, *space.notes))


def _own(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def _of_kind(config: Config, *kinds: str) -> list[str]:
    """Bindings of classes of these kinds."""
    return [key for key in config.bindings if lookup(key.rpartition(".")[0]).kind in kinds]


def _check_own(config: Config) -> None:
    """Every setting of the search, its sampler and its pruner must have an effect; a file may hold
    those of other samplers, too.
    """
    plugged = {config.bindings.get(f"{SEARCH}.{slot}") for slot in ("sampler", "pruner")}
    own = {key for key in config.bindings if key.startswith(f"{SEARCH}.")}
    own |= {
        key
        for key in _of_kind(config, "sampler", "pruner")
        if config.sources[key] == OVERRIDE or Reference(key.rpartition(".")[0]) in plugged
    }
    config.without(config.bindings.keys() - own).check_used((SEARCH,))


def space_of(setup: SearchSetup) -> Space:
    """The space of a search. Raises ValueError for one that it, or the sampler, cannot search."""
    space = Space(setup.search.space, setup.base)
    if setup.sampler.needs_ranges and not space.common_ranges:
        name = type(setup.sampler).__name__
        raise ValueError(
            f"@{name} adapts to ranges of numbers that every trial has and draws the rest at "
            f"random, but search.space has none ({', '.join(space.dimensions)}); use @TPE or @GP"
        )
    return space


def _check_sampler(search: Search, sampler: Sampler, pruner: Pruner) -> None:
    name = type(sampler).__name__
    if not sampler.multi_objective and len(search.objectives) > 1:
        raise ValueError(
            f"@{name} takes one objective, got search.objectives = {search.objectives}; use @TPE, "
            "@GP or @NSGA3"
        )
    if pruner.prunes and len(search.objectives) > 1:
        raise ValueError(
            f"a pruner supports one objective, got search.objectives = {search.objectives}; use "
            "@NoPruning"
        )


def _check_base(config: Config) -> None:
    selection = config.bindings.get(f"{ROOT}.selection", "last")
    if selection != "last":
        raise ValueError(
            f"a search scores the last epoch, got {ROOT}.selection = {selection!r}: validation "
            "images already score the trials; use 'last' and search over experiment.epochs"
        )


def definition_of(
    setup: SearchSetup, space: Space, fingerprint_of: FingerprintOf
) -> dict[str, Any]:
    """Everything that determines the trials, as plain data.

    Raises ValueError where a package that the sampler needs is not installed.
    """
    search = setup.search
    packages = sorted({*TRAINING_PACKAGES, *setup.sampler.packages})
    return {
        "study": search.study,
        "objectives": list(search.objectives),
        "directions": list(search.directions),
        "protocol": search.protocol,
        "datasets": list(search.datasets),
        "seeds": list(search.seeds),
        "final_seeds": list(search.final_seeds),
        "space": space.describe(),
        "sampler": f"@{type(setup.sampler).__name__}",
        "pruner": f"@{type(setup.pruner).__name__}",
        "options": {key: format_value(value) for key, value in sorted(setup.options.items())},
        "mode": search.mode,
        "round_size": search.round_size,
        "stage": search.stage if setup.pruner.prunes else "",
        "seed": search.seed,
        "run_seconds": search.run_seconds,
        "base": {k: format_value(v) for k, v in sorted(setup.base.bindings.items())},
        "inputs": _inputs(setup, fingerprint_of),
        "packages": {name: _version(name) for name in packages},
        **_plugins(setup, space),
    }


def _inputs(setup: SearchSetup, fingerprint_of: FingerprintOf) -> dict[str, dict[str, str]]:
    """The fingerprints of data and weights."""
    found: dict[str, dict[str, str]] = {}
    for dataset in setup.search.datasets:
        bindings = setup.search.run_bindings(dataset, setup.search.seeds[0])
        found[dataset] = dict(fingerprint_of(setup.base.with_bindings(bindings, "search")))
    return found


def _plugins(setup: SearchSetup, space: Space) -> dict[str, dict[str, str]]:
    """The hashes of the plug-ins that some trial uses, by the name of the file or module."""
    values = [
        *setup.base.bindings.values(),
        *(v for d in space.dimensions.values() for v in d.examples),
    ]
    classes = {key.partition(".")[0] for key in (*setup.base.bindings, *space.dimensions)}
    classes |= {reference.name for value in values for reference in references(value)}
    used = used_plugins(classes, setup.search.datasets)
    return {"plugins": {Path(plugin.name).name: plugin.sha256 for plugin in used}} if used else {}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"the package {package!r} is not installed: pip install {package}, or use another "
            "search.sampler"
        ) from None


def keep_definition(definition: Mapping[str, Any], search_dir: Path) -> None:
    """Write ``search.json``, or compare with the existing one.

    Raises ValueError, listing the differences, for another search of this name.
    """
    if not is_search(search_dir):
        write_definition(search_dir, definition)
        return
    stored = read_definition(search_dir, check=False)
    del stored["schema_version"]
    differences = list(_differences(stored, definition))
    if differences:
        shown = "; ".join(differences[:MAX_SHOWN])
        more = f"; and {len(differences) - MAX_SHOWN} more" if differences[MAX_SHOWN:] else ""
        raise ValueError(
            f"{search_dir} holds another search of this name: {shown}{more}; restore them, or "
            "use another search.study"
        )
    read_definition(search_dir)


def _differences(old: object, new: object, name: str = "") -> Iterator[str]:
    """``name was X, is Y`` for every leaf in which two definitions differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            below = f"{name}[{key!r}]" if name else str(key)
            yield from _differences(old.get(key, "absent"), new.get(key, "absent"), below)
    elif old != new:
        yield f"{name} was {_short(old)}, is {_short(new)}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
