"""A copy of a search as an Optuna study, in any Optuna storage, for inspection.

The ledger is authoritative; the copy is derived from it and the definition, and can be recreated.
"""

import importlib.util
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from core.store.names import JOURNAL_NAME, STORAGE_LOG_NAME
from core.store.search import read_definition
from core.store.secrets import masked_url, without_secrets
from experiments.search.ledger import LedgerEvent, asked_trials, read_events, told_trials
from experiments.study.progress import Progress
from experiments.study.tracking import UiCommand, free_port

JOURNAL = "journal:"
EXTRAS: Mapping[str, str] = {"psycopg": "pip install 'refinelab[postgresql]'"}
STATE_ATTRIBUTE = "refinelab.state"
NUMBER_ATTRIBUTE = "refinelab.trial"


class Mirror(Protocol):
    """Keeps a copy of a search up to date."""

    def update(self) -> None:
        """Add the trials that the copy lacks; never raises."""
        ...


class NullMirror:
    """Copies nothing."""

    def update(self) -> None:
        return


class StorageMirror:
    """Keeps an Optuna storage up to date; after an error it warns once and stops updating."""

    def __init__(self, search_dir: Path, url: str, progress: Progress) -> None:
        self.search_dir = search_dir
        self.url = url
        self.progress = progress
        self.broken = False

    def update(self) -> None:
        """Add the trials that the storage lacks."""
        if self.broken:
            return
        try:
            copy_search(self.search_dir, self.url)
        except Exception as error:
            self.broken = True
            log = self.search_dir / STORAGE_LOG_NAME
            with suppress(OSError):
                log.write_text(without_secrets(traceback.format_exc(), self.url))
            reason = without_secrets(str(error), self.url).partition("\n")[0][:300]
            self.progress.note(
                f"the study's copy in {masked_url(self.url)} is out of date "
                f"({type(error).__name__}: {reason}); nothing is lost; rerun the command to update "
                f"it; see {log}"
            )


def check_storage(url: str) -> None:
    """Raises ValueError for an invalid URL and for a missing driver."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if url.startswith(JOURNAL):
        return
    shown = masked_url(url)
    try:
        make_url(url).get_dialect().import_dbapi()
    except ArgumentError:
        raise ValueError(
            f"search.storage must be the URL of a storage, got {shown!r}; use sqlite:///FILE, "
            "journal:FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    except ModuleNotFoundError as error:
        remedy = EXTRAS.get(str(error.name), f"pip install {error.name}")
        raise ValueError(
            f"search.storage = {shown!r} needs the package {error.name!r}: {remedy}"
        ) from None


def copy_search(search_dir: Path, url: str | None, *, only: Iterable[str] = ()) -> Any:
    """The study of a search folder in a storage (None: in memory), brought up to date.

    ``only`` names the states to copy, all by default.

    Raises ValueError where the storage holds another study of this name.
    """
    import optuna

    definition = read_definition(search_dir)
    optuna.logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=definition["study"],
            storage=_storage(url),
            directions=definition["directions"],
            load_if_exists=True,
        )
        if [d.name.lower() for d in study.directions] != definition["directions"]:
            raise ValueError(
                f"{masked_url(url or '')} holds a study {definition['study']!r} with other "
                "directions: use another storage"
            )
        there = {t.user_attrs.get(NUMBER_ATTRIBUTE) for t in study.get_trials(deepcopy=False)}
        for trial in _frozen(definition, read_events(search_dir), frozenset(only)):
            if trial.user_attrs[NUMBER_ATTRIBUTE] not in there:
                study.add_trial(trial)
    return study


def _storage(url: str | None) -> Any:
    import optuna

    if url is None or not url.startswith(JOURNAL):
        return url
    path = url.removeprefix(JOURNAL)
    backend = optuna.storages.journal.JournalFileBackend(path)
    return optuna.storages.JournalStorage(backend)


def _frozen(
    definition: Mapping[str, Any], events: Iterable[LedgerEvent], only: frozenset[str]
) -> Iterable[Any]:
    """The trials that have ended as finished Optuna trials, in order of their numbers."""
    from optuna.trial import TrialState, create_trial

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    events = list(events)
    asked, told = asked_trials(events), told_trials(events)
    for number, outcome in sorted(told.items()):
        if only and outcome.state not in only:
            continue
        params = asked[number].params
        shapes = {key: definition["space"][key] for key in params}
        yield create_trial(
            state=states.get(outcome.state, TrialState.FAIL),
            values=list(outcome.values) if outcome.state == "complete" else None,
            params={key: _value(shapes[key], text) for key, text in params.items()},
            distributions={key: _distribution(shape) for key, shape in shapes.items()},
            intermediate_values=dict(enumerate(outcome.parts)),
            user_attrs={
                NUMBER_ATTRIBUTE: number,
                STATE_ATTRIBUTE: outcome.state,
                "message": outcome.message,
            },
        )


def _value(shape: Mapping[str, Any], text: str) -> int | float | str:
    kinds: Mapping[str, Any] = {"int": int, "float": float, "choice": str}
    value: int | float | str = kinds[shape["kind"]](text)
    return value


def _distribution(shape: Mapping[str, Any]) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if shape["kind"] == "choice":
        return CategoricalDistribution(shape["choices"])
    ends = (shape["low"], shape["high"])
    if shape["kind"] == "int":
        return IntDistribution(*ends, log=shape["log"], step=shape["step"] or 1)
    return FloatDistribution(*ends, log=shape["log"], step=shape["step"])


def dashboard_command(search_dir: Path, *, port: int) -> UiCommand:
    """How to start optuna-dashboard on a fresh copy of a search, on this machine only.

    Raises ValueError where the package is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise ValueError(
            "the dashboard of a search needs optuna-dashboard: pip install 'refinelab[dashboard]'"
        )
    path = search_dir / JOURNAL_NAME
    path.unlink(missing_ok=True)
    copy_search(search_dir, f"{JOURNAL}{path}")
    port = free_port(port)
    start = "from optuna_dashboard._cli import main; main()"
    argv = (sys.executable, "-c", start, str(path), "--host", "127.0.0.1", "--port", str(port))
    return UiCommand(argv=argv, env=dict(os.environ), url=f"http://127.0.0.1:{port}")
