"""What a search makes of its trials: outcomes, refusals, the mirror, the winner, the judgment."""

import ast
import io
import json
import math
import os
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import experiments.search
from core.store.names import DEFINITION_NAME, IMPORTANCES_NAME, LOCK_NAME, RESULT_NAME
from core.store.record import read_record
from core.store.search import CONTROL, TUNED, read_definition, write_importances, write_result
from experiments.configs import read_config_file
from experiments.search.importances import importances_of
from experiments.search.ledger import Asked, Ledger, Told
from experiments.search.mirror import copy_search, dashboard_command
from experiments.search.result import (
    final_plan,
    pareto_front,
    result_of,
    winner_of,
    winning_settings,
    write_best,
)
from experiments.search.samplers import MedianPruning, WilcoxonPruning
from experiments.search.trials import judge, runs_of_trial
from experiments.study.driver import run_study
from experiments.study.lock import Holder, StudyLock
from experiments.study.progress import NoProgress, PlainProgress
from experiments.study.status import study_status
from experiments.workers.local import InlineExecutor, LocalExecutor
from tests.helpers.fake_runs import executions
from tests.helpers.fake_searches import (
    CONFIG,
    ENTRY,
    RUNTIME,
    fingerprints,
    history,
    parsed,
    read_trials,
    run_inline,
)

ONE_ROUND = "search.trials=4"


def trouble(kind):
    """An override that makes every run behave so."""
    return f"experiment.shots_file={kind!r}"


def test_a_trial_is_the_mean_of_ordinary_runs(tmp_path):
    course = run_inline(parsed(tmp_path), tmp_path / "s")
    trials = read_trials(tmp_path / "s")
    assert course.complete and course.study.exit_code == 0
    assert [t["number"] for t in trials] == list(range(12))
    assert {t["state"] for t in trials} == {"complete"} and {t["num_runs"] for t in trials} == {4}
    told = course.scheduler.told[3]
    assert told.values[0] == pytest.approx(sum(told.parts) / 4) and len(set(told.parts)) > 1
    asked = course.scheduler.asked[3]
    for identity in asked.runs:
        text = (tmp_path / "s" / identity / "config.gin").read_text()
        assert "experiment.protocol = 'validation'\n" in text
        assert f"SGD.lr = {asked.params['SGD.lr']}\n" in text
    counts = executions(tmp_path / "s")
    assert set(counts.values()) == {1} and len(counts) == 4 * 13
    again = run_inline(parsed(tmp_path), tmp_path / "s")
    assert again.complete and executions(tmp_path / "s") == counts


@pytest.mark.parametrize(
    ("kind", "state", "message"),
    [
        ("crash", "failed", "alpha, seed 1: RuntimeError: this run always fails (3 attempts)"),
        ("diverge", "diverged", "the loss is nan in epoch 1"),
    ],
)
def test_a_run_that_failed_or_diverged_decides_its_trial(tmp_path, kind, state, message):
    course = run_inline(parsed(tmp_path, ONE_ROUND, trouble(kind)), tmp_path / "s")
    assert course.complete and course.study.exit_code == 1
    trials = read_trials(tmp_path / "s")
    assert {t["state"] for t in trials} == {state} and trials[0]["values"] == []
    assert message in trials[0]["message"]
    told = course.scheduler.study.study.trials[0]
    assert told.state.name == ("FAIL" if state == "failed" else "COMPLETE")
    assert told.values == (None if state == "failed" else [0.0])
    with pytest.raises(ValueError, match=f"no trial of 'fake' is complete .*trial 0 {state}"):
        winner_of(course)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_value_that_is_no_number_fails_its_trial(tmp_path, value):
    """It passes neither a record nor a worker's pipe; the judge would catch it all the same."""
    aims = "search.objectives=('val', 'train_seconds')"
    search = parsed(tmp_path, ONE_ROUND, aims, trouble("no number"))
    assert run_inline(search, tmp_path / "s").complete
    trials = read_trials(tmp_path / "s")
    assert {t["state"] for t in trials} == {"failed"} and "ValueError" in trials[0]["message"]
    course = run_inline(parsed(tmp_path, ONE_ROUND, aims), tmp_path / "good")
    asked = course.scheduler.asked[0]
    trial = runs_of_trial(
        0, asked.params, course.scheduler.study.config(asked.params), search.search, fingerprints,
        staged=False,
    )  # fmt: skip
    for cell in trial.cells:
        record = read_record(tmp_path / "good" / cell.identity)
        with pytest.raises(ValueError, match="cost train_seconds must be a number of at least 0"):
            replace(record.cost, train_seconds=value)
        cost = copy(record.cost)
        object.__setattr__(cost, "train_seconds", value)
        trial.records[cell.identity] = replace(record, cost=cost)
    told = judge(trial, search.search, pruned=False)
    assert told.state == "failed" and "not finite" in told.message and told.values == ()
    assert f"train_seconds = {value}" in told.message


