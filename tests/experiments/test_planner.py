"""The planner: which cells a grid has, what they are called, and what it refuses."""

from dataclasses import replace

import pytest

from core.config import Reference, config_from_text
from experiments.study.planner import ROOT, plan
from tests.helpers.planned_grids import COMMON, NAMED, TOGGLES, fingerprint_of, planned


def names(laid_out):
    return [variant.name for variant in laid_out.variants]


def test_cells_are_variants_by_datasets_by_seeds():
    laid_out = planned(NAMED)
    assert [(c.variant, c.dataset, c.seed) for c in laid_out.cells] == [
        (variant, dataset, seed)
        for dataset in ("shapes", "beasts")
        for seed in (1, 2, 3)
        for variant in ("CoOp", "TextRefiner")
    ]
    assert len({cell.identity for cell in laid_out.cells}) == 12
    assert laid_out.runs == laid_out.cells
    assert planned(NAMED) == laid_out


def test_a_cell_has_a_complete_configuration_of_its_own():
    cell = planned(NAMED).cells[0]
    config = config_from_text(cell.config_text)
    assert config.bindings["experiment.dataset"] == "shapes"
    assert config.bindings["experiment.seed"] == 1
    assert config.bindings["experiment.refiner"] == Reference("NullRefiner")
    assert not any(key.startswith("grid.") for key in config.bindings)
    assert config.identity(ROOT, fingerprint_of(config)) == cell.identity
    assert cell.factors == {"experiment.refiner": "@NullRefiner"}


def test_the_fingerprints_are_part_of_the_identity():
    other = plan(config_from_text(NAMED), lambda config: {"dataset": "other"})
    same = {cell.identity for cell in other.cells} & {c.identity for c in planned(NAMED).cells}
    assert not same


def test_leave_one_out_switches_each_factor_alone():
    laid_out = planned(COMMON + TOGGLES + "grid.design = 'leave_one_out'\ngrid.baseline = 'full'")
    assert names(laid_out) == ["full", "-cache", "-aggregation", "EmaCache.num_slots=5"]
    assert [variant.factors["EmaCache.num_slots"] for variant in laid_out.variants] == [
        "16",
        "16",
        "16",
        "5",
    ]
    assert laid_out.variants[1].factors == {
        "EmaCache.num_slots": "16",
        "TextRefiner.aggregation": "@LinearAggregation",
        "TextRefiner.cache": "@NoCache",
    }


def test_add_one_in_starts_from_all_off():
    laid_out = planned(COMMON + TOGGLES + "grid.design = 'add_one_in'\ngrid.baseline = 'none'")
    assert names(laid_out) == ["none", "+cache", "+aggregation", "EmaCache.num_slots=16"]
    assert laid_out.variants[1].factors["TextRefiner.aggregation"] == "@NoAggregation"


def test_full_takes_all_combinations_and_runs_those_that_cannot_differ_once():
    laid_out = planned(COMMON + TOGGLES + "grid.baseline = 'full'")
    assert names(laid_out) == [
        "full",
        "EmaCache.num_slots=5",
        "-aggregation",
        "-aggregation EmaCache.num_slots=5",
        "-cache",
        "-cache EmaCache.num_slots=5",
        "-cache -aggregation",
        "-cache -aggregation EmaCache.num_slots=5",
    ]
    assert len(laid_out.cells) == 8 * 6
    repeated = {cell.variant: cell.note for cell in laid_out.cells if cell.note}
    assert repeated == {
        "-aggregation EmaCache.num_slots=5": "inert: same as '-aggregation'",
        "-cache EmaCache.num_slots=5": "inert: same as '-cache'",
        "-cache -aggregation": "inert: same as '-aggregation'",
        "-cache -aggregation EmaCache.num_slots=5": "inert: same as '-aggregation'",
    }
    assert len(laid_out.runs) == 4 * 6


def test_other_levels_than_off_are_named_by_their_value():
    text = (
        COMMON
        + """
grid.baseline = 'full'
grid.design = 'leave_one_out'
grid.factors = {'experiment.method': (@CoOp, @ZeroShot), 'SGD.lr': (0.1, 0.2)}
"""
    )
    assert names(planned(text)) == ["full", "method=ZeroShot", "SGD.lr=0.2"]


def test_named_variants_and_factors_may_stand_together():
    text = NAMED.replace("'CoOp'\n", "'CoOp'\ngrid.references = ('full',)\n")
    laid_out = planned(text + TOGGLES + "grid.design = 'leave_one_out'")
    assert names(laid_out) == [
        "CoOp",
        "TextRefiner",
        "full",
        "-cache",
        "-aggregation",
        "EmaCache.num_slots=5",
    ]
    notes = {cell.variant: cell.note for cell in laid_out.cells}
    assert notes["TextRefiner"] == "" and notes["full"] in ("", "inert: same as 'TextRefiner'")


