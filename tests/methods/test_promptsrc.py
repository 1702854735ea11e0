"""PromptSRC: recorded runs, the average over epochs, short trainings, and what it refuses."""

import json

import pytest
import torch

from core.clip.backbone import load_clip
from core.clip.templates import CLIP_TEMPLATES_60
from core.seeding import Seeds
from core.train.averaging import gaussian_weights
from core.types import Batch, ClassNames
from experiments.run.run import evaluate, reload, train
from experiments.run.runtime import Runtime
from methods.promptsrc import PromptSRC
from tests.helpers.preset_runs import few_test_images
from tests.helpers.two_step_runs import (
    OFF,
    ON,
    built,
    check_recorded,
    logits_of,
    run_text,
    trained_logits,
    two_steps,
)

CLASSES = ClassNames(names=("cat", "sea_anemone", "dragonfly"))
FEW = "PromptSRC.templates = ('a photo of a {}.', 'a bad photo of a {}.')"


@pytest.fixture(scope="module")
def clip():
    return load_clip("mosaic")


def build(clip, **settings):
    settings = {"templates": "dataset", **settings}
    return PromptSRC(clip, CLASSES, Seeds(1), **settings)


def pixels(clip, count=2):
    images = torch.randn(count, 3, *clip.spec.image_size, generator=Seeds(5).generator("images"))
    return Batch(labels=torch.arange(count), pixels=images)


def test_matches_the_recorded_run():
    check_recorded("public_promptsrc")


def test_a_run_trains_and_is_restored(tmp_path, cache_dir, monkeypatch):
    few_test_images(monkeypatch)
    text = two_steps("PromptSRC", f"{FEW}\nPromptSRC.depth_text = 2")
    record = run_text(text, tmp_path / "run", cache_dir)
    assert (record.status, record.regime) == ("finished", "inductive")
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    terms = ("ce", "text_l1", "image_l1", "logit_kl")
    assert log["loss"] == pytest.approx(sum(log[term] for term in terms), rel=1e-6)
    again = reload(tmp_path / "run", Runtime(cache_dir=cache_dir))
    scores = tuple(evaluate(again, again.dataset, part) for part in again.scored_subsets())
    restored = logits_of(again)
    assert scores == record.evaluations
    assert torch.equal(restored, trained_logits(text, cache_dir)[0])


def test_a_refiner_that_is_off_changes_no_bit(cache_dir):
    plain, state = trained_logits(two_steps("PromptSRC", FEW), cache_dir)
    off, other = trained_logits(two_steps("PromptSRC", FEW, refiner=OFF), cache_dir)
    assert torch.equal(plain, off)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_trains_under_a_refiner(cache_dir):
    assembly = built(two_steps("PromptSRC", FEW, refiner=ON), cache_dir)
    log = []
    train(assembly, log.append)
    assert set(log[-1]) >= {"text_l1", "semantic", "regularization"}


def test_the_average_is_the_weighted_sum_of_the_states_after_each_epoch(clip):
    method = build(clip, average_mean=2.0, average_std=1.0)
    parameters = [p for p in method.parameters() if p.requires_grad]
    states = []
    method.begin_training([], 3)
    for epoch in (1, 2, 3):
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(epoch)
        states.append([parameter.detach().clone() for parameter in parameters])
        method.end_epoch(epoch)
    assert all(torch.equal(p, s) for p, s in zip(parameters, states[-1], strict=True))
    method.end_training()
    weights = gaussian_weights(3, mean=2.0, std=1.0)
    for place, parameter in enumerate(parameters):
        expected = sum(w * state[place] for w, state in zip(weights, states, strict=True))
        torch.testing.assert_close(parameter.detach(), expected)


def test_without_average_the_last_state_stays(clip):
    method = build(clip, average="none")
    before = [p.detach().clone() for p in method.parameters() if p.requires_grad]
    method.begin_training([], 2)
    method.end_epoch(1)
    method.end_training()
    after = [p for p in method.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gaussian_weights():
    weights = gaussian_weights(20, mean=15, std=1)
    assert sum(weights) == pytest.approx(1)
    assert max(weights) == weights[14] == pytest.approx(0.399, abs=5e-4)
    assert sum(gaussian_weights(3, mean=1000, std=0.1)) == pytest.approx(1)
    late = gaussian_weights(4, mean=1, std=2, starts_at=3)
    assert late[:2] == (0, 0)
    assert sum(late) == pytest.approx(1)
    with pytest.raises(ValueError, match="averaging starts at epoch 30, but there are 20 epochs"):
        gaussian_weights(20, mean=15, std=1, starts_at=30)


def test_options_of_the_loss(clip):
    batch = pixels(clip)

    def terms(**settings):
        method = build(clip, **settings)
        out = method(batch)
        return {n: t(out, batch.labels, method.criterion) for n, t in method.loss_terms().items()}

    plain = terms()
    assert all(value.dim() == 0 for value in plain.values())
    torch.testing.assert_close(terms(kl_reduction="batchmean")["logit_kl"], 3 * plain["logit_kl"])
    torch.testing.assert_close(terms(text_weight=5.0)["text_l1"], plain["text_l1"] / 5)
    off = terms(text_weight=0.0, image_weight=0.0, kl_weight=0.0)
    assert not any(off[name].item() for name in ("text_l1", "image_l1", "logit_kl"))


def test_templates(clip):
    assert len(set(CLIP_TEMPLATES_60)) == 60
    method = build(clip)
    torch.testing.assert_close(
        method.template_mean(), clip.encode_texts(CLASSES.prompts()), rtol=1e-5, atol=1e-5
    )
    method.frozen_text()
    method.set_classes(ClassNames(names=("cat", "dog")))
    assert method.frozen_text().shape == (2, clip.spec.joint_width)
    two = ("a photo of a {}.", "a bad photo of a {}.")
    raw, unit = build(clip, templates=two), build(clip, templates=two, template_average="unit")
    assert not torch.allclose(raw.frozen_text(), unit.frozen_text(), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="exactly once"):
        build(clip, templates=("a photo",))


def test_evaluation_over_many_batches_runs_no_frozen_tower(clip):
    method = build(clip).eval()
    batch = pixels(clip)
    with torch.no_grad(), method.texts_once():
        out = method(batch)
    assert not out.aux
    with torch.no_grad():
        assert torch.equal(out.logits(), method(batch).logits())


def test_refuses_more_depth_than_blocks(clip):
    with pytest.raises(ValueError, match=r"PromptSRC.depth_text is 4, but .* has 3 blocks"):
        build(clip, depth_text=4)
