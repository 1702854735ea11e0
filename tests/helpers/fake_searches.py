"""Searches whose runs train nothing, and what is left of them; see fake_search_runs.py."""

import json
from types import SimpleNamespace

import experiments.cli.registered  # noqa: F401  (fills the registry)
from experiments.configs import read_config_file
from experiments.search.scheduler import run_trials
from experiments.search.settings import search_of
from experiments.workers.local import InlineExecutor

ENTRY = "tests.helpers.fake_search_runs:search_run"
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")
CONFIG = """
include 'text_refiner.gin'
include 'search_base.gin'
search.study = 'fake'
search.space = {
    'TextRefiner.cache': (@EmaCache, @NoCache),
    'EmaCache.num_slots': {'low': 5, 'high': 100, 'log': True},
    'LinearAggregation.alpha': {'low': 0.0, 'high': 1.0},
    'SGD.lr': {'low': 0.001, 'high': 0.1, 'log': True},
}
search.datasets = ('alpha', 'beta')
search.seeds = (1, 2)
search.final_seeds = (11, 12)
search.trials = 12
search.round_size = 4
TPE.num_startup = 4
"""


def fingerprints(config):
    """Stands for those of real data."""
    return {"dataset": str(config.bindings["experiment.dataset"])}


def parsed(tmp_path, *overrides, text=CONFIG, **options):
    """The search of a configuration text."""
    path = tmp_path / "fake.gin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return search_of(read_config_file(path, overrides), **options)


def run_inline(search, folder, executor=None, **options):
    """Run a search in this process, or where ``executor`` says."""
    executor = executor or InlineExecutor(ENTRY)
    return run_trials(
        search, folder, executor, runtime=RUNTIME, fingerprint_of=fingerprints, **options
    )


def history(folder):
    """What a search says of its trials, to be compared as text."""
    return (folder / "trials.json").read_text()


def read_trials(folder):
    return json.loads(history(folder))["trials"]
