"""The course of a search: which runs come next, given those that have ended.

In rounds, ``round_size`` trials are asked for, written down, run, and told in number order when the
last of them has ended: the sampler hears the same in the same order, whoever finishes first and
whoever was killed in between. Asynchronously, a trial is told when it ends and replaced at once;
the ledger keeps the order, but a second search would see another.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.config import Config
from core.store.record import RunRecord, write_atomic
from experiments.search.ledger import Asked, Ledger, Told
from experiments.search.proposer import Proposer
from experiments.search.settings import Search
from experiments.search.trials import Trial, judge, trial_of
from experiments.study.planner import Cell, FingerprintOf
from experiments.study.status import read_versioned

TRIALS_NAME = "trials.json"
TRIALS_VERSION = 1


class Rounds:
    """Feeds a driver with the runs of a search; see ``experiments.study.driver.Feed``.

    Raises ValueError for a ledger whose trials would come out otherwise now.
    """

    def __init__(
        self,
        proposer: Proposer,
        ledger: Ledger,
        base: Config,
        fingerprint_of: FingerprintOf,
        *,
        on_told: Callable[["Rounds"], None],
    ) -> None:
        self.proposer = proposer
        self.search: Search = proposer.search
        self.ledger = ledger
        self.fingerprint_of = fingerprint_of
        self.on_told = on_told
        proposer.replay(ledger.events)
        self.default = self._trial(None, {}, base)
        self.asked = {e.trial: e for e in ledger.events if isinstance(e, Asked)}
        self.told = {e.trial: e for e in ledger.events if isinstance(e, Told)}
        self.open = [self._reopened(e) for n, e in self.asked.items() if n not in self.told]

    @property
    def complete(self) -> bool:
        """Whether every trial was told and the default has run."""
        return len(self.told) >= self.search.trials and self.default.idle

    @property
    def total(self) -> int:
        """The number of runs at most: all trials and the default."""
        return (self.search.trials + 1) * len(self.default.cells)

    @property
    def done(self) -> int:
        """The number of those runs that ended or that their trial went without."""
        waiting = sum(len(trial.records) for trial in (self.default, *self.open))
        return len(self.told) * len(self.default.cells) + waiting

    def begin(self) -> list[Cell]:
        """The first runs: those of the default, and of trials that are under way or begin."""
        cells = [*self.default.cells, *(c for trial in self.open for c in trial.stages[0])]
        return cells + self._ask()

    def ended(self, cell: Cell, record: RunRecord) -> Sequence[Cell]:
        """The runs that can begin now that this one has ended."""
        if self.default.waits_for(cell.identity):
            self.default.records[cell.identity] = record
        following: list[Cell] = []
        for trial in self.open:
            if trial.told is None and trial.waits_for(cell.identity):
                trial.records[cell.identity] = record
                following += self._go_on(trial)
        self._tell()
        return following + self._ask()

    def _go_on(self, trial: Trial) -> list[Cell]:
        """What a trial does when the stages begun are through: end, be given up, or begin more."""
        following: list[Cell] = []
        while trial.idle and trial.told is None:
            assert trial.number is not None
            trouble = any(record.status != "finished" for record in trial.records.values())
            if trouble or trial.begun == len(trial.stages):
                trial.told = judge(trial, self.search, pruned=False)
            elif self.proposer.hopeless(trial.number, trial.parts(self.search)):
                trial.told = judge(trial, self.search, pruned=True)
            else:
                trial.begun += 1
                following += trial.stages[trial.begun - 1]
        return following

    def _tell(self) -> None:
        """Tell what has ended: a whole round in number order, or, asynchronously, at once."""
        ended = [trial for trial in self.open if trial.told is not None]
        if not ended or (self.search.mode == "rounds" and len(ended) < len(self.open)):
            return
        outcomes = [trial.told for trial in ended if trial.told is not None]
        self.ledger.append(outcomes)
        for told in outcomes:
            self.proposer.tell(told)
            self.told[told.trial] = told
        self.open = [trial for trial in self.open if trial.told is None]
        self.on_told(self)

    def _ask(self) -> list[Cell]:
        """Ask for the trials that may begin, write them down, and give their first runs."""
        made: list[Trial] = []
        while len(self.asked) < self.search.trials and self._room():
            number, params = len(self.asked), self.proposer.ask()
            trial = self._trial(number, params, self.proposer.config(params))
            runs = tuple(cell.identity for cell in trial.cells)
            self.asked[number] = Asked(trial=number, params=params, runs=runs)
            self.open.append(trial)
            made.append(trial)
        self.ledger.append(self.asked[trial.number] for trial in made if trial.number is not None)
        return [cell for trial in made for cell in trial.stages[0]]

    def _room(self) -> bool:
        """Whether one more trial may begin: in rounds, when all earlier rounds were told."""
        size = self.search.round_size
        if self.search.mode == "asynchronous":
            return len(self.open) < size
        return len(self.told) >= len(self.asked) // size * size

    def _trial(self, number: int | None, params: dict[str, str], config: Config) -> Trial:
        staged = self.proposer.pruner.prunes and number is not None
        return trial_of(number, params, config, self.search, self.fingerprint_of, staged=staged)

    def _reopened(self, asked: Asked) -> Trial:
        """A trial that was asked and never told. Raises ValueError where its runs have changed."""
        params = dict(asked.params)
        trial = self._trial(asked.trial, params, self.proposer.config(params))
        if asked.runs != tuple(cell.identity for cell in trial.cells):
            raise ValueError(
                f"the runs of trial {asked.trial} of {self.search.study!r} are others than when it "
                "was asked: the code or the data changed; use another search.study"
            )
        return trial


def write_trials(rounds: Rounds, search_dir: Path) -> None:
    """Write ``trials.json``, the ledger as a table for readers."""
    rows: list[dict[str, Any]] = [
        {
            "number": number,
            "params": dict(asked.params),
            "state": told.state if (told := rounds.told.get(number)) else "running",
            "values": list(told.values) if told else [],
            "message": told.message if told else "",
            "num_runs": len(told.parts) if told else 0,
        }
        for number, asked in sorted(rounds.asked.items())
    ]
    table = {"schema_version": TRIALS_VERSION, "planned": rounds.search.trials, "trials": rows}
    write_atomic(search_dir / TRIALS_NAME, json.dumps(table, indent=1, allow_nan=False) + "\n")


def planned_trials(search_dir: Path) -> int | None:
    """How many trials the last call of a search asked for; None before a call has said so."""
    path = search_dir / TRIALS_NAME
    if not path.exists():
        return None
    remedy = "the search command writes it again"
    table = read_versioned(path, TRIALS_VERSION, what="search", remedy=remedy)
    planned = table.get("planned")
    return planned if isinstance(planned, int) else None
