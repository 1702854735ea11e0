"""Classes with weights of their own: which row scores which name."""

import pytest
import torch

from core.types import ClassNames
from tests.helpers.tiny_clip import make_method, shared_tiny_clip

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
