"""Classes with weights of their own: which row scores which name."""

from dataclasses import replace

import pytest
import torch

from core.config import registered_classes
from core.types import ClassNames
from methods.base import ClosedSetMethod
from tests.helpers.tiny_clip import (
    CLASSES,
    batch,
    logits,
    make_method,
    make_model,
    shared_tiny_clip,
    training,
)

CLOSED = [e.name for e in registered_classes("method") if issubclass(e.cls, ClosedSetMethod)]
SPECIFIC = [e.name for e in registered_classes("method") if "class_specific" in e.parameters]
CASES = [*((name, {}) for name in CLOSED), *((name, {"class_specific": True}) for name in SPECIFIC)]

TWICE = ClassNames(names=("missile", "tram", "missile", "oak"))


def texts_of(method, *names):
    method.set_classes(ClassNames(names=names))
    return method.class_texts()


@pytest.fixture
def method():
    """Weights of class c point along axis c."""
    made = make_method("LinearProbe", shared_tiny_clip(), classes=TWICE)
    with torch.no_grad():
        made.weight.copy_(3 * torch.eye(32)[:4])
    return made


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("oak", "missile", "tram", "missile"), [3, 0, 1, 2]),
        (("missile", "oak"), [0, 3]),
        (("tram",), [1]),
        (TWICE.names, [0, 1, 2, 3]),
    ],
)
def test_equal_names_are_taken_in_their_order(method, names, rows):
    assert torch.equal(texts_of(method, *names), torch.eye(32)[rows])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("missile", "missile", "missile"), "'missile' are not among"),
        (("tram", "tram"), "'tram' are not among"),
        (("b", "tram", "a", "d", "c"), "'a', 'b', 'c', ... are not among its 4 classes"),
        (("Oak",), "'Oak' are not among"),
    ],
)
def test_a_name_that_was_not_trained_is_refused_and_nothing_changes(method, names, told):
    before = texts_of(method, "oak", "tram")
    with pytest.raises(ValueError, match="other classes") as caught:
        method.set_classes(ClassNames(names=names))
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(method.class_texts(), before) and len(method.classes) == 2


def test_these_are_the_closed_sets():
    assert set(CLOSED) >= {
        "LinearProbe", "NearestClassMean", "TaskRes", "TipAdapter", "TipAdapterF",
    }  # fmt: skip
    assert set(SPECIFIC) >= {"CoOp", "KgCoOp", "ProGrad"}


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("order", [(3, 1), (4, 3, 2, 1, 0), (2,)])
def test_some_of_the_classes_in_any_order_have_the_logits_that_they_have_among_all(
    name, settings, order
):
    model = make_model(make_method(name, shared_tiny_clip(), **settings))
    training(model)
    whole = logits(model, batch())
    some = replace(CLASSES, names=tuple(CLASSES.names[i] for i in order))
    model.set_classes(some)
    assert len(model.method.classes) == model.method.output().num_classes == len(order)
    torch.testing.assert_close(logits(model, batch()), whole[:, list(order)])
    with pytest.raises(ValueError, match="other classes") as caught:
        model.set_classes(replace(CLASSES, names=(*some.names, "tram")))
    assert "'tram'" in str(caught.value) and model.method.classes == some
    model.set_classes(CLASSES)
    assert torch.equal(logits(model, batch()), whole)
