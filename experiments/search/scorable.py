"""Every choice of a search, checked against the class lists that its trials and its end score."""

from collections.abc import Collection, Iterator

from core.config import Config, format_value
from experiments.run.protocols import UnscorableError
from experiments.search.settings import SearchSetup
from experiments.search.space import Choice, Space
from experiments.study.planner import ROOT, FingerprintOf


def check_choices(
    setup: SearchSetup,
    space: Space,
    fingerprint_of: FingerprintOf,
    *,
    without: Collection[str] = (),
) -> None:
    """Raise UnscorableError for a choice whose trials, or the final runs, could not score.

    Nothing is run, and datasets ``without`` are left out. Choices are taken one at a time, in every
    combination of parts.
    """
    search = setup.search
    for config, chosen in _configs(setup.base, space):
        for dataset in (name for name in search.datasets if name not in without):
            trial = search.run_bindings(dataset, search.seeds[0])
            final = {f"{ROOT}.dataset": dataset, f"{ROOT}.seed": search.seeds[0]}
            for bindings in (trial, final):
                made = config.with_bindings(bindings, "search")
                try:
                    fingerprint_of(made.without(made.unused((ROOT,))))
                except UnscorableError as error:
                    where = f"search.space, {chosen}" if chosen else "the default"
                    raise UnscorableError(f"{where}, on {dataset}: {error}") from error


def choices_of(setup: SearchSetup, space: Space) -> Iterator[Config]:
    """Configurations of trials that hold every choice at least once, on the first dataset."""
    search = setup.search
    own = search.run_bindings(search.datasets[0], search.seeds[0])
    for config, _ in _configs(setup.base, space):
        yield config.with_bindings(own, "search")


def _configs(base: Config, space: Space) -> Iterator[tuple[Config, str]]:
    """Configurations that hold every choice at least once, and the choice as text."""
    yield base, ""
    for structure in space.structures:
        for key, dimension in space.dimensions.items():
            if isinstance(dimension, Choice):
                for value in dimension.examples:
                    made = structure.with_bindings({key: value}, "search.space")
                    yield made, f"{key} = {format_value(value)}"
