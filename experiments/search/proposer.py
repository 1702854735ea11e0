"""The study in memory: asks a sampler for trials and tells it what came of them.

Nothing of it is saved. A study is made again from the ledger by asking and telling in the same
order, and every proposal must come out as it stands there.
"""

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from core.config import Config, format_value
from experiments.search.ledger import Event, Told
from experiments.search.samplers import Pruner, Sampler
from experiments.search.settings import AIMS, Search
from experiments.search.space import Choice, Dimension, Space

DIVERGED_ACCURACY = 0.0


class Proposer:
    """Proposes the trials of one search, in order."""

    def __init__(self, search: Search, space: Space, sampler: Sampler, pruner: Pruner) -> None:
        import optuna

        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(logging.ERROR)
        self.search = search
        self.space = space
        self.sampler = sampler
        self.pruner = pruner
        self.study = optuna.create_study(
            directions=list(search.directions),
            sampler=sampler.build(search.seed, 0),
            pruner=pruner.build(),
        )
        self.trials: dict[int, Any] = {}
        self.heard: dict[int, int] = {}

    def ask(self) -> dict[str, str]:
        """The settings of the next trial, as text; its number is how many were asked before."""
        number = len(self.trials)
        self.study.sampler = self.sampler.build(self.search.seed, number)
        trial = self.study.ask()
        assert trial.number == number
        self.trials[number] = trial
        found = self.space.propose(partial(_suggested, trial))
        return {key: format_value(value) for key, value in found.items()}

    def config(self, params: Mapping[str, str]) -> Config:
        """The configuration of a trial."""
        return self.space.config(self.space.bindings(params))

    def hopeless(self, number: int, parts: Sequence[float]) -> bool:
        """Whether the pruner gives a trial up after these runs; depends on told trials alone."""
        self._report(number, parts)
        return bool(self.trials[number].should_prune()) if parts else False

    def tell(self, told: Told) -> None:
        """Take in how a trial ended."""
        from optuna.trial import TrialState

        trial = self.trials[told.trial]
        self._report(told.trial, told.parts)
        worst = self._worst() if told.state == "diverged" else None
        if told.state == "complete" or worst is not None:
            self.study.tell(trial, list(worst or told.values))
        elif told.state == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def replay(self, events: Iterable[Event]) -> None:
        """Take in what a ledger holds. Raises ValueError where a proposal comes out otherwise."""
        for event in events:
            if isinstance(event, Told):
                self.tell(event)
                continue
            again = self.ask()
            if again != dict(event.params):
                raise ValueError(
                    f"trial {event.trial} of {self.search.study!r} would now be {again}, the "
                    f"ledger has {dict(event.params)}: the sampler behaves differently here; use "
                    "the library versions and the machine type it began with, or another "
                    "search.study"
                )

    def _worst(self) -> tuple[float, ...] | None:
        """What a diverged trial counts for: no accuracy. A cost it has not: None."""
        accuracies = all(AIMS[name].maximized for name in self.search.objectives)
        return (DIVERGED_ACCURACY,) * len(self.search.objectives) if accuracies else None

    def _report(self, number: int, parts: Sequence[float]) -> None:
        """Tell the pruner what it has not heard yet of a trial."""
        heard = self.heard.setdefault(number, 0)
        for step, value in enumerate(self.pruner.reports(parts)[heard:], start=heard):
            self.trials[number].report(value, step)
            self.heard[number] = step + 1


def _suggested(trial: Any, dimension: Dimension) -> Any:
    """What the sampler says of one dimension; choices go by their text."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(dimension.key, dimension.texts)
    low, high, log = dimension.low, dimension.high, dimension.log
    if not dimension.whole:
        return trial.suggest_float(dimension.key, low, high, log=log, step=dimension.step)
    step = round(dimension.step or 1)
    return trial.suggest_int(dimension.key, round(low), round(high), log=log, step=step)