def test_a_run_that_takes_too_long_fails_its_trial(tmp_path):
    search = parsed(tmp_path, "search.trials=1", "search.datasets=('alpha',)", trouble("hang"))
    executor = LocalExecutor(4, entry=ENTRY, log_dir=tmp_path / "logs", job_seconds=0.2)
    run_inline(search, tmp_path / "s", executor)
    (trial,) = read_trials(tmp_path / "s")
    assert trial["state"] == "failed" and "stopped after 0.2 seconds" in trial["message"]


def test_one_bad_run_is_not_averaged_away(tmp_path):
    search = parsed(tmp_path, ONE_ROUND)
    entry = "tests.helpers.fake_search_runs:search_run_that_fails_on_beta"
    course = run_inline(search, tmp_path / "s", InlineExecutor(entry))
    assert {t.state for t in course.scheduler.told.values()} == {"failed"}
    assert {len(t.parts) for t in course.scheduler.told.values()} == {2}


CHANGES = [
    (["SGD.lr", 0.1, 0.2], r"space\['SGD.lr'\]\['high'\] was 0.1, is 0.2"),
    (["search.objectives=('hm',)"], r"objectives was \[\"val\"\], is \[\"hm\"\]"),
    (["search.objectives=('val', 'trainable_parameters')"], "directions was"),
    (["search.sampler=@GP"], "sampler was @TPE, is @GP"),
    (["TPE.group=False"], r"options\['TPE.group'\] was True, is False"),
    (["search.seeds=(1, 3)"], "seeds was"),
    (["search.round_size=5"], "round_size was 4, is 5"),
    (["search.mode='asynchronous'"], "mode was rounds, is asynchronous"),
    (["experiment.epochs=7"], r"base\['experiment.epochs'\] was absent, is 7"),
]


@pytest.mark.parametrize(("overrides", "message"), CHANGES, ids=[m for _, m in CHANGES])
def test_another_search_of_the_same_name_is_refused_with_a_diff(tmp_path, overrides, message):
    run_inline(parsed(tmp_path, ONE_ROUND), tmp_path / "s")
    before = history(tmp_path / "s")
    if overrides[0] == "SGD.lr":
        changed = parsed(tmp_path, text=CONFIG.replace("'high': 0.1,", "'high': 0.2,"))
    else:
        changed = parsed(tmp_path, *overrides)
    with pytest.raises(ValueError, match=message) as caught:
        run_inline(changed, tmp_path / "s")
    assert "holds another search of this name" in str(caught.value)
    assert "use another search.study" in str(caught.value) and "\n" not in str(caught.value)
    assert history(tmp_path / "s") == before


