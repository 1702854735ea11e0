"""What may be searched is held against the real parameters before anything runs."""

import pytest

from core.config import Reference, config_from_text
from experiments.search.samplers import TPE
from experiments.search.settings import space_of
from experiments.search.space import Choice, Range, Space
from tests.helpers.fake_searches import CONFIG, parsed

BASE = """experiment.dataset = 'alpha'
experiment.method = @CoOp
experiment.optimizer = @SGD
experiment.refiner = @TextRefiner
experiment.schedule = @ConstantThenCosine
TextRefiner.alignment = @NoAlignment
TextRefiner.aggregation = @LinearAggregation
TextRefiner.cache = @EmaCache
TextRefiner.regularization = @NoLoss
TextRefiner.semantic = @NoLoss
"""


@pytest.fixture
def base():
    return config_from_text(BASE)


def lowest(dimension):
    return dimension.low if isinstance(dimension, Range) else dimension.texts[0]


def highest(dimension):
    return dimension.high if isinstance(dimension, Range) else dimension.texts[-1]


def test_ranges_take_their_kind_from_the_parameter(base):
    space = Space(
        {
            "EmaCache.num_slots": {"low": 5, "high": 100, "log": True},
            "SGD.lr": {"low": 1, "high": 2},
            "EmaCache.momentum": {"low": 0.5, "high": 0.9, "step": 0.1},
            "LinearAggregation.renormalise": (True, False),
        },
        base,
    )
    slots, lr, momentum, flag = space.dimensions.values()
    assert isinstance(slots, Range) and slots.whole and slots.log and not lr.whole
    assert isinstance(flag, Choice) and flag.texts == ("True", "False") and not flag.plugs
    assert space.describe()["SGD.lr"] == {
        "kind": "float", "low": 1.0, "high": 2.0, "log": False, "step": None,
    }  # fmt: skip
    assert momentum.step == 0.1 and type(slots.value(7.0)) is int
    found = space.propose(lowest)
    assert found["LinearAggregation.renormalise"] is True and found["EmaCache.num_slots"] == 5
    config = space.config(found)
    assert config.bindings["SGD.lr"] == 1.0 and config.unused(("experiment",)) == ()


def test_a_setting_exists_only_where_its_part_is_plugged_in(base):
    described = {
        "QueueCache.topk": {"low": 1, "high": 9},
        "EmaCache.num_slots": {"low": 5, "high": 100},
        "TextRefiner.cache": (Reference("EmaCache"), Reference("QueueCache")),
        "experiment.refiner": (Reference("TextRefiner"), Reference("NullRefiner")),
        "SGD.lr": {"low": 0.001, "high": 0.1},
    }
    space = Space(described, base)
    assert set(space.conditional) == {"QueueCache.topk", "EmaCache.num_slots", "TextRefiner.cache"}
    assert set(space.propose(lowest)) == {
        "EmaCache.num_slots", "TextRefiner.cache", "experiment.refiner", "SGD.lr",
    }  # fmt: skip
    assert set(space.propose(highest)) == {"experiment.refiner", "SGD.lr"}
    null = space.config(space.propose(highest))
    assert null.unused(("experiment",)) == ()

    def queue(dimension):
        return "@QueueCache" if dimension.key == "TextRefiner.cache" else lowest(dimension)

    assert set(space.propose(queue)) == described.keys() - {"EmaCache.num_slots"}
    texts = {"TextRefiner.cache": "@QueueCache", "QueueCache.topk": "3", "SGD.lr": "0.01"}
    assert space.bindings(texts) == {
        "TextRefiner.cache": Reference("QueueCache"), "QueueCache.topk": 3, "SGD.lr": 0.01,
    }  # fmt: skip


