"""Every trial has a sampler seed of its own, and the random control shares none with the search."""

import optuna
import pytest

from experiments.search.samplers import CMAES, GP, NSGA3, QMC, TPE, Random
from tests.helpers.fake_searches import parsed, read_trials, run_inline

SAMPLERS = (TPE, GP, CMAES, QMC, Random, NSGA3)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def first_proposal(sampler, seed, number):
    """What the sampler of one trial says in an empty study."""
    study = optuna.create_study(sampler=sampler.build(seed, number))
    trial = study.ask()
    return trial.suggest_float("x", 0.0, 1.0), trial.suggest_int("n", 0, 10**6)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda kind: kind.__name__)
def test_seeds_follow_from_the_study_and_the_number_of_the_trial(kind):
    places = [(seed, number) for seed in (0, 1, 2**40) for number in (0, 1, 2, 11)]
    found = [first_proposal(kind(), *place) for place in places]
    assert len(set(found)) == len({x for x, _ in found}) == len(places)
    assert found == [first_proposal(kind(), *place) for place in places]


def test_every_trial_of_a_search_asks_a_sampler_of_its_own(tmp_path):
    asked = []

    class Spy(Random):
        def build(self, seed, number):
            asked.append((seed, number))
            return super().build(seed, number)

    search = parsed(tmp_path, "search.seed=7", "search.sampler=@Random", trials=6)
    run_inline(search._replace(sampler=Spy()), tmp_path / "s")
    assert asked == [(7, 0), *((7, number) for number in range(6))]
    lrs = [trial["params"]["SGD.lr"] for trial in read_trials(tmp_path / "s")]
    assert len(set(lrs)) == 6


def test_the_control_shares_no_trial_with_a_sampler_that_begins_at_random(tmp_path):
    """TPE draws its first trials from the random sampler of the same seed."""
    params = {}
    for name, control in (("search", False), ("control", True)):
        search = parsed(tmp_path, "TPE.num_startup=12", control=control)
        run_inline(search, tmp_path / name)
        params[name] = [trial["params"]["SGD.lr"] for trial in read_trials(tmp_path / name)]
    assert not set(params["search"]) & set(params["control"])
    seeds = {parsed(tmp_path, f"search.seed={s}", control=True).search.seed for s in (0, 1, 2)}
    assert len(seeds) == 3 and not seeds & {0, 1, 2}
