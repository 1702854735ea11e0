"""Plug-ins on the command line, in configurations, in workers, and where a stored run needs one."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
from PIL import Image

import main as command_line
import refinelab
from core.plugins import load_plugins, loaded_plugins
from core.store.record import read_record, read_records, write_record
from experiments.configs import config_path, config_rows, read_config_file
from experiments.run.standalone import read_run_config
from experiments.run.stored_plugins import load_stored_plugins
from experiments.search.settings import definition_of, search_of, space_of
from tests.helpers.plugin_folders import forgotten_plugins, write_plugin

SQUARES = ("--set", "experiment.dataset=my_paper/squares")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, small_mosaic):
    """Runs a command as a process of its own would: it knows no plug-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFINELAB_DATA", raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        with forgotten_plugins():
            code = command_line.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err.strip()

    return run


@pytest.fixture
def home(tmp_path):
    return write_plugin(tmp_path)


@pytest.fixture
def trained(call, home, tmp_path):
    """The folder of a finished run of the plug-in's method on its dataset."""
    code, _, err = call("train", "pulled", "--plugin", "my_paper", *SQUARES, "--out", "own")
    assert code == 0, err
    return tmp_path / "own"


def test_train_by_the_name_of_a_preset_beside_the_plugin(trained, home):
    (record,) = read_records(trained.parent)
    assert record.environment["plugins"].keys() == {str(home)}
    assert record.dataset == "my_paper/squares" and record.status == "finished"


def test_without_the_option_the_names_are_unknown_and_the_way_out_is_told(call, home):
    code, _, err = call("train", "pulled")
    assert code == 2 and "'pulled' is neither a file nor a shipped configuration" in err
    code, _, err = call("train", home / "pulled.gin")
    assert code == 2 and "there is no method 'PulledCoOp'" in err
    code, _, err = call("train", "mosaic", *SQUARES)
    assert code == 2 and "unknown dataset 'my_paper/squares'" in err
    code, _, err = call("train", "mosaic", "--set", "plugins=('my_paper',)")
    assert code == 2 and "plug-ins are given with --plugin" in err


def test_every_command_that_reads_configurations_takes_the_option(call, home):
    code, out, _ = call("list", "methods", "--plugin", "my_paper", "--json")
    assert code == 0 and "PulledCoOp" in {row["name"] for row in json.loads(out)["methods"]}
    code, out, _ = call("list", "configs", "--plugin", "my_paper/method.py", "--json")
    rows = {row["name"]: row["summary"] for row in json.loads(out)["configs"]}
    assert rows["pulled"] == "PulledCoOp as in the paper."
    code, out, _ = call("data", "check", "my_paper/squares", "--plugin", "my_paper", "--json")
    assert code == 0 and json.loads(out)["train"]["n"] == 18
    code, out, _ = call("train", "pulled", "--plugin", "my_paper", *SQUARES)
    assert code == 0 and "my_paper/squares: registered by a plug-in, with a split of its own" in out
    code, _, err = call("train", "mosaic", "--plugin", "nowhere.py")
    assert code == 2 and err.startswith("error: there is no plug-in nowhere.py")
    for command in ("grid", "search", "evaluate", "inspect", "rerun", "import", "status"):
        assert "--plugin" in call(command, "--help")[1]


def test_a_configuration_names_plugins_relative_to_itself(call, home, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = call("grid", tmp_path / "study.gin", "--dry-run")
    assert code == 0, err
    assert "3 cells, 3 runs" in out and "PulledCoOp + OwnCache" in out
    (tmp_path / "study.gin").write_text("plugins = 'my_paper/method.py'\ninclude 'pulled.gin'\n")
    with forgotten_plugins():
        config = read_config_file(tmp_path / "study.gin")
        assert "PulledCoOp.pull" in config.bindings and "plugins" not in config.text()
        assert config.sources["PulledCoOp.pull"].endswith("pulled.gin:6")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugins = ('gone.py',)", r"a\.gin:1: there is no plug-in gone\.py"),
        ("plugins = (1,)", r"a\.gin:1: plugins must be texts"),
        ("plugins = ()\nplugins = 'my_paper'", ""),
        ("plugins = @CoOp", r"a\.gin:1: plugins must be texts"),
        ("plugins = ('broken.py',)", r"a\.gin:1: the plug-in broken\.py: .*broken\.py:1: Zero"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, home, text, message):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "a.gin").write_text(f"{text}\ninclude 'mosaic.gin'\n")
    with forgotten_plugins():
        if message:
            with pytest.raises(ValueError, match=message):
                read_config_file(tmp_path / "a.gin")
        else:
            assert read_config_file(tmp_path / "a.gin").bindings