LR = {"low": 0.001, "high": 0.1}
BAD = [
    ({}, "search.space is empty"),
    ({"SGD.lrr": LR}, "SGD has no parameter 'lrr'.*did you mean 'lr'"),
    ({"SDG.lr": LR}, "did you mean 'SGD'"),
    ({"SGD.lr": {"low": 0.1, "high": 0.001}}, "SGD.lr: the range is inverted"),
    ({"SGD.lr": {"low": 0.1, "high": 0.1}}, "SGD.lr: the range is empty"),
    ({"SGD.lr": {"low": 0.0, "high": 0.1}}, "SGD.lr must be float > 0, got 0.0"),
    ({"SGD.lr": {"low": -1, "high": 0.1}}, "must be float > 0, got -1"),
    ({"SGD.lr": {"low": "a", "high": 0.1}}, "SGD.lr must be float > 0, got 'a'"),
    ({"SGD.lr": {"low": 0.1}}, "a range has low and high"),
    ({"SGD.lr": {**LR, "hi": 3}}, "a range has low and high.*'hi'"),
    ({"SGD.lr": {**LR, "log": 1}}, "log must be True or False, got 1"),
    ({"SGD.lr": {**LR, "log": True, "step": 0.001}}, "a log range has no step"),
    ({"SGD.momentum": {"low": 0.0, "high": 0.9, "log": True}}, "starts above 0, got low = 0.0"),
    ({"SGD.lr": {**LR, "step": 0.5}}, "step must be a number above 0 and at most"),
    ({"SGD.lr": {**LR, "step": 0.06}}, "high must be low plus a number of steps"),
    ({"EmaCache.num_slots": {"low": 5, "high": 9, "step": 0.5}}, "step must be an integer"),
    ({"EmaCache.num_slots": {"low": 5.5, "high": 9}}, "must be int >= 1, got 5.5"),
    ({"EmaCache.momentum": {"low": 0.5, "high": 1.5}}, r"must be float in \[0, 1\], got 1.5"),
    ({"CoOp.ctx_init": {"low": 1, "high": 2}}, "must be text"),
    ({"LinearAggregation.renormalise": {"low": False, "high": True}}, "is not a number"),
    ({"SGD.lr": 0.1}, "must be a range .* or a tuple of choices, got 0.1"),
    ({"SGD.lr": (0.1,)}, "at least two different choices"),
    ({"SGD.lr": (0.1, 1e-1)}, "at least two different choices"),
    ({"TextRefiner.cache": (Reference("EmaCache"), Reference("SGD"))}, "not cache"),
    ({"TextRefiner.cache": ("EmaCache", "NoCache")}, "written @EmaCache, without quotes"),
    ({"QueueCache.topk": {"low": 1, "high": 9}}, "QueueCache is not plugged in"),
    ({"experiment.dataset": ("a", "b")}, "experiment.dataset cannot be searched"),
    ({"experiment.seed": {"low": 1, "high": 9}}, "experiment.seed cannot be searched"),
    ({"experiment.shots": (1, 16)}, "cannot be searched: all trials use the same images"),
    ({"experiment.protocol": ("few_shot", "base_to_new")}, "experiment.protocol cannot be"),
    ({"experiment.selection": ("last", "oracle-test")}, "cannot be searched"),
    ({"search.trials": (1, 2)}, "search.space"),
    ({"experiment.cuda_graphs": (False, True)}, "cuda_graphs cannot be searched: it changes no"),
    ({"experiment.crop_cache_gb": {"low": 0.0, "high": 9.0}}, "it changes no result"),
    ({"experiment.checkpoint_every": {"low": 0, "high": 9}, "SGD.lr": LR}, "checkpoint_every can"),
    ({"experiment.overlap": ("refused", "allowed")}, "it changes no result"),
    ({"other/experiment.overlap": ("refused", "allowed")}, "search.space"),
]


