"""Building from a Config: sessions, their guards, and the errors that come out of them."""

import threading
from collections.abc import Callable
from typing import Annotated, Any

import gin
import pytest

from core.config.config import parameter_help, session
from core.config.registry import Part, entries, lookup, register
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


def test_a_session_builds_the_root_and_all_below_it():
    with session(load(FULL)) as make:
        run = make("toy")
        assert isinstance(run, ToyExperiment) and run.lr == 0.01
        refiner = run.refiner(5)
    assert type(refiner) is ToyRefiner
    assert refiner.cache.settings == (5, 16, 0.9, "hard")
    assert refiner.mixing.hidden == 4


def test_a_session_takes_runtime_objects():
    with session(load(FULL)) as make:
        assert make("ToyEmaCache", 3).settings[0] == 3
        assert make("ToyEmaCache", width=4).settings[0] == 4
        with pytest.raises(TypeError, match=r"^decay of ToyEmaCache can only be set by bindings"):
            make("ToyEmaCache", 3, decay=0.5)


def test_references_in_containers_arrive_configured():
    text = "toy_grid.variants = {'A': {'x': [@ToyMix]}}\nToyMix.hidden = 9"
    with session(load(text)) as make:
        ((mix,),) = (list(variant["x"]) for variant in make("toy_grid").variants.values())
        assert issubclass(mix, ToyMix) and mix().hidden == 9


def test_sessions_leave_gin_clear_and_python_calls_alone():
    with session(load(FULL)):
        assert gin.config_is_locked()
        assert ToyEmaCache(1).settings == (1, 8, 0.9, "hard")
    assert not gin.config_is_locked() and gin.config_str().strip() == ""
    with pytest.raises(KeyError), session(load(FULL)):
        raise KeyError("x")
    assert not gin.config_is_locked() and gin.config_str().strip() == ""
    with session(load(FULL, "toy.lr=3")) as make:
        assert make("toy").lr == 3.0


def test_a_session_is_over_after_its_block():
    with session(load(FULL)) as make:
        pass
    with pytest.raises(RuntimeError, match="session is over: build inside its with block"):
        make("toy")


def test_a_reference_that_outlives_its_session_builds_nothing():
    with session(load(FULL)) as make:
        refiner = make("toy").refiner
    with pytest.raises(RuntimeError, match=r"^@ToyRefiner is called outside a configuration sess"):
        refiner(5)


def test_what_is_missing_is_said_before_gin_says_it():
    config = load(FULL).without(["ToyRefiner.mixing"])
    with session(config) as make, pytest.raises(ValueError, match=r"^ToyRefiner.mixing has no va"):
        make("toy")
    with session(config) as make, pytest.raises(ValueError, match="there is no class 'nothing'"):
        make("nothing")


def test_errors_of_a_constructor_keep_type_and_message():
    unlucky = load(FULL, "ToyEmaCache.num_slots=13")
    with pytest.raises(KeyError) as caught, session(unlucky) as make:
        make("toy").refiner(5)
    assert type(caught.value) is KeyError and str(caught.value) == "'unlucky'"
    with session(unlucky) as make, pytest.raises(KeyError) as caught:
        make("ToyRefiner", 5)
    assert type(caught.value) is KeyError and str(caught.value) == "'unlucky'"
    with pytest.raises(TypeError) as caught, session(load(FULL)) as make:
        make("toy").refiner()
    assert "\n" not in str(caught.value) and "missing 1 required" in str(caught.value)


def test_the_cause_of_an_error_survives():
    class ToyCauses:
        def __init__(self) -> None:
            try:
                raise KeyError("cause")
            except KeyError as error:
                raise ValueError("effect") from error

    register("toy")(ToyCauses)
    with pytest.raises(ValueError, match=r"^effect$") as caught, session(load("")) as make:
        make("ToyCauses")
    assert isinstance(caught.value.__cause__, KeyError)


class ToyStubborn:
    """Passes a setting of its part by hand."""

    def __init__(self, *, cache: Annotated[Callable[..., Any], Part("toy_cache")]) -> None:
        self.cache = cache(1, num_slots=3)


def test_a_binding_that_the_caller_overrides_is_an_error():
    register("toy")(ToyStubborn)
    text = "ToyStubborn.cache = @ToyEmaCache\n"
    with session(load(text)) as make:
        make("ToyStubborn")
    bound = load(text + "ToyEmaCache.num_slots = 4\n")
    with (
        pytest.raises(RuntimeError, match=r"^a.gin:2: ToyEmaCache.num_slots had no effect"),
        session(bound) as make,
    ):
        make("ToyStubborn")
    with pytest.raises(ZeroDivisionError), session(bound) as make:  # the first error wins
        _ = make("ToyStubborn"), 1 / 0


def test_sessions_do_not_nest_or_cross_threads():
    config = load(FULL)
    caught: list[Exception] = []

    def elsewhere(action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            caught.append(error)

    def open_session() -> None:
        with session(config):
            pass

    with session(config) as make:
        with pytest.raises(RuntimeError, match="a configuration session is open already"):
            open_session()
        for action in (open_session, lambda: make("toy")):
            thread = threading.Thread(target=elsewhere, args=(action,))
            thread.start()
            thread.join()
        assert make("toy").lr == 0.01, "the refused ones left the open session alone"
    assert [type(error) for error in caught] == [RuntimeError, RuntimeError]
    assert "is open already" in str(caught[0]) and "belongs to one thread" in str(caught[1])
    open_session()


def test_parameter_help_speaks_of_registered_classes():
    assert parameter_help(lookup("ToyRefiner")) == [
        ("cache", "@toy_cache", "required"),
        ("mixing", "@toy_mixing", "required"),
        ("weight", "float", "1.0"),
    ]
    assert [entry.name for entry in entries("toy_cache")] == ["ToyEmaCache", "ToyNoCache"]
