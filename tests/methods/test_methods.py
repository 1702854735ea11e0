"""The contract of every registered base method, whoever wrote it."""

import pytest
import torch

from core.clip.prompts import ContextPrompts
from core.config import registered_classes
from core.types import ClassNames
from experiments.contracts.methods import (
    MethodCase,
    check_a_closed_set_scores_some_of_its_classes_in_any_order,
    check_a_copy_learns_on_its_own,
    check_a_prediction_depends_on_its_own_image_alone,
    check_cached_features_say_what_pixels_say,
    check_can_be_inspected,
    check_counts_equal_the_argmax_of_every_image,
    check_evaluation_changes_no_state_and_repeats,
    check_names_its_source,
    check_one_small_step_lowers_the_loss,
    check_other_classes_and_back,
    check_output,
    check_same_seed_same_start,
    check_training_leaves_the_backbone_alone,
    check_what_was_learned_survives_a_file,
)
from tests.helpers.tiny_clip import (
    CLASSES,
    OTHER_CLASSES,
    batch,
    make_method,
    shared_tiny_clip,
)

METHODS = [entry.name for entry in registered_classes("method")]
CASES = [
    *((name, {}) for name in METHODS),
    ("CoOp", {"ctx_init": ""}),
    ("CoOp", {"class_position": "middle"}),
    ("CoOp", {"class_position": "front", "class_specific": True}),
    ("CoOp", {"ctx_init": "", "num_ctx": 3, "class_specific": True}),
    ("ZeroShot", {"templates": ("a {}.", "no {} at all")}),
    ("ZeroShot", {"templates": "imagenet7"}),
    ("LinearProbe", {"init": "random"}),
    ("LinearProbe", {"constraint": "class_adaptive"}),
]
each_method = pytest.mark.parametrize("name", METHODS)
each_case = pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=[f"{n}-{'-'.join(map(str, s.values()))}" for n, s in CASES]
)


def test_the_registry_holds_the_methods_of_this_suite():
    assert {"CoOp", "ZeroShot"} <= set(METHODS)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_has_the_promised_shapes_norms_and_type(name, settings, dtype):
    check_output(MethodCase(name, settings), dtype)


@each_case
def test_same_seed_same_start(name, settings):
    check_same_seed_same_start(MethodCase(name, settings))


@pytest.mark.parametrize("name", METHODS)
def test_can_be_inspected(name):
    check_can_be_inspected(MethodCase(name))


@each_case
def test_training_leaves_the_backbone_alone(name, settings):
    check_training_leaves_the_backbone_alone(MethodCase(name, settings))


@each_case
def test_one_small_step_lowers_the_loss(name, settings):
    check_one_small_step_lowers_the_loss(MethodCase(name, settings))


@each_case
def test_a_prediction_depends_on_its_own_image_alone(name, settings):
    check_a_prediction_depends_on_its_own_image_alone(MethodCase(name, settings))


@each_case
def test_evaluation_changes_no_state_and_repeats(name, settings):
    check_evaluation_changes_no_state_and_repeats(MethodCase(name, settings))


@each_case
def test_other_classes_and_back(name, settings):
    check_other_classes_and_back(MethodCase(name, settings))


@each_case
def test_a_closed_set_scores_some_of_its_classes(name, settings):
    check_a_closed_set_scores_some_of_its_classes_in_any_order(MethodCase(name, settings))


@each_case
def test_what_was_learned_survives_a_file(name, settings):
    check_what_was_learned_survives_a_file(MethodCase(name, settings))


@each_case
def test_a_copy_learns_on_its_own(name, settings):
    check_a_copy_learns_on_its_own(MethodCase(name, settings))


SEES_FEATURES = [
    name for name in METHODS if make_method(name, shared_tiny_clip()).image_input != "pixels"
]


@pytest.mark.parametrize("name", SEES_FEATURES)
def test_cached_features_say_what_pixels_say(name):
    check_cached_features_say_what_pixels_say(MethodCase(name))


@each_method
def test_counting_right_answers_equals_the_argmax_of_every_image(name):
    check_counts_equal_the_argmax_of_every_image(MethodCase(name))


@pytest.mark.parametrize("entry", registered_classes("method"), ids=lambda entry: entry.name)
def test_every_method_names_its_source(entry):
    check_names_its_source(MethodCase(entry.name))


def test_words_count_as_context_vectors_and_further_pieces_stay_as_text():
    """As released: "axolotl photo" is two words of five pieces; two vectors are learned."""
    clip = shared_tiny_clip()
    pieces = clip.tokenizer.encode("axolotl photo")
    method = make_method("CoOp", clip, ctx_init="axolotl photo")
    assert len(pieces) == 5 and method.ctx.shape == (2, 32)
    assert torch.equal(method.ctx, clip.embed_tokens(torch.tensor(pieces[:2])))
    prompt = method.prompts.assemble(method.ctx)[0]
    assert torch.equal(prompt[3:6], clip.embed_tokens(torch.tensor(pieces[2:])))


def test_the_untrained_context_of_words_is_the_zero_shot_prompt():
    clip = shared_tiny_clip()
    learned = make_method("CoOp", clip, ctx_init="a photo of a")
    fixed = make_method("ZeroShot", clip)
    torch.testing.assert_close(learned(batch()).text, fixed(batch()).text, atol=1e-5, rtol=1e-5)


def test_ensemble_is_the_unit_mean_of_unit_texts():
    clip = shared_tiny_clip()
    templates = ("a photo of a {}.", "one {}")
    single = [make_method("ZeroShot", clip, templates=(t,)).class_texts() for t in templates]
    mean = (single[0] + single[1]) / 2
    both = make_method("ZeroShot", clip, templates=templates).class_texts()
    torch.testing.assert_close(both, mean / mean.norm(dim=-1, keepdim=True))


def test_a_template_without_one_slot_for_the_name_is_refused():
    with pytest.raises(ValueError, match="exactly once"):
        make_method("ZeroShot", shared_tiny_clip(), templates=("a photo.",))


def test_class_specific_context_says_why_it_cannot_score_other_classes():
    method = make_method("CoOp", shared_tiny_clip(), class_specific=True)
    with pytest.raises(ValueError, match="class_specific = False"):
        method.set_classes(OTHER_CLASSES)
    assert method.classes == CLASSES


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_prompts_hold_context_and_name_in_the_published_order(position):
    clip = shared_tiny_clip()
    classes = ClassNames(names=("cat", "hot air balloon"))
    prompts = ContextPrompts(clip, classes, placeholder="X X X", position=position)
    ctx = torch.arange(3.0)[:, None].expand(3, 32) + 1000
    made = prompts.assemble(ctx)
    for row, name in zip(made, classes.names, strict=True):
        ids = clip.tokenizer.encode(name)
        words = list(clip.embed_tokens(torch.tensor(ids)))
        dot = clip.embed_tokens(torch.tensor(clip.tokenizer.encode(".")))[0]
        context = list(ctx)
        body = {
            "end": [*context, *words],
            "middle": [context[0], *words, *context[1:]],
            "front": [*words, *context],
        }[position]
        sot, eot = clip.tokenizer.sot_id, clip.tokenizer.eot_id
        start, end = clip.embed_tokens(torch.tensor([sot, eot]))
        torch.testing.assert_close(row[: len(body) + 3], torch.stack([start, *body, dot, end]))


def test_a_name_too_long_for_the_context_is_refused_when_the_run_is_built():
    with pytest.raises(ValueError, match="shorten the class name"):
        make_method("CoOp", shared_tiny_clip(), classes=ClassNames(names=("cat " * 80, "dog")))
