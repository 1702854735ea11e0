"""Refiners: every part alone, all off, and the cache against numbers worked out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.config import Reference, lookup, registered_classes
from core.seeding import Seeds
from core.train.checkpoints import learned_state
from core.types import Forward, MethodOutput
from experiments.configs import config_path, read_config_file
from experiments.contracts.contract import title_of
from experiments.contracts.methods import MethodCase
from experiments.contracts.parts import (
    REFINER_CHECKS,
    SLOTS,
    PartCase,
    RefinerCase,
    check_a_copy_of_a_part_is_independent,
    check_a_loss_vanishes_where_nothing_is_refined_if_it_says_so,
    check_a_part_moves_no_others_initial_values,
    check_a_small_step_lowers_the_loss_and_not_the_backbone,
    check_evaluation_is_batch_invariant_and_stateless,
    check_names_the_source_of_a_part,
    check_shapes_and_types,
    check_the_refiner_works_on_top,
    check_what_a_part_learned_survives_a_file,
)
from refiners.aggregation import FusionAggregation, LinearAggregation
from refiners.alignment import MlpAlignment
from refiners.cache import ClassCache, EmaCache, LearnedCache, NoCache, Observation
from refiners.losses import L1Regularization, SemanticLoss, SpreadLoss
from refiners.text_refiner import TextRefiner
from tests.helpers.paths import ROOT
from tests.helpers.pretended_cuda import PretendedCuda
from tests.helpers.tiny_clip import (
    PARTS_OFF,
    PARTS_ON,
    batch,
    images,
    logits,
    make_method,
    make_model,
    objective_of,
    one_step,
    part,
    shared_tiny_clip,
    tiny_clip,
    training,
)

PLUGGED = [(slot, entry.name) for slot, kind in SLOTS.items() for entry in registered_classes(kind)]
each_part = pytest.mark.parametrize(("slot", "name"), PLUGGED)
SOURCE = MethodOutput(
    text_width=32,
    local_width=32,
    num_patches=16,
    num_classes=5,
    provides=frozenset({"pooled", "local", "attention"}),
)


def coop(clip=None, *, seed=0, **parts):
    return make_model(
        make_method("CoOp", clip or shared_tiny_clip(), seed=seed), seed=seed, **parts
    )


def refiner_of(source=SOURCE, **parts):
    factories = {slot: part(name) for slot, name in (PARTS_ON | parts).items()}
    return TextRefiner(source, Seeds(0), **factories)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# every registered part, plugged into its slot


@each_part
def test_a_part_keeps_shapes_and_types(slot, name):
    check_shapes_and_types(PartCase(slot, name))


@each_part
def test_a_small_step_lowers_the_loss_and_not_the_backbone(slot, name):
    check_a_small_step_lowers_the_loss_and_not_the_backbone(PartCase(slot, name))


@each_part
def test_evaluation_is_batch_invariant_and_stateless(slot, name):
    check_evaluation_is_batch_invariant_and_stateless(PartCase(slot, name))


@each_part
def test_parameters_and_cache_survive_a_file(slot, name):
    check_what_a_part_learned_survives_a_file(PartCase(slot, name))


@each_part
def test_a_copy_is_independent(slot, name):
    check_a_copy_of_a_part_is_independent(PartCase(slot, name))


@each_part
def test_a_part_alone_moves_no_others_initial_values(slot, name):
    check_a_part_moves_no_others_initial_values(PartCase(slot, name))


@each_part
def test_a_loss_that_says_so_vanishes_where_nothing_is_refined(slot, name, monkeypatch):
    case = PartCase(slot, name)
    check_a_loss_vanishes_where_nothing_is_refined_if_it_says_so(case)
    if name == "SpreadLoss":
        monkeypatch.setattr(SpreadLoss, "vanishes_unrefined", True)
        with pytest.raises(AssertionError, match="say False"):
            check_a_loss_vanishes_where_nothing_is_refined_if_it_says_so(case)


@pytest.mark.parametrize("method", [e.name for e in registered_classes("method")])
def test_the_refiner_works_on_every_method_that_provides_what_it_needs(method):
    check_the_refiner_works_on_top(MethodCase(method))


@each_part
def test_every_part_says_what_it_is(slot, name):
    check_names_the_source_of_a_part(PartCase(slot, name))


@pytest.mark.parametrize("check", REFINER_CHECKS, ids=title_of)
@pytest.mark.parametrize("name", [e.name for e in registered_classes("refiner")])
def test_every_refiner_keeps_the_contract(name, check):
    check(RefinerCase(name))


# off


def test_all_off_is_coop_bit_for_bit():
    plain, off = coop(), coop(**PARTS_OFF)
    (_, plain_log), (_, off_log) = training(plain, epochs=3), training(off, epochs=3)
    assert plain_log == off_log and len(plain_log) == 3
    assert torch.equal(plain.method.ctx, off.method.ctx)
    assert not torch.equal(plain.method.ctx, coop().method.ctx)
    assert torch.equal(logits(plain, batch()), logits(off, batch()))
    assert off.refiner.needs() == frozenset() and list(off.refiner.parameters()) == []


@pytest.mark.parametrize("slot", PARTS_OFF)
def test_one_part_off_changes_what_is_learned(slot):
    full, less = coop(**PARTS_ON), coop(**{slot: PARTS_OFF[slot]})
    training(full, epochs=1)
    training(less, epochs=1)
    assert not torch.equal(logits(full, batch()), logits(less, batch()))


@pytest.mark.parametrize(
    ("slot", "silent"),
    [
        ("semantic", part("SemanticLoss", weight=0.0)),
        ("regularization", part("L1Regularization", weight=0.0)),
    ],
)
def test_a_loss_of_weight_zero_is_off_bit_for_bit(slot, silent):
    """Also under weight decay, which moves every parameter that has a gradient, even of zeros."""
    zero, off = coop(**{slot: silent}), coop(**{slot: "NoLoss"})
    (_, zero_log), (_, off_log) = training(zero), training(off)
    assert zero_log == off_log
    assert same(learned_state(zero), learned_state(off))


def test_alpha_zero_is_no_aggregation_bit_for_bit():
    rest = {"semantic": "SemanticLoss", "regularization": "NoLoss"}
    zero = coop(aggregation=part("LinearAggregation", alpha=0.0), **rest)
    off = coop(aggregation="NoAggregation", **rest)
    training(zero)
    training(off)
    assert torch.equal(zero.method.ctx, off.method.ctx)
    assert torch.equal(logits(zero, batch()), logits(off, batch()))


def test_no_cache_leaves_a_linear_adapter_of_the_text():
    model = coop(cache="NoCache")
    out = model.eval()(batch())
    text, weight = out.aux["plain_text"], model.refiner.aggregation.extractor.weight
    torch.testing.assert_close(out.text, text + 0.2 * text @ weight[:, :32].t())


def test_local_tokens_are_asked_for_only_where_somebody_reads_them():
    assert coop(**PARTS_ON).refiner.needs() == {"local", "attention"}
    assert coop(semantic="NoLoss").refiner.needs() == {"local"}
    assert coop(semantic="NoLoss", cache="NoCache").refiner.needs() == frozenset()


# the cache, by hand


def cache_of(slots, **settings):
    cache = EmaCache(2, Seeds(0), num_slots=len(slots), **settings).double()
    cache.slots_MD.copy_(torch.tensor(slots))
    return cache


def test_reading_two_slots():
    """Text (2, 0) has the cosines 1 and 0: weights e/(e+1) and 1/(e+1)."""
    cache = cache_of([[1.0, 0.0], [0.0, 1.0]])
    e = torch.tensor(1.0, dtype=torch.float64).exp()
    weights = torch.stack([e / (e + 1), 1 / (e + 1)])
    text = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cache.read_weights(text)[0], weights)
    torch.testing.assert_close(cache.read(text)[0], weights)
    cold = cache_of([[1.0, 0.0], [0.0, 1.0]], read_temperature=0.01)
    torch.testing.assert_close(cold.read(text)[0], torch.tensor([1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_writing_two_tokens_into_one_of_two_slots(reduce):
    """Tokens (3, 0) and (0.6, 0.8)/5: directions x1 = (1, 0), x2 = (0.6, 0.8).

    Slots (1, 0) and (-1, 0): cosines 1, 0.6 against the first, so both go there with the weights
    exp(0) = 1 and exp(0.6 - 1). The second slot is not touched.
    """
    cache = cache_of([[1.0, 0.0], [-1.0, 0.0]], momentum=0.8, write_reduce=reduce)
    cache.write(torch.tensor([[3.0, 0.0], [0.12, 0.16]], dtype=torch.float64))
    w = torch.tensor(-0.4, dtype=torch.float64).exp()
    added = torch.stack([1 + 0.6 * w, 0.8 * w]) / (2 if reduce == "mean" else 1)
    moved = 0.8 * torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.2 * added
    torch.testing.assert_close(cache.slots_MD[0], moved / moved.norm())
    assert cache.slots_MD[1].tolist() == [-1.0, 0.0]


def test_a_write_makes_all_slots_unit_again():
    cache = cache_of([[1.0, 0.0], [-3.0, 4.0]])
    cache.write(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    # (1, 0) has the products 1 and -3 with the raw slots: it goes to the first
    torch.testing.assert_close(
        cache.slots_MD, torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    )


@pytest.mark.parametrize("repeated", [False, True])
def test_idle_slots_take_the_tokens_that_no_slot_explains(repeated):
    """Slot by slot in the order of the slots, with ties and with more idle slots than tokens; the
    host waits for nothing.
    """
    draws = torch.Generator().manual_seed(0)
    resets = 0
    for num_slots, num_tokens, steps in ((9, 2, 1), (9, 3, 2), (5, 40, 1), (1, 4, 1)):
        ours, plain = (
            EmaCache(4, Seeds(1), num_slots=num_slots, reset_after=after) for after in (steps, 0)
        )
        for _ in range(6):
            tokens = torch.randn(num_tokens, 4, generator=draws)
            tokens = tokens[:1].expand(num_tokens, -1) if repeated else tokens
            with PretendedCuda(ROOT) as gpu:
                moved = copy.deepcopy(ours).to("cuda")
                sent = tokens.to("cuda")
                before = gpu.waits.total()
                moved.write(sent)
                assert gpu.waits.total() == before and not gpu.unordered
                on_gpu = {name: value.cpu() for name, value in moved.state_dict().items()}
            ours.write(tokens)
            plain.write(tokens)
            unit = F.normalize(tokens, dim=-1)
            worst = (unit @ plain.slots_MD.t()).amax(dim=-1).sort(stable=True).indices.tolist()
            for slot in range(num_slots):
                if plain.idle_M[slot] >= steps and worst:
                    plain.slots_MD[slot] = unit[worst.pop(0)]
                    plain.idle_M[slot] = 0
                    resets += 1
            for name, value in plain.state_dict().items():
                assert torch.equal(ours.state_dict()[name], value)
                assert torch.equal(on_gpu[name], value)
    assert resets > 20


def test_the_cache_starts_positive_as_released_or_spread():
    positive = EmaCache(32, Seeds(0)).slots_MD
    spread = EmaCache(32, Seeds(0), initial="normal").slots_MD
    assert positive.shape == (25, 32) and bool((positive >= 0).all())
    assert bool((spread < 0).any())
    torch.testing.assert_close(positive.norm(dim=-1), torch.ones(25))
    cosine = (positive @ positive.t())[~torch.eye(25, dtype=torch.bool)].mean()
    assert 0.7 < cosine < 0.8


def test_the_cache_is_written_once_a_step_after_the_read_and_never_in_evaluation():
    model = coop(**PARTS_ON)
    start = model.refiner.cache.slots_MD.clone()
    model.train()
    first = model(batch())
    assert torch.equal(model.refiner.cache.slots_MD, start)
    expected = copy.deepcopy(model.refiner.cache)
    expected.write(first.aux["aligned"].detach().flatten(0, 1))
    model.refiner.observe(first)
    assert torch.equal(model.refiner.cache.slots_MD, expected.slots_MD)
    assert not torch.equal(model.refiner.cache.slots_MD, start)
    assert not model.refiner.cache.slots_MD.requires_grad
    written = model.refiner.cache.slots_MD.clone()
    logits(model, batch())
    assert torch.equal(model.refiner.cache.slots_MD, written)


def class_cache(*labels, width=4):
    """A cache of three classes that saw an image of each of these."""
    cache = ClassCache(width, Seeds(0), 3)
    draw = torch.Generator().manual_seed(0)
    for label in labels:
        aligned = torch.randn(1, 5, width, generator=draw)
        cache.observe(Observation(aligned=aligned, labels=torch.tensor([label])))
    return cache


def test_a_class_without_an_image_takes_no_part_in_a_read():
    text = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    cache = class_cache(2, 0)
    seen = cache.slots()[[0, 2]]
    weights = (F.normalize(text, dim=-1) @ seen.t()).softmax(dim=-1)
    torch.testing.assert_close(cache.read(text), weights @ seen)
    assert not cache.read_weights(text)[:, 1].any()


def test_a_class_cache_that_saw_nothing_reads_as_no_memory():
    text = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    cache, none = class_cache(), NoCache(4, Seeds(0))
    assert not cache.read(text).any()
    fusion = FusionAggregation(4, Seeds(0))
    assert torch.equal(fusion(text, cache), fusion(text, none))


def test_fusion_attends_to_the_classes_seen_alone():
    text = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    cache = class_cache(2, 0)
    of_two = LearnedCache(4, Seeds(0), num_slots=2)
    of_two.slots_MD = nn.Parameter(cache.slots()[[0, 2]])
    fusion = FusionAggregation(4, Seeds(0))
    torch.testing.assert_close(fusion(text, cache), fusion(text, of_two))


def test_the_memory_shows_the_classes_seen_alone():
    refiner = coop(cache=part("ClassCache")).refiner
    assert refiner.memory() is None
    width, label = refiner.cache.slots().shape[-1], 1
    refiner.cache.observe(
        Observation(aligned=torch.randn(1, 3, width), labels=torch.tensor([label]))
    )
    memory = refiner.memory()
    assert memory.labels.tolist() == [label]
    assert torch.equal(memory.slots, refiner.cache.slots()[[label]])


# aggregation, alignment and losses, by hand


def test_aggregation_adds_a_fraction_of_both():
    made = LinearAggregation(2, Seeds(0), alpha=0.5)
    with torch.no_grad():
        made.extractor.weight.copy_(torch.tensor([[1.0, 0, 0, 2], [0, 1, 1, 0]]))

    class Says(NoCache):
        def read(self, text):
            return torch.tensor([[3.0, 4.0]])

    text, cache = torch.tensor([[1.0, 0.0]]), Says(2, Seeds(0))
    torch.testing.assert_close(made(text, cache), torch.tensor([[1 + 0.5 * 9, 0.5 * 3]]))
    made.renormalise = True
    torch.testing.assert_close(made(text, cache).norm(dim=-1), torch.ones(1))


def test_alignment_maps_widths_with_statistics_over_all_rows():
    made = MlpAlignment(6, 4, Seeds(0)).train()
    local = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    hidden = local.reshape(15, 6) @ made.fc1.weight.t() + made.fc1.bias
    centered = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()
    expected = centered.relu() @ made.fc2.weight.t() + made.fc2.bias
    torch.testing.assert_close(made(local).reshape(15, 4), expected, atol=1e-5, rtol=1e-5)


def forward_of(**fields):
    values = {
        "image": F.normalize(torch.ones(1, 2), dim=-1),
        "text": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "logit_scale": torch.tensor(2.0),
    }
    return Forward(**(values | fields))


def test_semantic_rows_are_cls_the_most_attended_and_the_mean():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 1.0]]])
    out = forward_of(
        attention=torch.tensor([[0.1, 0.5, 0.3]]),
        aux={"aligned": tokens, "plain_text": torch.eye(2)},
    )
    loss = SemanticLoss(weight=0.5, topk=2)
    expected = torch.tensor([[1.0, 0.0], [2.0, 2.0], [5.0, 1.0], [2.0, 1.0]])
    assert torch.equal(loss.rows(out)[0], expected)
    targets = torch.tensor([1])
    wanted = 0.5 * F.cross_entropy(2 * expected, targets.repeat(4))
    torch.testing.assert_close(loss(out, targets, F.cross_entropy), wanted)
    unit = SemanticLoss(topk=2, normalise_rows=True).rows(out)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(1, 4))


@pytest.mark.parametrize(
    ("local_rows", "expected"),
    [
        (("cls",), [[1.0, 0.0]]),
        (("top",), [[2.0, 2.0], [5.0, 1.0]]),
        (("mean",), [[2.0, 1.0]]),
        (("mean", "cls"), [[1.0, 0.0], [2.0, 1.0]]),
    ],
)
@pytest.mark.parametrize("pooling", ["each", "mean", "max"])
def test_semantic_loss_scores_the_chosen_rows_pooled(local_rows, expected, pooling):
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 1.0]]])
    out = forward_of(
        attention=torch.tensor([[0.1, 0.5, 0.3]]),
        aux={"aligned": tokens, "plain_text": torch.eye(2)},
    )
    loss = SemanticLoss(weight=0.5, topk=2, local_rows=local_rows, pooling=pooling)
    assert loss.rows(out)[0].tolist() == expected
    logits_KC = 2 * torch.tensor(expected)
    pooled = {"each": logits_KC, "mean": logits_KC.mean(0)[None], "max": logits_KC.amax(0)[None]}
    targets = torch.zeros(len(pooled[pooling]), dtype=torch.int64)
    wanted = 0.5 * F.cross_entropy(pooled[pooling], targets)
    torch.testing.assert_close(loss(out, torch.tensor([0]), F.cross_entropy), wanted)


@pytest.mark.parametrize("local_rows", [(), ("cls", "cls")])
def test_no_row_or_a_row_twice_is_refused(local_rows):
    with pytest.raises(ValueError, match=r"each once.*@NoLoss"):
        SemanticLoss(local_rows=local_rows)


def test_regularization_is_the_mean_distance_of_the_unit_text():
    out = forward_of(text=torch.tensor([[3.0, 4.0]]), aux={"plain_text": torch.tensor([[1.0, 0]])})
    loss = L1Regularization(weight=10.0)(out, torch.tensor([0]), F.cross_entropy)
    torch.testing.assert_close(loss, torch.tensor(10 * (0.4 + 0.8) / 2))


def test_the_spread_is_the_mean_cosine_between_classes():
    text = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    loss = SpreadLoss(weight=6.0)(forward_of(text=text), torch.tensor([0]), F.cross_entropy)
    torch.testing.assert_close(loss, torch.tensor(6 * (0.6 + 0.8 + 0.0) / 3))
    alone = SpreadLoss()(forward_of(text=text[:1]), torch.tensor([0]), F.cross_entropy)
    torch.testing.assert_close(alone, torch.tensor(0.0))


def test_further_losses_are_logged_by_name_and_count():
    model = coop(cache="EmaCache")
    spread = coop(losses={"spread": part("SpreadLoss"), "off": part("NoLoss")})
    first, second = (objective_of(m)(m(batch()), batch().labels) for m in (model, spread))
    assert set(second) - set(first) == {"spread"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    texts = F.normalize(spread(batch()).text, dim=-1)
    cosine = texts @ texts.t()
    expected = (cosine.sum() - cosine.trace()) / (len(texts) * (len(texts) - 1))
    torch.testing.assert_close(second["spread"], expected)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"semantic": "SpreadLoss"}, "other than 'semantic' and 'regularization', got 'semantic'"),
        ({"a b": "SpreadLoss"}, "got 'a b'"),
        ({"loss": "SpreadLoss"}, "a term of TextRefiner.losses must .* got 'loss'"),
        ({"epoch": "SpreadLoss"}, "got 'epoch'"),
        ({"a": "SpreadLoss", "b": "SpreadLoss"}, "SpreadLoss twice"),
        ({"a": "SemanticLoss"}, "SemanticLoss twice"),
    ],
)
def test_further_losses_have_names_and_settings_of_their_own(losses, message):
    with pytest.raises(ValueError, match=message):
        coop(losses={name: part(loss) for name, loss in losses.items()})


# controls


def test_random_slots_start_as_the_cache_and_stay():
    model, written = coop(cache="RandomCache"), coop(cache="EmaCache")
    start = model.refiner.cache.slots().clone()
    assert start.shape == written.refiner.cache.slots().shape
    settings = {"num_slots": 3}
    ours = coop(cache=part("RandomCache", **settings)).refiner.cache.slots()
    assert torch.equal(ours, coop(cache=part("EmaCache", **settings)).refiner.cache.slots())
    training(model)
    assert torch.equal(model.refiner.cache.slots(), start)
    assert sum(p.numel() for p in model.trainable()) == sum(p.numel() for p in written.trainable())


def test_the_text_adapter_has_as_many_weights_and_no_memory():
    model, linear = (coop(aggregation=f"{name}Aggregation") for name in ("Adapter", "Linear"))
    count = [sum(p.numel() for p in m.refiner.aggregation.parameters()) for m in (model, linear)]
    assert count[0] == count[1] == 2 * 32**2
    out = model.eval()(batch())
    text, adapter = out.aux["plain_text"], model.refiner.aggregation
    by_hand = text + 0.2 * (text @ adapter.enter.weight.t()).clamp(min=0) @ adapter.leave.weight.t()
    torch.testing.assert_close(out.text, by_hand)
    assert simple(aggregation="AdapterAggregation")["cache"] == "NoCache"


# what cannot work is said when the run is built


def test_no_alignment_with_unequal_widths_is_refused():
    source = MethodOutput(
        text_width=32, local_width=48, num_patches=16, num_classes=5, provides=SOURCE.provides
    )
    with pytest.raises(ValueError, match="48 and 32; use @MlpAlignment"):
        refiner_of(source, alignment="NoAlignment")
    refiner_of(source)


def test_more_rows_than_patches_are_refused():
    with pytest.raises(ValueError, match="topk is 17, but the backbone has 16 patches"):
        coop(semantic=part("SemanticLoss", topk=17))
    coop(semantic=part("SemanticLoss", topk=16))
    coop(semantic=part("SemanticLoss", topk=17, local_rows=("cls",)))


def test_a_method_that_does_not_provide_what_is_read_is_refused():
    source = MethodOutput(
        text_width=32, local_width=32, num_patches=16, num_classes=5, provides=frozenset({"pooled"})
    )
    with pytest.raises(ValueError, match=r"\['attention', 'local'\]"):
        refiner_of(source)
    refiner_of(source, semantic="NoLoss", cache="NoCache")


def test_two_terms_of_one_name_are_refused():
    model = coop(**PARTS_ON)
    model.refiner.loss_terms = lambda: {"ce": model.refiner.semantic}
    with pytest.raises(ValueError, match=r"named \['ce'\]"):
        objective_of(model)


# cells that cannot differ are run once


def simple(**parts):
    references = {slot: Reference(name) for slot, name in (PARTS_ON | parts).items()}
    result = TextRefiner.simplify(references)
    return result if isinstance(result, Reference) else {k: v.name for k, v in result.items()}


def test_what_collapses():
    assert simple() == PARTS_ON
    assert simple(**PARTS_OFF) == Reference("NullRefiner")
    for slot in ("alignment", "cache", "semantic", "regularization"):
        assert simple(**{slot: PARTS_OFF[slot]}) == PARTS_ON | {slot: PARTS_OFF[slot]}
    nothing_refined = PARTS_OFF | {"semantic": "SemanticLoss", "alignment": "MlpAlignment"}
    assert simple(aggregation="NoAggregation") == nothing_refined
    assert simple(semantic="NoLoss", cache="NoCache")["alignment"] == "NoAlignment"
    assert simple(aggregation="NoAggregation", semantic="NoLoss") == Reference("NullRefiner")


@pytest.mark.parametrize(
    ("kept", "changed"),
    [
        ({"aggregation": "NoAggregation", "cache": "EmaCache"}, {"cache": "NoCache"}),
        ({"cache": "NoCache", "semantic": "NoLoss"}, {"alignment": "NoAlignment"}),
        ({"aggregation": "NoAggregation", "semantic": "NoLoss"}, PARTS_OFF),
    ],
)
def test_collapsed_cells_compute_the_same(kept, changed):
    no_reg = {"regularization": "NoLoss"}
    first, second = coop(**(kept | no_reg)), coop(**(kept | no_reg | changed))
    training(first)
    training(second)
    assert torch.equal(first.method.ctx, second.method.ctx)
    assert torch.equal(logits(first, batch()), logits(second, batch()))


def test_the_regularization_of_unrefined_texts_is_rounding():
    """The text is its own refinement: distance and gradient are nothing but rounding errors."""
    clip = tiny_clip().double()
    off = {"aggregation": "NoAggregation", "semantic": "NoLoss", "cache": "NoCache"}
    with_it, without = coop(clip, **off).double(), coop(clip, **PARTS_OFF).double()
    for _ in range(3):
        one_step(with_it, batch(dtype=torch.float64))
        one_step(without, batch(dtype=torch.float64))
    torch.testing.assert_close(with_it.method.ctx, without.method.ctx, atol=1e-12, rtol=1e-12)


def identity(name, *overrides):
    return read_config_file(config_path(name), list(overrides)).identity("experiment")


BASE = ("experiment.dataset=mosaic/vehicles",)


def test_a_weight_of_zero_is_the_cell_without_the_part():
    off = identity("text_refiner", *BASE, "TextRefiner.semantic=@NoLoss")
    assert identity("text_refiner", *BASE, "SemanticLoss.weight=0.0") == off
    assert identity("text_refiner", *BASE, "SemanticLoss.weight=0.5") != off
    off = identity("text_refiner", *BASE, "TextRefiner.regularization=@NoLoss")
    both = ("TextRefiner.regularization=@L1CosineRegularization",)
    weights = ("L1CosineRegularization.l1_weight=0.0", "L1CosineRegularization.cosine_weight=0.0")
    assert identity("text_refiner", *BASE, *both, *weights) == off
    assert identity("text_refiner", *BASE, *both, weights[0]) != off


def test_an_alpha_of_zero_is_the_cell_without_aggregation():
    off = identity("text_refiner", *BASE, "TextRefiner.aggregation=@NoAggregation")
    assert identity("text_refiner", *BASE, "LinearAggregation.alpha=0.0") == off
    unit = ("LinearAggregation.alpha=0.0", "LinearAggregation.renormalise=True")
    assert identity("text_refiner", *BASE, *unit) != off


def test_what_trains_nothing_is_one_cell_for_all_seeds_and_budgets():
    changes = ("experiment.seed=7", "experiment.epochs=3", "experiment.num_views=2")
    assert identity("zero_shot", *BASE) == identity("zero_shot", *BASE, *changes)
    assert identity("coop", *BASE) != identity("coop", *BASE, changes[0])
    all_off = [f"TextRefiner.{slot}=@{name}" for slot, name in PARTS_OFF.items()]
    assert identity("text_refiner", *BASE, *all_off) == identity("coop", *BASE)
    refined = ("experiment.refiner=@TextRefiner", *all_off, *BASE)
    assert identity("zero_shot", *refined) == identity("zero_shot", *BASE, *changes)


def test_parts_off_have_no_parameters():
    for name in set(PARTS_OFF.values()):
        needed = {"NoAlignment": (32, 32, Seeds(0)), "NoLoss": ()}.get(name, (32, Seeds(0)))
        assert list(lookup(name).cls(*needed).parameters()) == []


def test_one_seed_one_start_and_another_another():
    one, again, other = (learned_state(coop(seed=s, **PARTS_ON)) for s in (1, 1, 2))
    assert same(one, again)
    drawn = "refiner.aggregation.extractor.weight"
    assert not torch.equal(one[drawn], other[drawn])


def test_texts_conditioned_on_images_are_refined_likewise():
    """Texts (B, C, D): each row is refined as if it stood alone."""
    refiner = refiner_of().eval()
    text = F.normalize(images(3)[:, 0, :5], dim=-1)
    out = Forward(
        image=F.normalize(images(3)[:, 1, 0], dim=-1), text=text, logit_scale=torch.tensor(5.0)
    )
    refined = refiner(out).text
    assert refined.shape == (3, 5, 32)
    alone = torch.stack(
        [refiner(Forward(image=out.image, text=t, logit_scale=out.logit_scale)).text for t in text]
    )
    torch.testing.assert_close(refined, alone)
