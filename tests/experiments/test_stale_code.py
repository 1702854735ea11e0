"""Runs are repeated where the code that made them has changed, and nowhere else."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import experiments.run.registered
from core.store.code import read_code
from core.store.record import read_record, record_paths, write_record
from experiments.cli.status import status_command
from experiments.run.stale import CodeCheck
from experiments.search.ledger import read_events, told_trials
from experiments.search.status import search_status
from experiments.study.driver import rerun, run_study
from experiments.study.dry_run import dry_run, unfinished_configs
from experiments.study.progress import PlainProgress
from experiments.study.status import study_status
from experiments.workers.local import InlineExecutor
from tests.helpers.coded_runs import ENTRY, edit, write_paper
from tests.helpers.fake_runs import executions, fake_plan
from tests.helpers.fake_searches import parsed, run_inline

REGISTERED = experiments.run.registered
RUNTIME = SimpleNamespace(cache_dir="cache", data_root=None, device="cpu")
PLAN = fake_plan(["ok Alpha", "ok Beta"], datasets=["alpha"], seeds=[1, 2])


@pytest.fixture
def paper(tmp_path):
    """The file of Alpha, whose study is ``tmp_path / "s"``."""
    return write_paper(tmp_path)


def run(paper, **options):
    """One call of the study; returns its outcome and what it printed."""
    lines = io.StringIO()
    outcome = run_study(
        PLAN,
        paper.parents[1] / "s",
        InlineExecutor(ENTRY),
        runtime=RUNTIME,
        progress=PlainProgress(lines),
        **options,
    )
    return outcome, lines.getvalue()


def names(cells):
    return sorted({cell.variant for cell in cells})


def study_of(paper):
    return paper.parents[1] / "s"


def run_dirs(paper, variant):
    return [study_of(paper) / cell.identity for cell in PLAN.runs if cell.variant == variant]


EDITS = {
    "nothing": (None, []),
    "a docstring": (("'''Says nothing.'''", "'''Says something.'''"), []),
    "a comment": (("    return shared(x) + 1", "    # one\n        return (shared(x) + 1)"), []),
    "a class": (("shared(x) + 1", "shared(x) + 2"), ["ok Alpha"]),
    "what one class calls": (("def beta_only(x):\n    return x", "def beta_only(x):\n    return 2"),
                             ["ok Beta"]),
    "what both call": (("def shared(x):\n    return x", "def shared(x):\n    return 2 * x"),
                       ["ok Alpha", "ok Beta"]),
    "beside what one class calls": (("def beta_only", "def third():\n    pass\n\n\ndef beta_only"),
                                    ["ok Beta"]),
    "beside what both call": (("def shared", "def third():\n    pass\n\n\ndef shared"),
                              ["ok Alpha", "ok Beta"]),
    "what none imports": (("def other(x):\n    return x", "def other(x):\n    return 2"), []),
}  # fmt: skip


@pytest.mark.parametrize(("change", "again"), EDITS.values(), ids=EDITS)
def test_a_study_repeats_what_its_code_no_longer_makes(paper, change, again):
    run(paper)
    before = {path: path.read_text() for path in record_paths(study_of(paper))}
    if change:
        edit(paper, *change)
    planned, status = dry_run(PLAN, study_of(paper), jobs=1), study_status(study_of(paper))
    assert planned.to_do == len(planned.stale) == status["stale"] == 2 * len(again)
    assert planned.done == status["finished"] == 4 - 2 * len(again) and status["missing"] == 0
    assert len(list(unfinished_configs(PLAN, study_of(paper)))) == 2 * len(again)
    outcome, printed = run(paper)
    assert names(outcome.done) == again and len(outcome.done) == 2 * len(again)
    assert len(outcome.skipped) == 4 - 2 * len(again)
    kept = {path.with_name("record.json"): path for path in study_of(paper).rglob("*.stale")}
    assert {kept[path].read_text() for path in kept} == {before[path] for path in kept}
    assert len(kept) == 2 * len(again) == study_status(study_of(paper))["set_aside"]
    assert ("because the code changed" in printed) == bool(again)
    assert not run(paper)[0].done and not dry_run(PLAN, study_of(paper), jobs=1).stale
    assert not list(study_of(paper).glob("*.rerun"))


def test_status_cannot_plan_and_says_what_it_depends_on(paper, capsys):
    run(paper)
    edit(paper, "def shared(x):\n    return x", "def shared(x):\n    return 2 * x")
    status_command(study_of(paper))
    told = "".join(capsys.readouterr().out.split())  # a long path is broken where the line ends
    where = paper.with_name("paper_shared.py")  # the definition's own file
    changed = f"4 runs stale, because the code changed: {where}: shared; grid makes them"
    assert changed.replace(" ", "") in told
    assert "again,unlesssettingschangedtoo" in told and "tobemadeagain" not in told


def test_what_changed_is_named_once_with_file_and_definition(paper):
    run(paper)
    edit(paper, "def shared(x):\n    return x", "def shared(x):\n    return 2 * x")
    status, printed = study_status(study_of(paper)), run(paper)[1]
    (found,) = status["changes"]
    shared = paper.with_name("paper_shared.py")
    assert found["runs"] == 4 and found["change"] == f"{shared}: shared"
    assert printed.count(f"{shared}: shared") == 1
    assert "4 runs will be made again, and the old records kept as record.json.stale" in printed
    row = status["rows"][0]
    assert (row["finished"], row["stale"], row["missing"]) == (0, 2, 0)
    json.dumps(status)


def test_a_stale_record_stays_until_the_new_one_is_there_and_none_is_lost(paper):
    run(paper)
    texts = []
    for value in "23":
        run_dir = run_dirs(paper, "ok Alpha")[0]
        texts.append((run_dir / "record.json").read_text())
        edit(paper, f"shared(x) + {int(value) - 1}", f"shared(x) + {value}")
        run(paper)
        assert (run_dir / "older").exists()
        assert (run_dir / "weights.safetensors").read_text() in (run_dir / "code.json").read_text()
    kept = [(run_dir / f"record.json.{name}").read_text() for name in ("stale", "stale-2")]
    assert kept == texts and read_record(run_dir).code == read_code(run_dir).classes


def test_a_run_that_fails_with_new_code_keeps_the_old_record_and_is_tried_with_newer_code(paper):
    run(paper)
    edit(paper, "shared(x) + 1", "shared(x) + 2")
    (study_of(paper) / "behave").write_text("fail")
    outcome, _ = run(paper, max_attempts=1)
    first = run_dirs(paper, "ok Alpha")[0]
    assert names(outcome.failed) == ["ok Alpha"] and read_record(first).status == "failed"
    assert (first / "record.json.stale").exists() and (first / "weights.safetensors").exists()
    assert len(run(paper, max_attempts=1)[0].failed) == 2
    tries = executions(study_of(paper))[first.name]
    (study_of(paper) / "behave").unlink()
    assert not run(paper)[0].done and executions(study_of(paper))[first.name] == tries
    edit(paper, "shared(x) + 2", "shared(x) + 3")
    assert names(run(paper)[0].done) == ["ok Alpha"] and read_record(first).status == "finished"


def test_records_without_code_are_not_checked(paper):
    run(paper)
    for path in record_paths(study_of(paper)):
        write_record(path.parent, replace(read_record(path.parent), code={}))
        (path.parent / "code.json").unlink()
    edit(paper, "def shared(x):\n    return x", "def shared(x):\n    return 2 * x")
    assert study_status(study_of(paper))["stale"] == 0 and not run(paper)[0].done


def test_a_plug_in_that_is_not_here_is_not_checked(paper):
    run(paper)
    paper.parent.rename(paper.parents[1] / "elsewhere")
    assert study_status(study_of(paper))["stale"] == 0


def test_a_class_that_is_gone_is_a_change_and_one_that_moved_is_none(paper):
    run(paper)
    edit(paper, "class Alpha", "class Alef")
    (found,) = study_status(study_of(paper))["changes"]
    assert found == {"runs": 2, "change": "there is no Alpha any more"}
    edit(paper, "class Alef", "class Alpha")
    record = read_record(run_dirs(paper, "ok Alpha")[0])
    moved = {"methods.ivlp:CoOp": "0" * 16}
    check = CodeCheck()
    change = check.changes(replace(record, code=moved), study_of(paper))
    assert change == "the code of CoOp"  # found where it is now, and without a list of definitions
    assert check.changes(replace(record, code={"methods.coop:NoClass": "0"}), study_of(paper))


def test_a_damaged_list_of_definitions_leaves_the_hash(paper):
    run(paper)
    edit(paper, "shared(x) + 1", "shared(x) + 2")
    run_dir = run_dirs(paper, "ok Alpha")[0]
    (run_dir / "code.json").write_text("{")
    record = read_record(run_dir)
    assert CodeCheck().changes(record, run_dir) == ""  # where the plug-in is stands in that file
    own = replace(record, code={"methods.coop:CoOp": "0" * 16})
    assert CodeCheck().changes(own, run_dir) == "the code of CoOp"


def test_a_rerun_says_that_the_code_has_changed(paper):
    run(paper)
    edit(paper, "shared(x) + 1", "shared(x) + 2")
    lines, cell = io.StringIO(), PLAN.runs[0]
    rerun(study_of(paper), cell.identity, InlineExecutor(ENTRY), runtime=RUNTIME,
          progress=PlainProgress(lines))  # fmt: skip
    assert f"{paper}: Alpha" in lines.getvalue() and "the grid command" in lines.getvalue()
    assert (study_of(paper) / cell.identity / "record.json.previous").exists()
    assert names(run(paper)[0].done) == ["ok Alpha"]


def test_a_run_by_code_that_changed_meanwhile_is_told(paper):
    """A worker that replaces another one reads the code anew."""
    run(paper)
    edit(paper, "shared(x) + 1", "shared(x) + 2")
    (study_of(paper) / "edit").write_text("shared(x) + 2")
    _, printed = run(paper)
    assert printed.count(f"the code changed while the study ran: {paper}: Alpha") == 1
    assert not run(paper)[0].done  # both runs were of the last edit


def with_code(folder, identities, code):
    for identity in identities:
        record = read_record(folder / identity)
        write_record(folder / identity, replace(record, code=code))


def test_a_search_is_of_one_code(tmp_path):
    folder = tmp_path / "fake"
    run_inline(parsed(tmp_path, "search.trials=4"), folder)
    events = read_events(folder)
    runs = {event.trial: event.runs for event in events if hasattr(event, "runs")}
    assert len(told_trials(events)) == len(runs) == 4 and not search_status(folder)["changes"]
    with_code(folder, runs[2], {"methods.coop:CoOp": "0" * 16})
    (change,) = search_status(folder)["changes"]
    assert change == {"runs": len(runs[2]), "change": "the code of CoOp"}
    message = r"since 1 of 4 trials of 'fake' were made: the code of CoOp; later trials depend"
    with pytest.raises(ValueError, match=message):
        run_inline(parsed(tmp_path, "search.trials=8"), folder)
    with pytest.raises(ValueError, match="restore that code, or use another"):
        run_inline(parsed(tmp_path, "search.trials=4"), folder)
    with_code(folder, runs[2], {})
    assert run_inline(parsed(tmp_path, "search.trials=8"), folder).complete


def test_the_default_of_a_search_is_made_again_where_it_is_stale(tmp_path):
    folder = tmp_path / "fake"
    outcome = run_inline(parsed(tmp_path, "search.trials=4"), folder)
    default = outcome.scheduler.default.cells[0].identity
    with_code(folder, [default], {"methods.coop:CoOp": "0" * 16})
    again = run_inline(parsed(tmp_path, "search.trials=4"), folder)
    assert [cell.identity for cell in again.study.done] == [default] and again.complete
    assert (folder / default / "record.json.stale").exists()
