"""Every constant of a set is used: a set that contradicts one, or has one more, has not passed."""

import copy
import functools
import json
import shutil

import pytest
from torch import nn

from experiments.verify.constants import Constants, NotReplayableError, RecordedSGD, recorded_sgd
from experiments.verify.vectors import SIZES, Vectors, set_norms
from experiments.verify.verify import CASES, verify_set
from tests.helpers.paths import GOLDEN

FULL = "kgcoop"  # the case on which the constants that all sets have are altered
NAMES_ONLY = {"set", "seed", "dataset"}  # what was recorded; the values are tensors and a template
OWN_TOWERS = {*SIZES, "student.design.language_depth"}  # no tower of the set has these
WITHOUT_EFFECT = {
    "promptkd": OWN_TOWERS,
    "textrefiner_kd": OWN_TOWERS,
    "promptsrc": {"templates_in_released_list"},
}


@functools.cache
def public(case):
    return json.loads((GOLDEN / f"public_{case}.json").read_text())


def leaves(constants, path=()):
    for name, value in constants.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def with_constant(folder, case, path, change):
    """A copy of a public set with one constant changed, or added."""
    raw = copy.deepcopy(public(case))
    *parents, name = path
    at = functools.reduce(lambda values, key: values[key], parents, raw["constants"])
    at[name] = change(at.get(name))
    weights = folder / f"public_{case}.safetensors"
    if not weights.exists():
        shutil.copy(GOLDEN / weights.name, weights)
    weights.with_suffix(".json").write_text(json.dumps(raw))
    return weights.with_suffix(".json")


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if isinstance(value, int) else value * 1.5
    return value[:-1] if isinstance(value, list) else f"{value} x"


def altered_constants(case):
    """The constants to alter: all, or those that the full case does not have."""
    common = set() if case == FULL else set(leaves(public(FULL)["constants"]))
    ignored = NAMES_ONLY | WITHOUT_EFFECT.get(case, set())
    found = leaves(public(case)["constants"])
    return [path for path in found if path not in common and ".".join(path) not in ignored]


@pytest.mark.parametrize("case", CASES)
def test_no_set_matches_that_contradicts_a_constant(tmp_path, case):
    for path in altered_constants(case):
        outcome = verify_set(with_constant(tmp_path, case, path, other))
        assert outcome.status == "failed", path
        assert outcome.problem or any(not d.ok for d in outcome.differences)


@pytest.mark.parametrize("case", ["coop", "tcp", "promptkd", "textrefiner_kd"])
@pytest.mark.parametrize("path", [("text_heads",), ("optimiser",), ("n_ctx",), ("head_dim",)])
def test_a_common_constant_is_used_by_other_cases_too(tmp_path, case, path):
    value = "SGD, lr 0.011, no momentum, no weight decay" if path == ("optimiser",) else 2**5
    if path == ("text_heads",) and case.endswith("kd"):
        path = ("teacher", "text_heads")
    outcome = verify_set(with_constant(tmp_path, case, path, lambda _: value))
    if path == ("n_ctx",) and case.endswith("kd"):  # these sets have no such constant
        assert outcome.status == "matched" and "n_ctx" in outcome.problem
    else:
        assert outcome.status == "failed"


@pytest.mark.parametrize("heads", [0, 5, -2, 2.5, "two"])
def test_heads_that_no_tower_can_have_fail_with_one_line(tmp_path, heads):
    path = with_constant(tmp_path, "coop", ("text_heads",), lambda _: heads)
    path.write_text(path.read_text().replace('"head_dim": 16, ', ""))
    outcome = verify_set(path)
    assert outcome.status == "failed" and outcome.problem and "\n" not in outcome.problem


@pytest.mark.parametrize("case", ["coop", "promptsrc", "promptkd"])
@pytest.mark.parametrize("value", [1e-3, "cosine", True, None, {"warmup": {"epochs": 1}}])
def test_a_constant_that_nobody_uses_is_named(tmp_path, case, value):
    outcome = verify_set(with_constant(tmp_path, case, ("surprise",), lambda _: value))
    assert outcome.status == "matched"  # every tensor does, and the constant is named
    assert outcome.problem.startswith("no replay of this case knows: surprise")
    assert outcome.differences and all(d.ok for d in outcome.differences)


def test_a_constant_that_nobody_uses_is_named_wherever_it_stands(tmp_path):
    path = ("teacher", "design", "prompt_scale")
    outcome = verify_set(with_constant(tmp_path, "promptkd", path, lambda _: 2))
    assert "teacher.design.prompt_scale = 2" in outcome.problem


@pytest.mark.parametrize("name", ["notes", "equations"])
@pytest.mark.parametrize("value", ["recorded twice", ["one", "two"]])
def test_a_text_that_explains_is_no_constant(tmp_path, name, value):
    assert not verify_set(with_constant(tmp_path, "coop", (name,), lambda _: value)).problem
    assert verify_set(with_constant(tmp_path, "coop", (name,), lambda _: 3)).problem


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("cosine_eps", 1e-8, "not replayable: constant cosine_eps = 1e-08, here 1e-07"),
        ("steps", 2, "not replayable: constant steps = 2, but its optimizer has the batches"),
        ("activation", "relu", "not replayable: constant activation = 'relu', here"),
        ("n_ctx", 16, "not replayable: constant n_ctx = 16, here 4"),
        ("patches", 9, "not replayable: constant patches = 9, here 16"),
    ],
)
def test_what_cannot_be_followed_is_told_with_both_values(tmp_path, name, value, problem):
    outcome = verify_set(with_constant(tmp_path, "kgcoop", (name,), lambda _: value))
    assert outcome.problem.startswith(problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SGD, lr 0.05", RecordedSGD(lr=0.05)),
        ("SGD, lr 5e-3, momentum 0.9, weight decay 5e-4", RecordedSGD(0.005, 0.9, 0.0005)),
        ("SGD, lr 0.1, no momentum, batches 1,0 in order", RecordedSGD(0.1, order=(1, 0))),
    ],
)
def test_the_optimizer_is_read(text, expected):
    assert recorded_sgd(Constants({"optimiser": text})) == expected
    assert recorded_sgd(Constants({"optimizer": text})) == expected


@pytest.mark.parametrize(
    "text", ["Adam, lr 0.01", "SGD", "SGD, lr 0.01, Nesterov", "SGD, lr 0.01, lr 0.1", "SGD, lr x"]
)
def test_an_optimizer_of_another_kind_is_refused(text):
    with pytest.raises(NotReplayableError, match="not replayable: constant optimiser = "):
        recorded_sgd(Constants({"optimiser": text}))


def test_norms_have_the_recorded_constants():
    layers = nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2))
    constants = Constants({"layernorm_eps": 0.1, "bn_eps": 0.2, "bn_momentum": 0.3})
    set_norms(Vectors("x", constants, {}), layers)
    assert (layers[0].eps, layers[1].eps, layers[1].momentum) == (0.1, 0.2, 0.3)
    assert not constants.unused()


def test_asking_for_a_constant_is_not_using_it():
    constants = Constants({"a": 1, "b": {"c": 2}})
    assert "a" in constants and "b" in constants and list(constants) == ["a", "b"]
    assert constants["b"] and constants.unused() == ["a = 1", "b.c = 2"]