def test_equal_values_in_other_words_are_duplicates():
    text = NAMED.replace("'TextRefiner': {}", "'a': {'SGD.lr': 1e-3}, 'b': {'SGD.lr': 0.001}")
    laid_out = planned(text)
    assert [cell.note for cell in laid_out.cells if cell.variant == "b"] == ["duplicate of 'a'"] * 6
    assert len(laid_out.runs) == 12


@pytest.mark.parametrize("seeds", ["(1, 2, 3)", "(5,)"])
def test_a_method_without_randomness_is_one_cell_a_dataset(seeds):
    text = NAMED.replace("(1, 2, 3)", seeds).replace(
        "'TextRefiner': {}",
        "'TextRefiner': {}, 'ZeroShot': {'experiment.refiner': @NullRefiner, "
        "'experiment.method': @ZeroShot}",
    )
    cells = [cell for cell in planned(text).cells if cell.variant == "ZeroShot"]
    assert [(cell.dataset, cell.seed) for cell in cells] == [("shapes", None), ("beasts", None)]
    more = text.replace(seeds, "(8, 9)")
    assert {c.identity for c in cells} <= {c.identity for c in planned(more).cells}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(1, 2, 3)", "()", r"grid\.seeds is empty"),
        ("('shapes', 'beasts')", "()", r"grid\.datasets is empty"),
        ("(1, 2, 3)", "(1, 2, 1)", r"grid\.seeds must not repeat a value, but 1"),
        ("(1, 2, 3)", "(1, -2)", r"grid\.seeds must be from 0 to 2\^64 - 1, got -2"),
        ("(1, 2, 3)", f"(1, {2**64})", r"grid\.seeds must be .* got 18446744073709551616"),
        ("('shapes', 'beasts')", "('x', 'x')", r"grid\.datasets must not repeat a value, but 'x'"),
        ("'demo'", "'../up'", r"grid\.study must be a folder name"),
        (
            "baseline = 'CoOp'",
            "baseline = 'Coop'",
            r"grid\.baseline must name a variant, got 'Coop'",
        ),
        (
            "baseline = 'CoOp'",
            "baseline = 'CoOp'\ngrid.references = ('x',)",
            r"grid\.references must",
        ),
        ("grid.baseline = 'CoOp'\n", "", r"incomplete: bind grid\.baseline"),
        (
            "'TextRefiner': {}",
            "'TextRefiner': {'SGD.learning': 1}",
            "variant 'TextRefiner'.*learning",
        ),
        (
            "'TextRefiner': {}",
            "'TextRefiner': {'TextRefiner.cache': @NoCache, 'EmaCache.num_slots': 5}",
            r"variant 'TextRefiner': EmaCache\.num_slots: EmaCache is not plugged in",
        ),
        ("grid.study", "NoCache_x.y = 1\ngrid.study", "NoCache_x"),
        ("grid.study", "AdamW.weight_decay = 0.5\ngrid.study", r"AdamW.*not plugged in"),
    ],
)
def test_rules_are_said_in_one_line(old, new, message):
    assert old in NAMED
    with pytest.raises(ValueError, match=message) as caught:
        planned(NAMED.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_common_binding_may_be_out_of_reach_in_some_variants():
    text = NAMED + "EmaCache.num_slots = 7\n"
    laid_out = planned(text)
    for cell in laid_out.cells:
        config_from_text(cell.config_text).check_used(["experiment"])
    reached = {cell.variant for cell in laid_out.cells if "num_slots = 7" in cell.config_text}
    assert "TextRefiner" in reached and "CoOp" not in reached
    assert laid_out.cells[0].identity == planned(NAMED).cells[0].identity


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ("{'SGD.lr': (0.1,)}", "at least two different levels"),
        ("{'SGD.lr': (0.1, 0.1)}", "at least two different levels"),
        ("{'Adam.x': (0.1, 0.2)}", "Adam"),
        ("{'AdamW.weight_decay': (0.1, 0.2)}", "AdamW is not plugged in"),
    ],
)
def test_factors_have_rules_too(factors, message):
    with pytest.raises(ValueError, match=message):
        planned(COMMON + f"grid.baseline = 'full'\ngrid.factors = {factors}")


def test_an_empty_grid_and_no_grid_are_errors():
    with pytest.raises(ValueError, match="the grid is empty"):
        planned(COMMON + "grid.baseline = 'x'")
    with pytest.raises(ValueError, match="does not define a grid"):
        planned("experiment.dataset = 'shapes'")


def test_a_name_that_stands_twice_is_an_error():
    text = NAMED.replace("'TextRefiner': {}", "'full': {}")
    with pytest.raises(ValueError, match="'full' appears twice"):
        planned(text + TOGGLES + "grid.design = 'leave_one_out'")