@pytest.mark.parametrize(("described", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_spaces_are_one_clear_line(base, described, message):
    with pytest.raises(ValueError, match=message) as caught:
        Space(described, base)
    assert "\n" not in str(caught.value) and "search.space" in str(caught.value)


def test_what_the_files_bind_must_act_in_some_trial(base):
    idle = base.with_bindings({"QueueCache.topk": 3}, "file:1")
    with pytest.raises(ValueError, match=r"file:1: QueueCache\.topk: QueueCache is not plugged in"):
        Space({"SGD.lr": LR}, idle)
    both = {"SGD.lr": LR, "TextRefiner.cache": (Reference("QueueCache"), Reference("NoCache"))}
    assert Space(both, idle).conditional == ()


def test_too_many_structures_are_refused(base):
    parts = [Reference(n) for n in ("EmaCache", "NoCache", "QueueCache", "LearnedCache")]
    aggregations = [Reference(n) for n in ("LinearAggregation", "GatedAggregation")]
    losses = [Reference("NoLoss"), Reference("L1Regularization"), Reference("CosineRegularization")]
    space = {
        "TextRefiner.cache": parts,
        "TextRefiner.aggregation": aggregations,
        "TextRefiner.regularization": losses,
        "TextRefiner.semantic": losses,
        "TextRefiner.alignment": [Reference("NoAlignment"), Reference("MlpAlignment")],
        "experiment.method": [Reference("CoOp"), Reference("ZeroShot")],
    }
    with pytest.raises(ValueError, match="288 combinations of parts, more than 256"):
        Space(space, base)


SETTINGS = [
    (["search.trials=0"], "search.trials must be int >= 1, got 0"),
    (["search.datasets=()"], "search.datasets is empty"),
    (["search.seeds=()"], "search.seeds is empty"),
    (["search.seeds=(1, 1)"], "search.seeds must not repeat a value, but 1 appears twice"),
    (["search.final_seeds=(2, 3)"], "final_seeds must be fresh, but 2 is also among search.seeds"),
    (["search.objectives=('val', 'hm')"], "accuracies of one kind of run"),
    (["search.objectives=('train_seconds',)"], "got only costs"),
    (
        ["search.objectives=('train_seconds', 'val')"],
        "decides the winner and must be an",
    ),
    (["search.objectives=('test',)"], "one of 'val'"),
    (["search.study='a/b'"], "search.study must be a folder name"),
    (["search.sampler=@TPEE"], "did you mean 'TPE'"),
    (["search.sampler=@SGD"], "not sampler"),
    (["TPE.num_startups=3"], "did you mean 'num_startup'"),
    (["search.sampler=@CMAES", "search.objectives=('base', 'new')"], "@CMAES takes one objective"),
    (
        ["search.pruner=@MedianPruning", "search.objectives=('base', 'new')"],
        "a pruner supports one",
    ),
    (["experiment.selection='val'"], "a search scores the last epoch"),
    (["experiment.dataset='x'"], "set search.datasets"),
    (["experiment.seed=3"], "set search.seeds"),
    (["experiment.protocol='few_shot'"], "set search.objectives"),
    (["search.study='demo_final'"], "must not end in '_final' or '_random'"),
    (["search.study='demo_Random'"], "must not end in"),
    (["search.study='Cache'"], "a name that other commands use"),
    (["search.stage='run'"], "@NoPruning never ends a trial early"),
    (["TPE.multivariate=False", "TPE.group=True"], "set TPE.multivariate"),
    (["GP.num_startup=3"], "GP is not plugged in"),
    (["search.round_size=0"], "search.round_size must be int >= 1"),
    (["search.trials=9000"], "more than 10000"),
]


@pytest.mark.parametrize(("overrides", "message"), SETTINGS, ids=[m for _, m in SETTINGS])
def test_bad_settings_are_one_clear_line(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        parsed(tmp_path, *overrides)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_search_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"does not define a search: bind search\.study"):
        parsed(tmp_path, text="include 'coop.gin'\n")
    cut = CONFIG.replace("search.final_seeds = (11, 12)\n", "")
    with pytest.raises(ValueError, match=r"search\.final_seeds has no value"):
        parsed(tmp_path, text=cut)


def test_every_option_of_the_sampler_is_written_down(tmp_path):
    search = parsed(tmp_path, "TPE.num_candidates=5")
    assert search.sampler == TPE(num_startup=4, num_candidates=5)
    assert set(search.options) == {
        f"TPE.{name}"
        for name in ("num_startup", "num_candidates", "multivariate", "group", "constant_liar")
    }
    assert not any(key.startswith(("search.", "TPE.", "grid.")) for key in search.base.bindings)


def test_the_control_is_a_random_search_of_equal_budget(tmp_path):
    control = parsed(tmp_path, "search.pruner=@MedianPruning", control=True)
    assert type(control.sampler).__name__ == "Random" and not control.pruner.prunes
    assert (control.search.study, control.search.trials) == ("fake_random", 12)


WORDS = "CoOp.ctx_init = 'a photo of a'\n"
NUMBER = {"CoOp.num_ctx": {"low": 4, "high": 16}}


def test_a_number_beside_words_cannot_be_searched():
    with pytest.raises(ValueError, match=r"CoOp.num_ctx: .*starts from the 4 words") as caught:
        Space(NUMBER, config_from_text(BASE + WORDS))
    assert "\n" not in str(caught.value)
    random = config_from_text(BASE + "CoOp.ctx_init = ''\n")
    assert Space(NUMBER, random).propose(highest) == {"CoOp.num_ctx": 16}


def test_a_number_is_proposed_only_without_words(base):
    words = {"CoOp.ctx_init": ("a photo of a", "")}
    for described in ({**words, **NUMBER}, {**NUMBER, **words}):
        space = Space(described, base)
        assert space.conditional == ("CoOp.num_ctx",)
        assert space.propose(lowest) == {"CoOp.ctx_init": "a photo of a"}
        assert space.propose(highest) == {"CoOp.ctx_init": "", "CoOp.num_ctx": 16}


CHOICES = "search.space={'SGD.momentum': (0.0, 0.9), 'EmaCache.momentum': (0.5, 0.8)}"
ONE_RANGE = "search.space={'SGD.momentum': (0.0, 0.9), 'SGD.lr': {'low': 0.1, 'high': 0.2}}"


def test_cma_es_needs_a_range_that_every_trial_has(tmp_path):
    with pytest.raises(ValueError, match=r"@CMAES adapts to ranges .* use @TPE or @GP"):
        space_of(parsed(tmp_path, "search.sampler=@CMAES", CHOICES))
    space_of(parsed(tmp_path, "search.sampler=@CMAES", ONE_RANGE))
    space_of(parsed(tmp_path, "search.sampler=@TPE", CHOICES))


def test_settings_of_a_file_that_a_search_replaces_are_noted(tmp_path):
    found = parsed(tmp_path, text=CONFIG + "experiment.seed = 7\n").notes
    assert len(found) == 1 and "experiment.seed = 7 has no effect in a search" in found[0]