def test_other_library_versions_and_other_data_are_refused(tmp_path):
    run_inline(parsed(tmp_path, ONE_ROUND), tmp_path / "s")
    path = tmp_path / "s" / DEFINITION_NAME
    text = path.read_text()
    path.write_text(text.replace(f'"optuna": "{optuna.__version__}"', '"optuna": "4.8.0"'))
    with pytest.raises(ValueError, match=r"packages\['optuna'\] was 4.8.0, is 5"):
        run_inline(parsed(tmp_path, ONE_ROUND), tmp_path / "s")
    path.write_text(text.replace('"dataset": "beta"', '"dataset": "gamma"'))
    with pytest.raises(ValueError, match=r"inputs\['beta'\]\['dataset'\] was gamma, is beta"):
        run_inline(parsed(tmp_path, ONE_ROUND), tmp_path / "s")
    for broken, message in (("{", "is damaged"), ('{"schema_version": 9}', "schema version 9")):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message):
            read_definition(tmp_path / "s")
    with pytest.raises(ValueError, match="is not a search folder"):
        read_definition(tmp_path)


def test_a_search_cannot_be_cut_short_or_go_on_after_its_judgment(tmp_path):
    run_inline(parsed(tmp_path, trials=8), tmp_path / "s")
    with pytest.raises(ValueError, match=r"trials is 4, but 8 trials .* ask for 8 or more"):
        run_inline(parsed(tmp_path, trials=4), tmp_path / "s")
    (tmp_path / "s" / RESULT_NAME).write_text("{}")
    assert run_inline(parsed(tmp_path, trials=8), tmp_path / "s").complete
    with pytest.raises(ValueError, match="evaluated on test images after 8 trials"):
        run_inline(parsed(tmp_path, trials=12), tmp_path / "s")


def test_a_second_driver_is_refused_and_a_stale_lock_is_not(tmp_path):
    folder = tmp_path / "s"
    with StudyLock(folder):
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on .*stop it$"):
            run_inline(parsed(tmp_path, ONE_ROUND), folder)
        assert [path.name for path in folder.iterdir()] == [LOCK_NAME]
    me = Holder.current()
    gone = {"host": me.host, "pid": 2**22 + 1, "process_start": "5", "boot": me.boot}
    (folder / LOCK_NAME).write_text(json.dumps(gone))
    assert run_inline(parsed(tmp_path, ONE_ROUND), folder).complete


def test_a_torn_ledger_is_repaired_and_a_damaged_one_is_refused(tmp_path):
    run_inline(parsed(tmp_path), tmp_path / "s")
    path = tmp_path / "s" / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    lines = io.StringIO()
    course = run_inline(parsed(tmp_path), tmp_path / "s", progress=PlainProgress(lines))
    assert course.complete and path.read_bytes() == whole
    assert "a torn end of 1 line(s) was cut off" in lines.getvalue()
    assert path.with_name("ledger.jsonl.damaged").read_bytes() == whole[:-9]
    path.write_bytes(whole.replace(b'"trial":1', b'"trial":7', 1))
    with pytest.raises(ValueError, match=r"ledger.jsonl:1: the line is damaged"):
        Ledger(tmp_path / "s")


def test_a_pruner_spares_runs_and_decides_by_told_trials_alone(tmp_path):
    overrides = ["search.pruner=@MedianPruning", "MedianPruning.num_startup=2", "search.stage=run"]
    overrides.append("MedianPruning.min_runs=1")
    course = run_inline(parsed(tmp_path, *overrides), tmp_path / "s")
    trials = read_trials(tmp_path / "s")
    pruned = [t for t in trials if t["state"] == "pruned"]
    assert pruned and all(t["num_runs"] < 4 and t["number"] >= 4 for t in pruned)
    assert len(executions(tmp_path / "s")) == 4 + sum(t["num_runs"] for t in trials)
    assert winner_of(course).trial not in {t["number"] for t in pruned}
    study = course.scheduler.study.study
    assert study.trials[pruned[0]["number"]].state.name == "PRUNED"


def test_pruners_are_told_what_they_compare():
    assert MedianPruning().intermediate_values([0.5, 0.7, 0.6]) == pytest.approx([0.5, 0.6, 0.6])
    assert WilcoxonPruning().intermediate_values([0.5, 0.7]) == [0.5, 0.7]


