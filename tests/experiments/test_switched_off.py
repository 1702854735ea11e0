"""A part is switched off from a preset without copying it: what the preset binds for it is dropped
with a note; what a person typed is refused.
"""

import pytest

from experiments.cli.train import data_lines
from experiments.configs import config_path, read_config_file
from experiments.run.runtime import Runtime
from experiments.run.standalone import read_run_config
from experiments.search.settings import search_of, space_of
from experiments.study.planner import plan

NO_CACHE = "TextRefiner.cache=@NoCache"


def fake_fingerprints(config):
    return {"dataset": "0"}


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("preset", "override", "dropped"),
    [
        ("text_refiner", NO_CACHE, {"EmaCache"}),
        ("text_refiner", "TextRefiner.semantic=@NoLoss", {"SemanticLoss"}),
        ("text_refiner_on_cocoop", NO_CACHE, {"EmaCache"}),
        ("text_refiner", "experiment.method=@ZeroShot", {"CoOp"}),
        ("coop", "experiment.optimizer=@AdamW", {"SGD"}),
    ],
)
def test_a_preset_named_on_the_command_line(preset, override, dropped):
    config, notes = read_run_config(config_path(preset), [override])
    classes = {key.partition(".")[0] for key in config.bindings}
    assert not classes & dropped
    assert len(notes) == len(dropped) and all(any(c in n for n in notes) for c in dropped)
    before = read_config_file(config_path(preset)).bindings
    lost = before.keys() - config.bindings.keys()
    assert lost and {key.partition(".")[0] for key in lost} == dropped
    assert all(any(f"{key} (" in note and ".gin:" in note for note in notes) for key in lost)


def test_the_run_is_that_of_a_configuration_without_the_bindings(tmp_path):
    data = ["experiment.dataset=mosaic/land"]
    named, notes = read_run_config(config_path("text_refiner"), [NO_CACHE, *data])
    by_path, _ = read_run_config(str(config_path("text_refiner")), [NO_CACHE, *data])
    own = written(tmp_path, "own.gin", f"include 'text_refiner.gin'\n{NO_CACHE}\n")
    included, same = read_run_config(own, data)
    kept = (line for line in read_config_file(config_path("text_refiner")).text().splitlines())
    lines = [line for line in kept if not line.startswith(("EmaCache.", "TextRefiner.cache"))]
    copied = written(tmp_path, "copied.gin", "\n".join([*lines, NO_CACHE]) + "\n")
    without, none = read_run_config(copied, data)
    assert named.text() == included.text() == by_path.text() == without.text()
    assert named.identity("experiment") == without.identity("experiment")
    assert "EmaCache is not plugged in (TextRefiner.cache = @NoCache)" in notes[0]
    assert notes == same and none == []


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("include 'text_refiner.gin'\n", [NO_CACHE, "EmaCache.momentum=0.5"]),
        (f"include 'text_refiner.gin'\n{NO_CACHE}\nEmaCache.momentum = 0.5\n", []),
        ("include 'text_refiner.gin'\nEmaCache.momentum = 0.5\n", [NO_CACHE]),
    ],
)
def test_what_a_person_typed_is_refused(tmp_path, text, overrides):
    file = written(tmp_path, "mine.gin", text)
    with pytest.raises(ValueError, match=r"EmaCache\.momentum: EmaCache is not plugged in"):
        read_run_config(file, overrides)


def test_a_contradiction_in_a_preset_is_still_refused(tmp_path):
    with pytest.raises(ValueError, match="makes its own prompts"):
        read_run_config(config_path("mosaic"), ["experiment.template='one {}'"])


LAND = "experiment.dataset=mosaic/land"
NO_VIEWS = "experiment.num_views=0"


@pytest.mark.parametrize(
    ("preset", "override", "dropped", "why"),
    [
        ("coprompt", NO_VIEWS, {"experiment", "RandAugment"}, "nothing is augmented with"),
        ("dept", "CoOp.ctx_init='a b c'", {"CoOp"}, "starts from the 3 words"),
    ],
)
def test_what_a_preset_binds_is_dropped_where_a_setting_leaves_it_no_effect(
    preset, override, dropped, why
):
    config, notes = read_run_config(config_path(preset), [override, LAND])
    lost = read_config_file(config_path(preset)).bindings.keys() - config.bindings.keys()
    assert {key.partition(".")[0] for key in lost} == dropped and why in notes[0]
    assert len(notes) == len(dropped) and all(any(f"{key} (" in n for n in notes) for key in lost)


def test_a_typed_binding_that_a_setting_leaves_without_effect_is_refused(tmp_path):
    text = "include 'coprompt.gin'\nexperiment.augmentation = @ColorJitter\n"
    with pytest.raises(ValueError, match=r"mine\.gin:2: experiment\.augmentation: nothing is augm"):
        read_run_config(written(tmp_path, "mine.gin", text), [NO_VIEWS, LAND])
    with pytest.raises(
        ValueError, match=r"--set: RandAugment\.num_ops: RandAugment is not plugged"
    ):
        read_run_config(config_path("coprompt"), [NO_VIEWS, LAND, "RandAugment.num_ops=1"])


