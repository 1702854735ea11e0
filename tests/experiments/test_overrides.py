"""Grids over shots, and settings of some cells alone."""

import pytest

from core.config import config_from_text
from experiments.study.dry_run import dry_run
from tests.helpers.planned_grids import NAMED, planned

FEW = NAMED + "experiment.protocol = 'few_shot'\n"
CURVE = FEW + "grid.shots = (1, 4)\n"


def epochs(made):
    """Epochs by variant, dataset and shots."""
    return {
        (c.variant, c.dataset, c.shots): config_from_text(c.config_text).bindings.get(
            "experiment.epochs"
        )
        for c in made.cells
    }


def overrides(*rules):
    return f"grid.overrides = ({', '.join(rules)},)\n"


def test_shots_are_an_axis_with_runs_of_their_own():
    made = planned(CURVE)
    assert len(made.cells) == len({c.identity for c in made.cells}) == 2 * 2 * 2 * 3
    for cell in made.cells:
        assert config_from_text(cell.config_text).bindings["experiment.shots"] == cell.shots
    assert made.cells[0].label == "CoOp on shapes, shots 1, seed 1"
    assert {cell["shots"] for cell in made.manifest.to_dict()["cells"]} == {1, 4}
    assert not any("shots" in cell for cell in planned(NAMED).manifest.to_dict()["cells"])


def test_a_variant_that_trains_nothing_is_one_run_for_all_shots(tmp_path):
    zero = "'TextRefiner': {}, 'Zero': {'experiment.method': @ZeroShot, "
    text = CURVE.replace("'TextRefiner': {}", zero + "'experiment.refiner': @NullRefiner}")
    made = planned(text)
    cells = [c for c in made.cells if c.variant == "Zero"]
    assert [(c.dataset, c.shots, c.seed) for c in cells] == [
        (dataset, shots, None) for dataset in ("shapes", "beasts") for shots in (1, 4)
    ]
    assert len({c.identity for c in cells}) == 2 and not any(c.note for c in cells)
    rows = {row["variant"]: row for row in dry_run(made, tmp_path, jobs=1).rows}
    assert (rows["Zero"]["cells"], rows["Zero"]["runs"]) == (4, 2)


def test_rules_cover_what_they_name_and_the_last_one_wins():
    made = planned(
        CURVE
        + overrides(
            "{'shots': (4,), 'set': {'experiment.epochs': 7}}",
            "{'datasets': ('beasts',), 'variants': ('CoOp',), 'set': {'experiment.epochs': 9}}",
        )
    )
    found = epochs(made)
    assert found["TextRefiner", "shapes", 1] is None
    assert found["TextRefiner", "shapes", 4] == found["CoOp", "shapes", 4] == 7
    assert found["CoOp", "beasts", 1] == found["CoOp", "beasts", 4] == 9
    assert found["TextRefiner", "beasts", 4] == 7


def test_a_rule_stands_above_the_variant():
    text = NAMED.replace("'TextRefiner': {}", "'TextRefiner': {'experiment.epochs': 3}")
    made = planned(text + overrides("{'datasets': ('beasts',), 'set': {'experiment.epochs': 5}}"))
    found = epochs(made)
    assert found["TextRefiner", "shapes", None] == 3
    assert found["TextRefiner", "beasts", None] == found["CoOp", "beasts", None] == 5


def test_a_rule_may_name_known_data_sets_that_the_grid_has_not():
    made = planned(NAMED + overrides("{'datasets': ('imagenet',), 'set': {'SGD.lr': 0.5}}"))
    assert len(made.cells) == 12


def test_a_binding_acts_in_a_variant_that_uses_it_on_some_data():
    text = NAMED.replace("'TextRefiner': {}", "'TextRefiner': {'EmaCache.momentum': 0.5}")
    rule = overrides("{'datasets': ('shapes',), 'set': {'TextRefiner.cache': @NoCache}}")
    made = planned(text + "EmaCache.num_slots = 7\n" + rule)
    texts = {(c.variant, c.dataset): c.config_text for c in made.cells}
    for setting in ("EmaCache.num_slots = 7", "EmaCache.momentum = 0.5"):
        assert setting in texts["TextRefiner", "beasts"]
        assert setting not in texts["TextRefiner", "shapes"]
    everywhere = rule.replace("('shapes',)", "('shapes', 'beasts')")
    with pytest.raises(ValueError, match=r"EmaCache is not plugged in .* in variant 'TextRefiner'"):
        planned(NAMED + "EmaCache.num_slots = 7\n" + everywhere)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            "{'datasets': ('shape',), 'set': {'SGD.lr': 0.5}}",
            "among the datasets of the grid; did you mean 'shapes'",
        ),
        (
            "{'variants': ('coop',), 'set': {'SGD.lr': 0.5}}",
            "among the variants of the grid; did you mean 'CoOp'",
        ),
        ("{'shots': (3,), 'set': {'SGD.lr': 0.5}}", "3 is not among the shots of the grid"),
        ("{'datasets': ('shapes',)}", "sets nothing"),
        ("{'datasets': ('shapes',), 'set': {}}", "sets nothing"),
        ("{'set': {'SGD.lr': 0.5}}", "covers every cell"),
        ("{'datasets': 'shapes', 'set': {'SGD.lr': 0.5}}", "is a tuple of names"),
        ("{'dataset': ('shapes',), 'set': {'SGD.lr': 0.5}}", "did you mean 'datasets'"),
        ("{'datasets': ('shapes',), 'set': {'SGD.rl': 0.5}}", "no parameter 'rl'"),
        ("{'datasets': ('shapes',), 'set': {'AdamW.lr': 0.5}}", "AdamW is not plugged in"),
        (
            "{'variants': ('CoOp',), 'set': {'EmaCache.num_slots': 5}}",
            "EmaCache belongs in TextRefiner.cache, but TextRefiner is not plugged in",
        ),
    ],
)
def test_rules_that_cannot_act_are_refused(rule, message):
    with pytest.raises(ValueError, match=r"grid\.overrides\[0\]") as caught:
        planned(NAMED + overrides(rule))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NAMED + "grid.shots = (1, 2)", "only for the protocol 'few_shot', got .*'base_to_new'"),
        (FEW + "grid.shots = (1, 1)", r"grid\.shots must not repeat a value, but 1"),
        (FEW + "grid.shots = (-1,)", "int >= 0"),
        (
            CURVE.replace("'TextRefiner': {}", "'TextRefiner': {'experiment.shots': 2}"),
            "remove it from the variants",
        ),
        (
            CURVE + "grid.factors = {'experiment.shots': (1, 2)}",
            r"grid\.shots sets experiment\.shots in every cell",
        ),
    ],
)
def test_the_curve_has_rules(text, message):
    with pytest.raises(ValueError, match=message):
        planned(text)


def test_shots_can_be_a_factor_of_any_protocol():
    made = planned(
        NAMED.replace(
            "grid.variants", "grid.factors = {'experiment.shots': (16, 4)}\ngrid.variants"
        )
    )
    assert [v.name for v in made.variants][2:] == ["full", "experiment.shots=4"]
    shots = {c.variant: config_from_text(c.config_text).bindings.get("experiment.shots")
             for c in made.cells}  # fmt: skip
    assert (shots["full"], shots["experiment.shots=4"], shots["CoOp"]) == (16, 4, None)