def test_stages_follow_seeds_or_datasets(tmp_path):
    pruner = "search.pruner=@WilcoxonPruning"
    for stage, first in (
        ("seed", {("alpha", 1), ("beta", 1)}),
        ("dataset", {("alpha", 1), ("alpha", 2)}),
    ):
        search = parsed(tmp_path, ONE_ROUND, pruner, f"search.stage={stage}")
        course = run_inline(search, tmp_path / stage)
        asked = course.scheduler.asked[0]
        texts = [(tmp_path / stage / run / "config.gin").read_text() for run in asked.runs[:2]]
        found = {
            (name, seed)
            for name in ("alpha", "beta")
            for seed in (1, 2)
            for text in texts
            if f"dataset = '{name}'" in text and f"experiment.seed = {seed}\n" in text
        }
        assert found == first


FEW = """include 'text_refiner.gin'
include 'search_base.gin'
search.study = 'few'
search.space = {'TextRefiner.cache': (@EmaCache, @NoCache)}
search.datasets = ('alpha',)
search.seeds = (1, 2)
search.final_seeds = (3,)
search.trials = 6
"""


def test_equal_trials_share_their_runs(tmp_path):
    course = run_inline(parsed(tmp_path, text=FEW), tmp_path / "s")
    assert course.complete and len(executions(tmp_path / "s")) == 2 * 2
    values = {t["params"]["TextRefiner.cache"]: t["values"] for t in read_trials(tmp_path / "s")}
    assert len(values) == 2


class Counts(NoProgress):
    """Keeps what it is told of numbers: (total, already there), then what was done after that."""

    def __init__(self):
        self.begun, self.done = (), 0

    def begin(self, *, total, done):
        self.begun, self.done = (total, done), done

    def finished(self, key, label, status):
        self.done += 1

    def catch_up(self, done):
        self.done = max(self.done, done)


def test_what_is_shown_counts_the_trials_of_all_calls(tmp_path):
    """Runs of earlier calls, equal runs and those that a pruner spared are all behind us."""
    pruner = ["search.pruner=@MedianPruning", "MedianPruning.num_startup=2", "search.stage=run"]
    for name, options in (("few", {"text": FEW}), ("pruned", {})):
        overrides = [*pruner, "MedianPruning.min_runs=1"] if name == "pruned" else []
        runs = 2 if name == "few" else 4
        total = (parsed(tmp_path, *overrides, **options).search.trials + 1) * runs
        first, more, again = Counts(), Counts(), Counts()
        for counts, trials in ((first, 5), (more, None), (again, None)):
            search = parsed(tmp_path, *overrides, trials=trials, **options)
            assert run_inline(search, tmp_path / name, progress=counts).complete
        assert first.begun[0] == first.done == 6 * runs
        there = total if name == "few" else 6 * runs
        assert more.begun == (total, there) and more.done == total
        assert again.begun == (total, total) and again.done == total
    assert len(executions(tmp_path / "few")) == 2 * 2
    assert len(executions(tmp_path / "pruned")) < 13 * 4


@pytest.mark.parametrize("scheme", ["sqlite:///{}/o.db", "journal:{}/o.journal"])
def test_any_storage_receives_a_copy(tmp_path, scheme):
    url = scheme.format(tmp_path)
    overrides = [f"search.storage={url!r}", "search.objectives=('hm', 'trainable_parameters')"]
    run_inline(parsed(tmp_path, *overrides, trials=8), tmp_path / "s")
    run_inline(parsed(tmp_path, *overrides, trials=12), tmp_path / "s")
    study = copy_search(tmp_path / "s", url)
    assert study.study_name == "fake" and [d.name for d in study.directions] == [
        "MAXIMIZE",
        "MINIMIZE",
    ]
    trials = read_trials(tmp_path / "s")
    assert [t.values for t in study.trials] == [t["values"] for t in trials]
    assert [t.params["SGD.lr"] for t in study.trials] == [
        float(t["params"]["SGD.lr"]) for t in trials
    ]
    assert {type(t.params.get("EmaCache.num_slots", 1)) for t in study.trials} == {int}


