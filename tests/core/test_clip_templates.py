"""Template ensembles: the published lists, by name or as given."""

import hashlib

import pytest

from core.clip.templates import ENSEMBLES, templates_of
from core.config import config_from_text
from tests.helpers.tiny_clip import make_method, shared_tiny_clip


@pytest.mark.parametrize(("name", "number"), [("clip60", 60), ("imagenet7", 7), ("imagenet80", 80)])
def test_an_ensemble_has_as_many_different_templates_as_its_name_says(name, number):
    templates = templates_of(name)
    assert len(templates) == len(set(templates)) == number
    assert all(t.count("{}") == 1 for t in templates)


def test_the_lists_are_the_published_ones():
    """Ends of the list of 80, and what the others have of it."""
    eighty, sixty = ENSEMBLES["imagenet80"], ENSEMBLES["clip60"]
    assert (eighty[0], eighty[39], eighty[79]) == (
        "a bad photo of a {}.", "a photo of a {}.", "a tattoo of the {}.",
    )  # fmt: skip
    assert (sixty[0], sixty[1], sixty[59]) == (
        "a photo of a {}.", "a bad photo of a {}.", "itap of the {}.",
    )  # fmt: skip
    assert set(ENSEMBLES["imagenet7"]) < set(eighty) and set(sixty) < set(eighty)


def test_all_lists_together_are_unchanged():
    text = "\n".join(template for name in sorted(ENSEMBLES) for template in ENSEMBLES[name])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "c6f75b5a8dfd031f"


@pytest.mark.parametrize("cls", ["ZeroShot", "TipAdapter", "TaskRes", "LinearProbe", "ClipAdapter"])
def test_a_name_is_the_same_run_as_its_templates(cls):
    named, spelled, own = (
        config_from_text(f"{cls}.templates = {value!r}").identity(cls)
        for value in ("imagenet7", ENSEMBLES["imagenet7"], ())
    )
    assert named == spelled != own


def test_a_zero_shot_teacher_takes_a_name_too():
    named, spelled = (
        config_from_text(f"ZeroShotTeacher.templates = {value!r}").identity("ZeroShotTeacher")
        for value in ("clip60", ENSEMBLES["clip60"])
    )
    assert named == spelled


@pytest.mark.parametrize("value", ["imagenet 80", "Imagenet80", "dataset", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(value):
    with pytest.raises(ValueError, match="imagenet80") as caught:
        config_from_text(f"ZeroShot.templates = {value!r}")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"ensembles are .*imagenet80.*, got"):
        make_method("ZeroShot", shared_tiny_clip(), templates=value)