def test_a_refused_run_tells_why_and_nothing_of_what_is_dropped(capsys, small_mosaic):
    runtime = Runtime(cache_dir=small_mosaic, data_root=None)
    with pytest.raises(ValueError, match=r"^CoPrompt compares 2 augmented views .* = 0; set it to"):
        data_lines("coprompt", [NO_VIEWS, LAND], runtime, as_json=True)
    assert capsys.readouterr().err == ""


def test_a_grid_and_a_search_drop_it_as_well(tmp_path):
    more = f"{NO_VIEWS}\n"
    grid = GRID.format(more=more).replace("text_refiner", "dept")
    made = plan(
        read_config_file(written(tmp_path, "g.gin", grid + "CoOp.ctx_init='a b'\n")),
        fake_fingerprints,
    )
    assert ["CoOp.num_ctx (" in note for note in made.notes] == [True]
    assert "num_ctx" not in made.cells[0].config_text
    text = SEARCH.format(space=RATE, more="CoOp.ctx_init='a b'").replace("text_refiner", "dept")
    setup = search_of(read_config_file(written(tmp_path, "s.gin", text)))
    assert ["CoOp.num_ctx (" in note for note in setup.notes] == [True]


def test_a_level_without_views_needs_no_augmentation(tmp_path):
    text = (
        GRID.format(more="")
        .replace("text_refiner.gin", "maple.gin")
        .replace("{'SGD.lr': 0.1}", "{'experiment.num_views': 1}")
    )
    more = "experiment.augmentation = @RandAugment\nRandAugment.num_ops = 1\n"
    made = plan(
        read_config_file(written(tmp_path, "v.gin", text + NO_VIEWS + "\n" + more)),
        fake_fingerprints,
    )
    without, views = (cell.config_text for cell in made.cells)
    assert "RandAugment" not in without and "RandAugment.num_ops = 1" in views


def test_train_says_it_once(capsys, tmp_path, small_mosaic):
    data_lines(
        "text_refiner",
        [NO_CACHE, LAND],
        Runtime(cache_dir=small_mosaic, data_root=None),
        as_json=True,
    )
    assert capsys.readouterr().err.count("EmaCache is not plugged in") == 1


GRID = """
include 'text_refiner.gin'
grid.study = 'x'
grid.datasets = ('mosaic/land',)
grid.seeds = (1,)
grid.baseline = 'a'
grid.variants = {{'a': {{}}, 'b': {{'SGD.lr': 0.1}}}}
{more}
"""


def test_a_grid_drops_what_no_variant_plugs_in(tmp_path):
    file = written(tmp_path, "grid.gin", GRID.format(more=NO_CACHE))
    made = plan(read_config_file(file), fake_fingerprints)
    assert [note for note in made.notes if "EmaCache" in note]
    assert "EmaCache" not in made.cells[0].config_text
    typed = written(tmp_path, "typed.gin", GRID.format(more=f"{NO_CACHE}\nEmaCache.momentum = 0.5"))
    with pytest.raises(ValueError, match="EmaCache is not plugged in"):
        plan(read_config_file(typed), fake_fingerprints)
    one_has_it = GRID.format(more=NO_CACHE).replace(
        "{'SGD.lr': 0.1}", "{'TextRefiner.cache': @EmaCache}"
    )
    made = plan(read_config_file(written(tmp_path, "one.gin", one_has_it)), fake_fingerprints)
    assert not [note for note in made.notes if "EmaCache" in note]


SEARCH = """
include 'text_refiner.gin'
include 'search_base.gin'
search.study = 'x'
search.datasets = ('mosaic/land',)
search.seeds = (1,)
search.final_seeds = (2,)
search.space = {space}
{more}
"""
RATE = "{'SGD.lr': {'low': 0.01, 'high': 0.1}}"


def test_a_search_drops_what_no_trial_plugs_in(tmp_path):
    text = SEARCH.format(space=RATE, more=NO_CACHE)
    setup = search_of(read_config_file(written(tmp_path, "search.gin", text)))
    assert [note for note in setup.notes if "EmaCache" in note]
    assert not [key for key in setup.base.bindings if key.startswith("EmaCache")]
    assert space_of(setup).notes == []
    typed = SEARCH.format(space=RATE, more=f"{NO_CACHE}\nEmaCache.momentum = 0.5")
    with pytest.raises(ValueError, match="EmaCache is not plugged in"):
        space_of(search_of(read_config_file(written(tmp_path, "typed.gin", typed))))
    choice = "{'TextRefiner.cache': (@NoCache, @EmaCache)}"
    both = written(tmp_path, "both.gin", SEARCH.format(space=choice, more=NO_CACHE))
    setup = search_of(read_config_file(both))
    assert setup.notes == () and "EmaCache.momentum" in setup.base.bindings
