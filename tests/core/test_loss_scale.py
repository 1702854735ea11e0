"""Training in float16: no gradient is lost, and a step that overflows changes nothing."""

import pytest
import torch

import experiments.run.registered  # noqa: F401  (fills the registry)
from core.config import registered_classes
from core.seeding import Seeds
from core.train.fit import Budget, DivergedError, fit, train_step
from core.train.loss_scale import GROWS_AFTER, SMALLEST_SCALE, LossScale
from core.train.optimizers import SGD, Adam, AdamW, Constant
from tests.helpers.tiny_clip import (
    ListBatches,
    batch,
    make_method,
    make_model,
    objective_of,
    shared_tiny_clip,
    with_views,
)

OPTIMIZERS = (SGD, Adam, AdamW)


def half():
    return torch.autocast("cpu", dtype=torch.float16)


def step(model, optimizer, scale, context=None):
    return train_step(model, objective_of(model), optimizer, batch(6), context or half(), scale)


def state_of(model, optimizer):
    """All but the averages of batch norms, which the forward pass changes."""
    kept = [v for p in optimizer.state.values() for v in p.values() if isinstance(v, torch.Tensor)]
    state = model.state_dict().items()
    return [*(v for k, v in state if "running" not in k and "num_batches" not in k), *kept]


def copied(tensors):
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["CoOp", "ProGrad"])
def test_a_scale_is_exact(name, optimizer):
    """In full precision a power of two changes nothing, guides and their use included."""
    found = []
    for scale in (None, LossScale(2.0**7)):
        model = make_model(make_method(name, shared_tiny_clip())).train()
        made = optimizer(lr=0.1).build(model.trainable())
        for _ in range(2):
            terms = step(model, made, scale, torch.autocast("cpu", enabled=False))
        found.append([*state_of(model, made), *terms.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_small_gradients_are_kept():
    """1e-4 * 1e-5 is 0 in float16, and 1e-9 with a scale."""
    x = torch.full((1, 8), 1e-4)
    found = []
    for scale in (LossScale(1.0), LossScale()):
        weight = torch.nn.Parameter(torch.ones(8, 8))
        with half():
            loss = (1e-5 * (x @ weight)).float().sum()
        scale.scaled(loss).backward()
        assert scale.unscale([weight], {})
        found.append(float(weight.grad.mean()))
    assert found[0] == 0.0 and found[1] == pytest.approx(1e-9, rel=0.05)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_overflows_changes_nothing_but_the_scale(optimizer):
    model = make_model(make_method("ProGrad", shared_tiny_clip()), cache="EmaCache").train()
    made, scale = optimizer(lr=0.1).build(model.trainable()), LossScale(2.0**4)
    step(model, made, scale)
    before, counted = copied(state_of(model, made)), len(model.method._cosines)
    scale.value = 2.0**40
    terms = step(model, made, scale)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(model, made), strict=True))
    assert len(model.method._cosines) == counted
    assert all(bool(term.isfinite()) for term in terms.values())
    assert (scale.value, scale.skipped, scale.clean_steps) == (2.0**39, 1, 0)
    scale.value = 2.0**4
    step(model, made, scale)
    assert not all(torch.equal(a, b) for a, b in zip(before, state_of(model, made), strict=True))


def test_a_guide_that_overflows_skips_the_step():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    scale = LossScale(8.0)
    assert not scale.unscale([weight], {"guide": {"w": torch.tensor([1.0, torch.inf])}})
    assert scale.unscale([weight], {"guide": {"w": torch.ones(2)}})
    assert not scale.unscale([weight], {"guide": {"w": torch.tensor([1.0, torch.nan])}})
    assert scale.skipped == 2 and scale.value == 2.0


def test_a_guide_of_shared_gradients_is_divided_once():
    """The gradient of a sum is one tensor for both parameters, or one number seen many times."""
    one, other = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    scale = LossScale(8.0)
    for loss, expected in ((((one + other) ** 2).sum(), 4.0), ((one + other).sum(), 1.0)):
        found = torch.autograd.grad(scale.scaled(loss), [one, other])
        for gradient in scale.unscaled({"one": found[0], "other": found[1]}).values():
            assert torch.equal(gradient, torch.full((2, 3), expected))


def test_the_scale_grows_after_many_clean_steps():
    scale, weight = LossScale(4.0), torch.nn.Parameter(torch.ones(1))
    for count in range(1, 2 * GROWS_AFTER + 1):
        weight.grad = torch.ones(1)
        assert scale.unscale([weight], {})
        assert scale.value == 4.0 * 2 ** (count // GROWS_AFTER)
    other = LossScale()
    other.restore(scale.state())
    assert vars(other) == vars(scale)


@pytest.mark.parametrize("name", [entry.name for entry in registered_classes("method")])
def test_every_method_has_the_gradient_of_full_precision(name):
    found = []
    for context, scale in ((half(), LossScale()), (torch.autocast("cpu", enabled=False), None)):
        model = make_model(make_method(name, shared_tiny_clip()), cache="EmaCache").train()
        data = with_views(6, 1)
        model.method.begin_training([data], 1)
        optimizer = torch.optim.SGD(model.trainable(), lr=0.0)
        for _ in range(3):  # PromptKD multiplies its loss by 1000: a first step may be skipped
            terms = train_step(model, objective_of(model), optimizer, data, context, scale)
            assert all(bool(term.isfinite()) for term in terms.values())
            if scale is None or scale.clean_steps:
                break
        grads = [p.grad.flatten() for p in model.trainable() if p.grad is not None]
        assert all(grad.dtype == torch.float32 for grad in grads)
        found.append(torch.cat(grads))
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.99


def trained(scale, epochs=3):
    model = make_model(make_method("CoOp", shared_tiny_clip()))
    budget = Budget(epochs=epochs, optimizer=SGD(lr=0.1), schedule=Constant())
    log = []
    batches = ListBatches([batch(6, seed=seed) for seed in (1, 2)])
    settings = {"log": log.append, "autocast": half(), "scale": scale}
    return fit(model, objective_of(model), batches, budget, Seeds(0), **settings), log


def test_skipped_steps_are_counted_and_no_divergence():
    result, log = trained(LossScale(2.0**22))
    assert 0 < result.skipped_steps < 6 and len(log) == 3
    assert trained(LossScale())[0].skipped_steps == 0


def test_gradients_that_no_scale_makes_finite_are_divergence():
    with pytest.raises(DivergedError, match="at any loss scale"):
        trained(_Broken(SMALLEST_SCALE))


def test_a_training_without_any_step_is_divergence():
    with pytest.raises(DivergedError, match=r"in epoch 3 .* 6 steps were skipped"):
        trained(_Broken())


class _Broken(LossScale):
    """Multiplies by what no number bears."""

    def scaled(self, loss):
        return loss * torch.inf