def test_a_broken_storage_costs_a_note_and_no_trial(tmp_path):
    (tmp_path / "o.journal").write_text('{"torn')
    lines = io.StringIO()
    search = parsed(tmp_path, f"search.storage='journal:{tmp_path}/o.journal'")
    course = run_inline(search, tmp_path / "s", progress=PlainProgress(lines))
    assert course.complete
    assert lines.getvalue().count("the study's copy in") == 1
    assert "nothing is lost" in lines.getvalue()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://x", "a storage, got 'foo://x'; use sqlite:///FILE, journal:FILE or postgresql:"),
        ("nonsense", "must be the URL of a storage"),
        ("postgresql://me:secret@h/d", r"'postgresql://me:\*\*\*@h/d' needs the package 'psycopg': "
         r"pip install 'refinelab\[postgresql\]'"),
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_is_refused_before_anything(tmp_path, monkeypatch, url, message):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=message):
        run_inline(parsed(tmp_path, f"search.storage={url!r}"), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_note_about_a_storage_hides_the_password(tmp_path):
    lines = io.StringIO()
    url = "sqlite:////no/such/folder/me:secret@x.db"
    search = parsed(tmp_path, ONE_ROUND, f"search.storage={url!r}")
    assert run_inline(search, tmp_path / "s", progress=PlainProgress(lines)).complete
    assert "me:***@x.db is out of date (OperationalError" in lines.getvalue()
    assert (
        "secret" not in lines.getvalue()
        and "Traceback" in (tmp_path / "s" / "storage.log").read_text()
    )


def test_the_pages_of_a_search_are_for_this_machine(tmp_path):
    run_inline(parsed(tmp_path, ONE_ROUND), tmp_path / "s")
    command = dashboard_command(tmp_path / "s", port=8080)
    assert command.argv[-4:-1] == ("--host", "127.0.0.1", "--port")
    assert (
        command.url.startswith("http://127.0.0.1:80") and (tmp_path / "s/optuna.journal").exists()
    )


def test_importances_come_with_their_caveat(tmp_path):
    run_inline(parsed(tmp_path, trials=8), tmp_path / "s")
    write_importances(tmp_path / "s", importances_of(tmp_path / "s"))
    found = json.loads((tmp_path / "s" / IMPORTANCES_NAME).read_text())
    assert "8 complete trials are too few" in found["reason"] and found["objectives"] == {}
    run_inline(parsed(tmp_path, trials=16), tmp_path / "s")
    write_importances(tmp_path / "s", importances_of(tmp_path / "s"))
    found = json.loads((tmp_path / "s" / IMPORTANCES_NAME).read_text())
    shares = found["objectives"]["val"]
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=shares.get) == "SGD.lr"
    assert "EmaCache.num_slots" not in shares and "indicates where to look" in found["caveat"]


def test_the_front_holds_what_nothing_beats(tmp_path):
    search = parsed(tmp_path, "search.objectives=('hm', 'trainable_parameters')").search
    points = [(0.7, 5.0), (0.8, 9.0), (0.7, 6.0), (0.8, 9.0), (0.6, 1.0)]
    told = [Told(trial=n, state="complete", values=p) for n, p in enumerate(points)]
    told.append(Told(trial=5, state="pruned", values=(0.9, 1.0)))
    assert pareto_front(told, search) == [0, 1, 3, 4]


def judged(tmp_path, search, control=None):
    """The final study of a search, and its result."""
    folder, final = tmp_path / "fake", tmp_path / "fake_final"
    courses = [run_inline(search, folder)]
    courses += [run_inline(control, tmp_path / "fake_random")] if control else []
    made = final_plan(search, winning_settings(courses), fingerprints)
    outcome = run_study(made, final, InlineExecutor(ENTRY), runtime=RUNTIME)
    assert outcome.exit_code == 0
    course, other = courses[0], courses[1] if control else None
    result = result_of(course, other, made, final)
    write_result(folder, result)
    return course, result