def test_a_huge_grid_needs_a_yes():
    seeds = ", ".join(map(str, range(3000)))
    text = NAMED.replace("(1, 2, 3)", f"({seeds})")
    with pytest.raises(ValueError, match="12000 cells, more than 10000: pass --yes"):
        planned(text)
    levels = ", ".join(map(str, range(1, 102)))
    factors = "".join(f"'SGD.{name}': ({levels})," for name in ("lr", "momentum", "weight_decay"))
    with pytest.raises(ValueError, match="cells, more than 10000"):
        planned(COMMON + f"grid.baseline = 'full'\ngrid.factors = {{{factors}}}")


def test_plans_compare_by_what_they_hold():
    laid_out = planned(NAMED)
    assert replace(laid_out, cells=()) != laid_out


def test_the_largest_seed_is_planned():
    for seeds in (f"({2**64 - 1},)", f"(0, {2**64 - 1})"):
        laid_out = planned(NAMED.replace("(1, 2, 3)", seeds))
        assert {cell.seed for cell in laid_out.cells} == set(laid_out.grid.seeds)


@pytest.mark.parametrize(
    "name",
    [
        *("cache", "Cache", "CACHE", "train", "Train", "imported", "pretrain", "mlflow.db"),
        *("MLflow.db", "mlflow.db-wal", ".", "..", "a/b", "a\\b", "", " ", "a ", " a", "a\n", "-a"),
        *(".hidden", "a.", "a\x1b", "x" * 201, "\u00e4" * 101, "a:b", "a%b", "~"),
    ],
)
def test_a_study_has_a_folder_of_its_own(name):
    with pytest.raises(ValueError, match=r"grid\.study") as caught:
        planned(NAMED.replace("'demo'", repr(name)))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["caches", "my_cache", "train2", "b\u00e4ume", "a.b", "x" * 200, "x_final"]
)
def test_other_names_of_studies_are_fine(name):
    assert planned(NAMED.replace("'demo'", repr(name))).grid.study == name


@pytest.mark.parametrize(
    "added",
    [
        "'a': {'experiment.seed': 5}",
        "'a': {'experiment.dataset': 'x'}",
    ],
)
def test_a_variant_cannot_set_what_a_list_sets(added):
    with pytest.raises(ValueError, match=r"grid\.(seeds|datasets) sets .* in every cell: remove"):
        planned(NAMED.replace("'TextRefiner': {}", f"'TextRefiner': {{}}, {added}"))


def test_neither_can_a_factor_nor_an_override():
    factor = "grid.factors = {'experiment.seed': (1, 2)}\n"
    override = "grid.overrides = ({'datasets': ('beasts',), 'set': {'experiment.dataset': 'x'}},)\n"
    for text in (factor, override):
        with pytest.raises(ValueError, match="in every cell: remove it from"):
            planned(NAMED + text)


def test_what_a_list_replaces_is_noted_and_refused_on_the_command_line():
    made = planned(NAMED + "experiment.seed = 7\nexperiment.dataset = 'x'\n")
    assert [note.partition(": ")[2][:33] for note in made.notes] == [
        "experiment.dataset = 'x' has no e", "experiment.seed = 7 has no effect"
    ]  # fmt: skip
    config = config_from_text(NAMED).with_bindings({"experiment.seed": 7}, "--set")
    with pytest.raises(ValueError, match=r"--set experiment\.seed: .*set grid\.seeds instead"):
        plan(config, fingerprint_of)


NUMBERS = NAMED.replace("(1, 2, 3)", "(1,)").replace(
    "grid.variants", "CoOp.ctx_init = 'a photo of a'\ngrid.variants"
)


def test_a_number_beside_words_is_inert_as_a_level_and_refused_in_a_variant():
    levels = "grid.factors = {'CoOp.num_ctx': (4, 16)}\ngrid.baseline = 'full'\n"
    made = planned(COMMON + "CoOp.ctx_init = 'a photo of a'\n" + levels)
    inert = [cell for cell in made.cells if cell.variant != "full"]
    assert {cell.note for cell in inert} == {"inert: same as 'full'"}
    assert all("num_ctx" not in cell.config_text for cell in inert)
    named = NUMBERS.replace("'TextRefiner': {}", "'TextRefiner': {'CoOp.num_ctx': 16}")
    with pytest.raises(ValueError, match=r"variant 'TextRefiner': CoOp\.num_ctx: .*4 words"):
        planned(named)
    with pytest.raises(ValueError, match="4 words"):
        planned(NUMBERS + "CoOp.num_ctx = 16\n")


def test_words_and_numbers_as_two_factors():
    factors = "grid.factors = {'CoOp.ctx_init': ('a photo of a', ''), 'CoOp.num_ctx': (4, 16)}\n"
    made = planned(COMMON.replace("(1, 2, 3)", "(1,)") + factors + "grid.baseline = 'full'\n")
    assert len({cell.identity for cell in made.cells if cell.dataset == "shapes"}) == 3