def test_a_preset_of_a_plugin_is_a_preset_by_its_name_and_typed_by_its_path(call, home, tmp_path):
    override = ["experiment.method=@CoOp", "experiment.dataset=mosaic/land"]
    with forgotten_plugins():
        load_plugins(["my_paper"])
        assert config_path("pulled") == home / "pulled.gin"
        assert "pulled" in {row["name"] for row in config_rows()}
        _, notes = read_run_config(config_path("pulled"), override)
        assert len(notes) == 1 and "PulledCoOp is not plugged in" in notes[0]
        with pytest.raises(ValueError, match="PulledCoOp is not plugged in"):
            read_run_config(config_path(str(home / "pulled.gin")), override)


def test_a_worker_loads_the_plugins_of_the_study(call, home, tmp_path):
    code, _, err = call("grid", "study.gin", "--jobs", "1", "--no-track")
    assert code == 0, err
    records = {record.variant: record for record in read_records(tmp_path / "runs" / "pulled")}
    assert len(records) == 3
    assert all(set(r.environment["plugins"]) == {str(home)} for r in records.values())
    code, out, _ = call("grid", "study.gin", "--dry-run")
    assert code == 0 and "3 done" in out
    some = next(iter(records.values())).identity
    code, _, err = call("rerun", "runs/pulled", some)
    assert code == 0, err


def test_a_run_made_here_knows_its_plugins(call, trained):
    code, out, err = call("evaluate", trained, "--json")
    assert code == 0, err
    scores = {row["target"]: row["correct"] for row in json.loads(out)}
    (record,) = read_records(trained.parent)
    assert scores == {e.target: list(e.correct) for e in record.evaluations}


def test_a_run_from_elsewhere_does_not_run_its_plugins(call, trained, home, tmp_path):
    other = ("--runs", tmp_path / "other")
    for command in ("evaluate", "inspect"):
        code, _, err = call(command, trained, *other)
        assert code == 2 and err.count("\n") == 0
        assert f"is code and was not run here; if you trust it, give --plugin {home}" in err
    code, _, err = call("evaluate", trained, *other, "--plugin", "my_paper")
    assert code == 0, err


def test_in_python_the_way_out_is_a_function_and_what_is_given_is_checked(trained, home, tmp_path):
    with forgotten_plugins():
        with pytest.raises(ValueError, match=r"trust it, call refinelab\.load_plugin\('.*'\)$"):
            refinelab.load_run(trained, runs=tmp_path / "other")
        strength = home / "strength.py"
        text = strength.read_text()
        strength.write_text("def half(x):\n    return x / 3\n")
        with pytest.raises(ValueError, match=r"load the one to use with refinelab\.load_plugin"):
            refinelab.load_run(trained)
        with pytest.raises(ValueError, match=r"or give allow_changed=True$"):
            refinelab.load_run(trained, plugins=[str(home)])
        strength.write_text(text)
    with forgotten_plugins():
        run = refinelab.load_run(trained)
        image = Image.new("RGB", (32, 32))
        for wrong in ([], (), "", "ball"):
            with pytest.raises(ValueError, match=r"classes must be 'all' .* or names, got"):
                run.predict([image], classes=wrong)
        with pytest.raises(ValueError, match=r"^there is no image 'nope\.png'; give the path"):
            run.predict(["nope.png"])
        every = [run.predict([image], c).class_names for c in (None, "all", run.class_names)]
        assert every == [run.class_names] * 3


def test_an_edited_plugin_is_not_the_one_of_the_record(call, trained, home):
    strength = home / "strength.py"
    strength.write_text("# halves\n" + strength.read_text())
    assert call("evaluate", trained)[0] == 0, "a comment is no change"
    strength.write_text("def half(x):\n    return x / 3\n")
    code, _, err = call("evaluate", trained)
    assert code == 2 and "has changed since; restore it" in err
    code, _, err = call("evaluate", trained, "--plugin", "my_paper")
    assert code == 2 and "since this was made there changed: the plug-in" in err
    code, _, err = call("evaluate", trained, "--plugin", "my_paper", "--allow-changed")
    assert code == 0 and "changed since the run: the plug-in" in err


