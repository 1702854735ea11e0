"""Building from a Config: factories, what they refuse, several configurations at once."""

import copy
import functools
import pickle
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest

from core.config import (
    Configurable,
    Factory,
    Part,
    build,
    lookup,
    parameter_help,
    register,
    registered_classes,
)
from tests.helpers.toy_configs import (  # noqa: F401
    FULL,
    ToyEmaCache,
    ToyExperiment,
    ToyMix,
    ToyRefiner,
    load,
    toys,
)

pytestmark = pytest.mark.usefixtures("toys")


def test_the_root_and_all_below_it_are_built():
    run = build(load(FULL), "toy")
    assert isinstance(run, ToyExperiment) and run.lr == 0.01
    refiner = run.refiner(5)
    assert type(refiner) is ToyRefiner
    assert refiner.cache.settings == (5, 16, 0.9, "hard")
    assert refiner.mixing.hidden == 4


def test_runtime_objects_are_passed_on():
    config = load(FULL)
    assert build(config, "ToyEmaCache", 3).settings == (3, 16, 0.9, "hard")
    assert build(config, "ToyEmaCache", width=4).settings[0] == 4


def test_settings_come_from_the_configuration_alone():
    config = load(FULL)
    with pytest.raises(TypeError, match=r"^decay of ToyEmaCache can only be set by bindings"):
        build(config, "ToyEmaCache", 3, decay=0.5)
    cache = build(config, "toy").refiner.keywords["cache"]
    with pytest.raises(TypeError, match=r"^decay, num_slots of ToyEmaCache can only be set by"):
        cache(3, num_slots=1, decay=0.5)


class ToyStubborn(Configurable):
    """Passes a setting of its part by hand."""

    def __init__(self, *, cache: Annotated[Callable[..., Any], Part("toy_cache")]) -> None:
        self.cache = cache(1, num_slots=3)


@pytest.mark.parametrize("bound", ["", "ToyEmaCache.num_slots = 4\n"])
def test_an_owner_cannot_set_what_belongs_to_the_configuration(bound):
    register("toy")(ToyStubborn)
    config = load(f"ToyStubborn.cache = @ToyEmaCache\n{bound}")
    with pytest.raises(TypeError, match=r"^num_slots of ToyEmaCache can only be set by bindings"):
        build(config, "ToyStubborn")


def test_references_in_containers_become_factories():
    config = load("toy_grid.variants = {'A': {'x': [@ToyMix, 1]}}\nToyMix.hidden = 9")
    (variant,) = build(config, "toy_grid").variants.values()
    mix, one = variant["x"]
    assert mix.func is ToyMix and mix().hidden == 9 and one == 1
    variant["x"] = None
    assert build(config, "toy_grid").variants["A"]["x"] is not None, "the configuration is a value"


def test_a_factory_can_be_copied_and_sent_to_another_process():
    factory = build(load(FULL), "toy").refiner
    for again in (pickle.loads(pickle.dumps(factory)), copy.deepcopy(factory)):
        assert type(again) is Factory and isinstance(again, functools.partial)
        assert again(5).cache.settings == (5, 16, 0.9, "hard")
        with pytest.raises(TypeError, match="weight of ToyRefiner"):
            again(5, weight=2)


def test_two_configurations_are_alive_at_once():
    one, other = load(FULL), load(FULL, "ToyEmaCache.num_slots=32", "toy.lr=1")
    first = build(one, "toy")
    second = build(other, "toy")
    assert (first.lr, second.lr) == (0.01, 1.0)
    assert second.refiner(5).cache.settings[1] == 32
    assert first.refiner(5).cache.settings[1] == 16, "its own settings, whatever was built since"
    assert ToyEmaCache(5).settings[1] == 8, "a call from Python is not configured"


def test_threads_build_side_by_side():
    both = threading.Barrier(2)
    seen: dict[int, set[int]] = {}

    def keep_building(num_slots: int) -> None:
        config = load_once[num_slots]
        both.wait()
        for _ in range(200):
            settings = build(config, "toy").refiner(5).cache.settings
            seen.setdefault(num_slots, set()).add(settings[1])

    load_once = {n: load(FULL, f"ToyEmaCache.num_slots={n}") for n in (16, 32)}
    threads = [threading.Thread(target=keep_building, args=(n,)) for n in load_once]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {16: {16}, 32: {32}}


def test_what_is_missing_is_said_before_anything_is_built():
    config = load(FULL).without(["ToyRefiner.mixing"])
    with pytest.raises(ValueError, match=r"^ToyRefiner.mixing has no value"):
        build(config, "toy")
    with pytest.raises(ValueError, match="there is no class 'nothing'"):
        build(config, "nothing")


def test_errors_of_a_constructor_are_its_own():
    unlucky = load(FULL, "ToyEmaCache.num_slots=13")
    with pytest.raises(KeyError) as caught:
        build(unlucky, "toy").refiner(5)
    assert type(caught.value) is KeyError and str(caught.value) == "'unlucky'"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'width'"):
        build(load(FULL), "toy").refiner()


def test_a_class_cannot_be_a_part_of_itself():
    class ToyLoop(Configurable):
        def __init__(self, *, inner: Annotated[Any, Part("toy_loop")]) -> None: ...

    register("toy_loop")(ToyLoop)
    with pytest.raises(
        ValueError, match=r"^ToyLoop -> ToyLoop: a class cannot be a part of itself"
    ):
        build(load("ToyLoop.inner = @ToyLoop"), "ToyLoop")


def test_parameter_help_speaks_of_registered_classes():
    assert parameter_help(lookup("ToyRefiner")) == [
        ("cache", "@toy_cache", "required"),
        ("mixing", "@toy_mixing", "required"),
        ("weight", "float", "1.0"),
    ]
    names = [entry.name for entry in registered_classes("toy_cache")]
    assert names == ["ToyEmaCache", "ToyNoCache"]
