"""The planner: from a configuration to the cells of a study, before anything runs.

A grid is variants x datasets x seeds, and x shots for a few-shot curve. Variants are named sets of
bindings, or come from factors: parameters with levels, of which the first is the default ("on") and
the last "off". Overrides change settings on some datasets. Every cell gets a complete configuration
and the identity of its run. Cells of equal identity run once.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

from core.config import Config, Configurable, NonNegativeInt, Reference, format_value, register
from core.store.manifest import MAX_SEED, Manifest, ManifestCell, ManifestVariant
from core.store.names import checked_study_name
from experiments.run.bundles import bundle_of
from experiments.run.protocols import FEW_SHOTS, UnscorableError
from experiments.study.overrides import SETTINGS, CellGroup, check_overrides, read_overrides
from experiments.study.replaced import check_not_replaced, replaced_settings

MAX_CELLS = 10_000
ROOT = "experiment"
OFF = re.compile(r"(No|Null)[A-Z]")

FingerprintOf = Callable[[Config], Mapping[str, str]]


@register("grid", name="grid")
@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Configurable):
    """Variants x datasets x seeds, and the variant they are compared with.

    ``variants`` maps a name to bindings ("Class.parameter": value). ``factors`` maps a parameter to
    its levels, which ``design`` combines: "full" takes all combinations; "leave_one_out" all first
    levels, and each other level alone; "add_one_in" all last levels, and each other level alone.
    ``references`` are further variants with which the report compares. ``shots`` are the points of
    a few-shot curve. ``overrides`` are rules such as ``{'datasets': ('imagenet',), 'set':
    {'experiment.epochs': 50}}``; a rule may name variants, datasets and shots; it overrides the
    bindings of variants and is overridden by later rules.
    """

    study: str
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    factors: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    design: Literal["full", "leave_one_out", "add_one_in"] = "full"
    references: tuple[str, ...] = ()
    shots: tuple[NonNegativeInt, ...] = ()
    overrides: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        checked_study_name(self.study, "grid.study")
        for name, values in (("datasets", self.datasets), ("seeds", self.seeds)):
            if not values:
                raise ValueError(f"grid.{name} is empty: give at least one")
        for name, numbers in (
            ("datasets", self.datasets),
            ("seeds", self.seeds),
            ("shots", self.shots),
        ):
            if twice := _repeated(numbers):
                raise ValueError(
                    f"grid.{name} must not repeat a value, but {twice[0]!r} appears twice"
                )
        if wrong := [seed for seed in self.seeds if not 0 <= seed <= MAX_SEED]:
            raise ValueError(f"grid.seeds must be from 0 to 2^64 - 1, got {wrong[0]}")
        if not self.variants and not self.factors:
            raise ValueError("the grid is empty: bind grid.variants or grid.factors")
        for key, levels in self.factors.items():
            if len(levels) < 2 or _repeated(map(format_value, levels)):
                raise ValueError(
                    f"grid.factors: {key} needs at least two different levels, "
                    f"got {format_value(levels)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A named set of bindings. ``factors`` maps each bound parameter to its level's text."""

    name: str
    bindings: Mapping[str, Any]
    from_factors: bool = False

    @property
    def factors(self) -> dict[str, str]:
        return {key: format_value(value) for key, value in sorted(self.bindings.items())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(ManifestCell):
    """An executable cell: its complete configuration and the levels of its variant.

    Cells of one ``bundle`` see the same batches, and gain from it (``experiments/run/bundles.py``).
    """

    config_text: str = field(repr=False)
    factors: Mapping[str, str]
    bundle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All cells of a grid, by dataset, shots, seed and variant; ``notes`` are for its author."""

    grid: Grid
    variants: tuple[Variant, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Cell, ...]:
        """The cells that are run: the first of each identity."""
        return tuple({cell.identity: cell for cell in reversed(self.cells)}.values())[::-1]

    @property
    def manifest(self) -> Manifest:
        """The part of the plan that the study folder keeps."""
        grid = self.grid
        return Manifest(
            study=grid.study,
            baseline=grid.baseline,
            references=grid.references,
            datasets=grid.datasets,
            seeds=grid.seeds,
            factors={key: tuple(map(format_value, v)) for key, v in grid.factors.items()},
            variants=tuple(ManifestVariant(name=v.name, factors=v.factors) for v in self.variants),
            cells=self.cells,
        )


def plan(config: Config, fingerprint_of: FingerprintOf, *, yes: bool = False) -> Plan:
    """Expand the grid of a configuration. ``yes`` allows more than ``MAX_CELLS`` cells.

    Raises ValueError where there is no grid, the grid is invalid, or a binding would have no
    effect.
    """
    grid = grid_of(config)
    points = grid.shots or (None,)
    count = _count_variants(grid) * len(grid.datasets) * len(points) * len(grid.seeds)
    if count > MAX_CELLS and not yes:
        raise ValueError(
            f"the grid has {count} cells, more than {MAX_CELLS}: pass --yes if this is intended"
        )
    variants = variants_of(grid)
    common = config.without(key for key in config.bindings if key.startswith("grid."))
    notes = replaced_settings(common, "grid", _replaced_by(grid))
    _check_axes(grid)
    configs = _configs(common, grid, variants)
    notes += _check_bindings(common, variants, configs)
    cells: list[Cell] = []
    unscorable: dict[CellGroup, str] = {}
    for dataset, shots in itertools.product(grid.datasets, points):
        columns: list[list[Cell]] = []
        for variant in variants:
            config = configs[group := CellGroup(variant.name, dataset, shots)]
            try:
                columns.append(
                    _cells_over_seeds(variant, config, group, grid.seeds, fingerprint_of)
                )
            except UnscorableError as error:
                unscorable[group] = str(error)
        rows = itertools.zip_longest(*columns)
        cells += [cell for row in rows for cell in row if cell]
    _refuse_unscorable(unscorable)
    return Plan(
        grid=grid, variants=variants, cells=tuple(_with_notes(cells, variants)), notes=tuple(notes)
    )


def _replaced_by(grid: Grid) -> dict[str, str]:
    """The settings of a run that the grid's lists set, and those lists."""
    replaced = {"dataset": "grid.datasets", "seed": "grid.seeds"}
    return replaced | ({"shots": "grid.shots"} if grid.shots else {})


def _check_axes(grid: Grid) -> None:
    """Raise ValueError where a variant, a factor or an override sets what a list sets."""
    named: list[tuple[str, Iterable[str]]] = [
        *((f"the variants ({name!r})", bindings) for name, bindings in grid.variants.items()),
        ("the factors", grid.factors),
        *(
            (f"grid.overrides[{n}]", rule.get(SETTINGS, ()))
            for n, rule in enumerate(grid.overrides)
        ),
    ]
    for source, keys in named:
        check_not_replaced(keys, source, _replaced_by(grid))


def _refuse_unscorable(problems: Mapping[CellGroup, str]) -> None:
    """Raise ValueError that names every cell whose classes could not be scored after training."""
    if problems:
        groups = [f"{group.variant!r} on {group.dataset}" for group in problems]
        others = f"; also {', '.join(groups[1:])}" if groups[1:] else ""
        raise ValueError(f"{groups[0]}: {next(iter(problems.values()))}{others}")


def _configs(common: Config, grid: Grid, variants: Sequence[Variant]) -> dict[CellGroup, Config]:
    """The configuration of every variant on every dataset (and number of shots), without seed."""
    from core.data.catalog import dataset_names  # the readers are heavy to import

    known = {
        "variants": [variant.name for variant in variants],
        "datasets": [*grid.datasets, *(name for name, _ in dataset_names())],
        "shots": {*grid.shots, *FEW_SHOTS},
    }
    overrides = read_overrides(grid.overrides, known)
    groups = itertools.product(variants, grid.datasets, grid.shots or (None,))
    configs: dict[CellGroup, Config] = {}
    for variant, dataset, shots in groups:
        group = CellGroup(variant.name, dataset, shots)
        own = {**variant.bindings, f"{ROOT}.dataset": dataset}
        own |= {} if shots is None else {f"{ROOT}.shots": shots}
        made = common.with_bindings(own, f"variant {variant.name!r}")
        for override in overrides:
            if override.applies(group):
                made = made.with_bindings(override.bindings, override.source)
        configs[group] = made
    _check_shots(grid, configs.values())
    check_overrides(overrides, configs, ROOT)
    return configs


def grid_of(config: Config) -> Grid:
    """The grid of a configuration. Raises ValueError where it is missing or incomplete."""
    bound: dict[str, Any] = {
        key.removeprefix("grid."): value
        for key, value in config.bindings.items()
        if key.startswith("grid.")
    }
    if not bound:
        searches = any(key.startswith("search.") for key in config.bindings)
        way_out = "it defines a search: 'search' runs it, and with --dry-run tells its runs"
        raise ValueError(
            "the configuration does not define a grid: "
            f"{way_out if searches else 'bind grid.study, grid.datasets, ...'}"
        )
    required = [
        f.name for f in fields(Grid) if f.default is MISSING and f.default_factory is MISSING
    ]
    if missing := [name for name in required if name not in bound]:
        raise ValueError(f"the grid is incomplete: bind {', '.join(f'grid.{m}' for m in missing)}")
    return Grid(**bound)


def variants_of(grid: Grid) -> tuple[Variant, ...]:
    """Named variants in their order, then those of the factors.

    Raises ValueError where two have the same name, or the baseline or a reference is not among
    them.
    """
    named = [Variant(name=name, bindings=bindings) for name, bindings in grid.variants.items()]
    combinations = [
        Variant(name=_name(levels, grid), bindings=levels, from_factors=True)
        for levels in _combinations(grid)
    ]
    variants = (*named, *combinations)
    names = [variant.name for variant in variants]
    if twice := _repeated(names):
        raise ValueError(f"variant names must differ, but {twice[0]!r} appears twice: rename one")
    for role, name in [("baseline", grid.baseline), *(("references", r) for r in grid.references)]:
        if name not in names:
            raise ValueError(f"grid.{role} must name a variant, got {name!r}; variants: {names}")
    return variants


def _count_variants(grid: Grid) -> int:
    levels = [len(levels) for levels in grid.factors.values()]
    if not levels:
        return len(grid.variants)
    combined = math.prod(levels) if grid.design == "full" else 1 + sum(n - 1 for n in levels)
    return len(grid.variants) + combined


def _combinations(grid: Grid) -> list[dict[str, Any]]:
    """The settings of all factors, combination by combination, the reference combination first."""
    if not grid.factors:
        return []
    if grid.design == "full":
        products = itertools.product(*grid.factors.values())
        return [dict(zip(grid.factors, levels, strict=True)) for levels in products]
    reference = _reference_levels(grid)
    single = [
        {**reference, key: level}
        for key, levels in grid.factors.items()
        for level in levels
        if format_value(level) != format_value(reference[key])
    ]
    return [reference, *single]


def _reference_levels(grid: Grid) -> dict[str, Any]:
    """The combination to which names are relative: all on, or all off for ``add_one_in``."""
    index = -1 if grid.design == "add_one_in" else 0
    return {key: levels[index] for key, levels in grid.factors.items()}


def _name(levels: Mapping[str, Any], grid: Grid) -> str:
    """A readable name: what differs from "full" (all on) or "none" (all off)."""
    reference = _reference_levels(grid)
    shorts = Counter(key.rpartition(".")[2] for key in grid.factors)
    words: list[str] = []
    for key, level in levels.items():
        if format_value(level) == format_value(reference[key]):
            continue
        short = key.rpartition(".")[2]
        short = short if shorts[short] == 1 else key
        if _is_off(level):
            words.append(f"-{short}")
        elif _is_off(reference[key]) and level == grid.factors[key][0]:
            words.append(f"+{short}")
        elif isinstance(level, Reference):
            words.append(f"{short}={level.name}")
        else:
            words.append(f"{key}={format_value(level)}")
    return " ".join(words) or ("none" if grid.design == "add_one_in" else "full")


def _is_off(level: object) -> bool:
    return isinstance(level, Reference) and OFF.match(level.name) is not None


def _check_shots(grid: Grid, configs: Iterable[Config]) -> None:
    """Raise ValueError where ``grid.shots`` is not the curve of the few-shot protocol."""
    key = f"{ROOT}.shots"
    if not grid.shots:
        return
    found = {config.bindings.get(f"{ROOT}.protocol", "base_to_new") for config in configs}
    if found != {"few_shot"}:
        raise ValueError(
            f"grid.shots is only for the protocol 'few_shot', got {ROOT}.protocol = "
            f"{sorted(map(str, found))[0]!r}; bind it, or bind {key} instead of grid.shots"
        )


def _check_bindings(
    common: Config, variants: Sequence[Variant], configs: Mapping[CellGroup, Config]
) -> list[str]:
    """Every binding must have an effect; returns notes on those that are dropped.

    The bindings of a named variant must have an effect in that variant, on some dataset. A common
    binding or a factor's level may have none in some variants, because they use another part, but
    not in all of them, unless it comes from an included file or a preset.
    """
    own: dict[str, list[Config]] = {variant.name: [] for variant in variants}
    for group, config in configs.items():
        own[group.variant].append(config)
    unused = {name: _unused(made) for name, made in own.items()}
    idle = set(common.bindings).union(*(variant.bindings for variant in variants))
    for variant in variants:
        first, never = own[variant.name][0], unused[variant.name]
        idle -= first.bindings.keys() - never
        if not variant.from_factors:
            checked = never & variant.bindings.keys()
            first.without(_unused([first]) - checked).check_used((ROOT,))
    dropped = idle.intersection(*(config.unplugged((ROOT,)) for config in configs.values()))
    for name, (first, *_) in reversed(own.items()):
        try:
            first.without(_unused([first]) - (idle - dropped)).check_used((ROOT,))
        except ValueError as error:
            raise ValueError(f"{error} (so in variant {name!r}; no other uses it)") from None
    return next(iter(configs.values())).unplugged_notes(dropped, (ROOT,))


def _unused(configs: Iterable[Config]) -> set[str]:
    """The bindings that have an effect in none of these configurations."""
    return set.intersection(*(set(config.unused((ROOT,))) for config in configs))


def _cells_over_seeds(
    variant: Variant,
    config: Config,
    group: CellGroup,
    seeds: tuple[int, ...],
    fingerprint_of: FingerprintOf,
) -> list[Cell]:
    """The cells of a group: one per seed, or a single one if the seed has no effect."""
    config = config.without(config.unused((ROOT,)))  # so that a cell can be trained on its own
    source = f"variant {variant.name!r}"
    seeded = [config.with_bindings({f"{ROOT}.seed": seed}, source) for seed in seeds]
    prints = [fingerprint_of(c) for c in seeded]
    identities = [c.identity(ROOT, known) for c, known in zip(seeded, prints, strict=True)]
    others = identities[1:]
    if not others:  # one seed: would another one be another run?
        probe = config.with_bindings({f"{ROOT}.seed": seeds[0] ^ 1}, source)
        others = [probe.identity(ROOT, prints[0])]
    seedless = {*others} == {identities[0]}
    return [
        Cell(
            variant=variant.name,
            dataset=group.dataset,
            seed=None if seedless else seed,
            identity=identity,
            config_text=seed_config.text(),
            factors=variant.factors,
            shots=group.shots,
            bundle=bundle_of(seed_config),
        )
        for seed, identity, seed_config in zip(
            seeds[: 1 if seedless else None], identities, seeded, strict=False
        )
    ]


def _with_notes(cells: Iterable[Cell], variants: Iterable[Variant]) -> list[Cell]:
    """The cells; one that repeats an earlier cell gets a note with the earlier variant."""
    from_factors = {variant.name for variant in variants if variant.from_factors}
    owners: dict[str, str] = {}
    noted: list[Cell] = []
    for cell in cells:
        owner = owners.setdefault(cell.identity, cell.variant)
        if owner != cell.variant:
            kind = "inert: same as" if cell.variant in from_factors else "duplicate of"
            cell = replace(cell, note=f"{kind} {owner!r}")
        noted.append(cell)
    return noted


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