def test_the_winner_is_judged_once_with_fresh_seeds_beside_the_default(tmp_path):
    course, result = judged(tmp_path, parsed(tmp_path), parsed(tmp_path, control=True))
    best = max(t["values"][0] for t in read_trials(tmp_path / "fake"))
    tuned, default, random = (result["variants"][n] for n in (TUNED, "default", CONTROL))
    assert tuned["search"] == {"val": best} and tuned["trial"] == winner_of(course).trial
    assert set(default["test"]) >= {"base", "new", "hm", "runs"} and default["test"]["runs"] == 4
    assert default["search"]["val"] < best and random["trial"] >= 0
    assert result["test_metrics"] == ["base"] and result["search_runs"] == 4 * 13
    assert result["final_runs"] == 12 and result["control_runs"] == 4 * 13
    _, again = judged(tmp_path, parsed(tmp_path), parsed(tmp_path, control=True))
    assert again == result
    status = study_status(tmp_path / "fake_final")
    assert status["finished"] == status["runs"] == 12
    manifest = json.loads((tmp_path / "fake_final" / "study.json").read_text())
    assert manifest["seeds"] == [11, 12] and manifest["baseline"] == "default"
    texts = [p.read_text() for p in (tmp_path / "fake_final").glob("*/config.gin")]
    assert texts and not any("validation" in text for text in texts)


@pytest.mark.parametrize(
    ("protocol", "objectives", "metrics"),
    [
        ("few_shot", "('val',)", ["accuracy"]),
        ("few_shot", "('val', 'trainable_parameters')", ["accuracy", "trainable_parameters"]),
        ("few_shot", "('hm',)", ["accuracy"]),
        ("base_to_new", "('hm', 'new')", ["hm", "new"]),
    ],
)
def test_the_winner_is_judged_by_what_its_protocol_scores(tmp_path, protocol, objectives, metrics):
    """A method of a closed set is tuned on validation images, and reported few-shot."""
    text = f"{CONFIG}\nexperiment.protocol = '{protocol}'\n"
    asked = parsed(tmp_path, f"search.objectives={objectives}", text=text)
    _, result = judged(tmp_path, asked)
    assert result["test_metrics"] == metrics
    for variant in result["variants"].values():
        assert all(variant["test"][name] is not None for name in metrics)
        assert ("base" in variant["test"]) is (protocol == "base_to_new")


def test_the_winner_is_a_configuration_that_loads(tmp_path):
    course = run_inline(parsed(tmp_path), tmp_path / "s")
    path = write_best(course, tmp_path / "s")
    config = read_config_file(path)
    config.check_used(["experiment"])
    params = course.scheduler.asked[winner_of(course).trial].params
    assert str(config.bindings["SGD.lr"]) == params["SGD.lr"]
    assert config.bindings["experiment.dataset"] == "alpha"
    assert "experiment.protocol" not in config.bindings
    assert path.read_text().startswith("# The winner of the search 'fake'")


def test_optuna_is_imported_by_who_searches_and_nobody_else():
    """Workers and all other commands read these modules, for the names in configurations."""
    for path in Path(experiments.search.__file__).parent.glob("*.py"):
        modules = [
            name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
        ]
        assert not any(name.partition(".")[0] == "optuna" for name in modules), path


def test_events_survive_their_file(tmp_path):
    ledger = Ledger(tmp_path)
    events = [
        Asked(trial=0, params={"a.b": "'ü'"}, runs=("x",)),
        Told(trial=0, state="complete", values=(0.1 + 0.2,), parts=(0.1,), message="m"),
    ]
    ledger.append(events[:1])
    ledger.append(events[1:])
    assert Ledger(tmp_path).events == events and Ledger(tmp_path).num_lost == 0
    with pytest.raises(ValueError, match="JSON"):
        ledger.append([Told(trial=1, state="complete", values=(float("inf"),))])
    assert Ledger(tmp_path).events == events