def test_nothing_that_a_received_record_names_is_executed(trained, home, tmp_path):
    """Not even where sources of the same content were run here, from their own place."""
    record = read_record(trained)
    (sha256,) = record.environment["plugins"].values()
    copy = tmp_path / "received" / "my_paper"
    shutil.copytree(home, copy)
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "__init__.py").write_text("raise SystemExit('executed')\n")
    for name in (str(copy), "evil", "evil.method", "../received/my_paper", str(evil)):
        changed = replace(record, environment={"plugins": {name: sha256}})
        write_record(trained, changed)
        with forgotten_plugins(), pytest.raises(ValueError, match="was not run here"):
            load_stored_plugins(trained, tmp_path / "runs" / "cache")
    write_record(trained, replace(record, environment={"plugins": ["my_paper"]}))
    with pytest.raises(ValueError, match="must be hashes by path"):
        load_stored_plugins(trained, tmp_path / "runs" / "cache")
    write_record(trained, record)
    with forgotten_plugins():
        assert load_stored_plugins(trained, tmp_path / "runs" / "cache") == ()
        assert [plugin.path for plugin in loaded_plugins()] == [home]


def test_a_file_of_a_stored_study_does_not_load_what_it_names(call, trained, home, tmp_path):
    config = trained / "config.gin"
    config.write_text("plugins = ('../my_paper',)\n" + config.read_text())
    (trained / "beside.gin").write_text("plugins = ('../my_paper',)\ninclude 'mosaic.gin'\n")
    for file in (config, trained / "beside.gin"):
        code, _, err = call("train", file)
        assert code == 2 and "plug-ins are code" in err and "give --plugin ../my_paper" in err
    code, _, err = call("evaluate", trained, "--plugin", "my_paper")
    assert (code == 2 and "must not name plug-ins" in err) or "differs" in err or "changed" in err


def test_check_plugin_passes_what_keeps_the_contract(call, home):
    code, out, err = call("check-plugin", "my_paper")
    assert code == 0, out + err
    lines = out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} of {len(lines) - 1} checks passed"
    assert all(line.startswith("pass  ") for line in lines[:-1])
    subjects = {line.removeprefix("pass  ").partition(":")[0] for line in lines[:-1]}
    assert subjects == {"PulledCoOp", "OwnCache", "my_paper/squares", "pulled.gin"}


BAD = '''
import torch
from refinelab.core.config import register
from refinelab.core.data.catalog import register_dataset
from refinelab.methods.coop import CoOp
from refinelab.refiners.cache import EmaCache


@register("method")
class Doubled(CoOp):
    """CoOp with texts that are too long, and noise in every evaluation."""

    def class_texts(self):
        return 2 * super().class_texts() + 0.01 * torch.rand(1)


@register("method")
class Loud(CoOp):
    """CoOp that logs a metric under a name of the log.

    Source: ours, 2026.
    """

    def metrics(self):
        return {"loss": 1.0}


@register("cache")
class Forgets(EmaCache):
    """A cache that evaluation writes to.

    Source: ours.
    """

    def read(self, text):
        self.slots_MD.mul_(0.5)
        return super().read(text)


@register_dataset("mine/none")
def none(options):
    raise ValueError("the images are gone")
'''


def test_check_plugin_says_what_is_wrong_and_why(call, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "wrong.gin").write_text("CoOp.num_ctxx = 3\n")
    code, out, _ = call("check-plugin", "bad.py")
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    for subject, check, why in [
        ("Doubled", "names its source", "must name 'Source:' with a year"),
        ("Doubled", "output", "text must have unit rows"),
        ("Doubled", "evaluation changes no state and repeats", "other logits the second time"),
        ("Loud", "can be inspected", "other than crc32, epoch, epochs, loss, lr, metrics"),
        ("Forgets", "evaluation is batch invariant and stateless", "a prediction depends"),
        ("mine/none", "is read as data check does", "the images are gone"),
        ("wrong.gin", "can be read", "did you mean 'num_ctx'"),
    ]:
        assert any(
            line.startswith(f"FAIL  {subject}: {check}: ") and why in line for line in failed
        ), (
            subject,
            check,
            failed,
        )
    code, out, _ = call("check-plugin", "bad.py", "--json")
    assert code == 1 and {row["subject"] for row in json.loads(out)} >= {"Doubled", "mine/none"}


SEARCH = """
plugins = ('my_paper',)
include 'pulled.gin'
include 'search_base.gin'
search.study = 'tuned'
search.datasets = ('mosaic/land',)
search.seeds = (1,)
search.final_seeds = (101,)
search.space = {'SGD.lr': {'low': 0.01, 'high': 0.1}}
"""


def test_the_definition_of_a_search_has_the_hash_of_its_plugins(home, tmp_path):
    (tmp_path / "search.gin").write_text(SEARCH)
    with forgotten_plugins():
        setup = search_of(read_config_file(tmp_path / "search.gin"))
        found = definition_of(setup, space_of(setup), lambda config: {})
        (plugin,) = loaded_plugins()
        assert found["plugins"] == {"my_paper": plugin.sha256}
        plain = search_of(read_config_file(config_path("search_text_refiner")))
        assert "plugins" not in definition_of(plain, space_of(plain), lambda config: {})
