"""What a Config answers without building anything: text, closure, unused bindings, identity."""

import copy
import pickle
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Configurable, Part, Reference, Value, config_from_text, register
from tests.helpers.toy_configs import FULL, load, toys, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("toys")


def test_text_is_sorted_and_reads_back():
    config = load(FULL, "toy.name='a\\'b\"\\n'", "toy.lr=1e-7")
    text = config.text()
    assert text.splitlines() == sorted(text.splitlines())
    assert "toy.lr = 1e-07\n" in text
    again = config_from_text(text)
    assert again == config and again.text() == text
    assert again.sources["ToyRefiner.cache"] == "configuration:2"


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
    | st.text()
    | st.sampled_from([Reference("ToyMix"), Reference("ToyOff")])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), st.dictionaries(st.text(), values, max_size=4), max_size=3))
def test_every_value_survives_the_text(variants):
    config = config_from_text("").with_bindings({"toy_grid.variants": variants}, "test")
    again = config_from_text(config.text())
    assert again == config
    assert again.text() == config.text()


def test_a_resolved_text_holds_bindings_only_and_is_checked():
    with pytest.raises(
        ValueError, match=r"^configuration:1: a resolved configuration must not have an inc"
    ):
        config_from_text("include 'a.gin'\n")
    with pytest.raises(
        ValueError, match=r"^w:1: a resolved configuration must not have an include or import"
    ):
        config_from_text("import core.config\n", "w")
    with pytest.raises(ValueError, match=r"^configuration:1: toy.lr must be float > 0, got -1"):
        config_from_text("toy.lr = -1\n")


def test_with_bindings_checks_and_normalizes_and_leaves_the_original_alone():
    config = load(FULL)
    changed = config.with_bindings({"toy.lr": 1, "toy.seeds": [4]}, "variant A")
    assert changed.bindings["toy.lr"] == 1.0 and type(changed.bindings["toy.lr"]) is float
    assert changed.bindings["toy.seeds"] == (4,)
    assert changed.sources["toy.lr"] == "variant A"
    assert config.bindings["toy.lr"] == 0.01 and "toy.seeds" not in config.bindings
    with pytest.raises(ValueError, match=r"^variant A: toy.lr must be float > 0, got -1$"):
        config.with_bindings({"toy.lr": -1}, "variant A")
    with pytest.raises(ValueError, match=r"^variant A: x: there is no class ''"):
        config.with_bindings({"x": 1}, "variant A")


def test_without_drops_bindings():
    config = load(FULL).without(["toy.lr", "not.there"])
    assert "toy.lr" not in config.bindings and "toy.lr" not in config.sources
    assert len(config.bindings) == 4


def test_configs_are_immutable_comparable_and_portable():
    config = load(FULL)
    with pytest.raises(TypeError):
        config.bindings["toy.lr"] = 3  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.bindings = {}  # type: ignore[misc]
    assert config == load("\n" + FULL), "where a binding stands does not matter"
    assert config != config.without(["toy.lr"])
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)


def test_operative_is_the_closure_with_defaults():
    operative = load(FULL).operative("toy")
    assert operative == {
        "ToyEmaCache.decay": 0.9,
        "ToyEmaCache.mode": "hard",
        "ToyEmaCache.num_slots": 16,
        "ToyMix.hidden": 4,
        "ToyRefiner.cache": Reference("ToyEmaCache"),
        "ToyRefiner.mixing": Reference("ToyMix"),
        "ToyRefiner.weight": 1.0,
        "toy.lr": 0.01,
        "toy.name": "plain",
        "toy.refiner": Reference("ToyRefiner"),
        "toy.root": None,
        "toy.runtime": "unset",
        "toy.seeds": (1,),
    }
    assert list(operative) == sorted(operative)


def test_operative_follows_references_inside_containers():
    config = load("toy_grid.variants = {'A': {'ToyRefiner.cache': @ToyEmaCache}}")
    assert "ToyEmaCache.decay" in config.operative("toy_grid")


def test_a_parameter_without_value_is_named_with_its_choices():
    config = load(FULL).without(["ToyRefiner.cache"])
    with pytest.raises(ValueError) as caught:
        config.operative("toy")
    assert str(caught.value) == (
        "ToyRefiner.cache has no value (ToyRefiner is plugged in by toy.refiner); "
        "it must be @toy_cache; choose one of @ToyEmaCache, @ToyNoCache; "
        "bind it in a file or by --set ToyRefiner.cache=..."
    )
    with pytest.raises(ValueError, match=r"^toy.refiner has no value; it must be @toy_refiner; ch"):
        config_from_text("").operative("toy")
    with pytest.raises(ValueError, match="there is no class 'toyy'; did you mean 'toy'"):
        config.operative("toyy")


def test_unused_bindings_are_named_with_place_and_reason():
    config = load(FULL + "toy_grid.variants = {}\n")
    assert config.unused(["toy", "toy_grid"]) == ()
    config.check_used(["toy", "toy_grid"])
    assert config.unused(["toy"]) == ("toy_grid.variants",)
    with pytest.raises(ValueError, match=r"a.gin:7: toy_grid.variants: toy_grid is not plugged in"):
        config.check_used(["toy"])

    off = load(FULL, "ToyRefiner.cache=@ToyNoCache")
    assert off.unused(["toy"]) == ("ToyEmaCache.num_slots",)
    with pytest.raises(ValueError) as caught:
        off.check_used(["toy"])
    assert str(caught.value) == (
        "a.gin:6: ToyEmaCache.num_slots: ToyEmaCache is not plugged in "
        "(ToyRefiner.cache = @ToyNoCache); remove bindings without effect, or use the class"
    )
    null = load(FULL, "toy.refiner=@ToyNullRefiner")
    with pytest.raises(ValueError) as caught:
        null.check_used(["toy"])
    assert str(caught.value) == (
        "a.gin:6: ToyEmaCache.num_slots: ToyEmaCache belongs in ToyRefiner.cache, but ToyRefiner "
        "is not plugged in (toy.refiner = @ToyNullRefiner); "
        "a.gin:4: ToyRefiner.cache: ToyRefiner is not plugged in (toy.refiner = @ToyNullRefiner); "
        "a.gin:5: ToyRefiner.mixing: ToyRefiner is not plugged in (toy.refiner = @ToyNullRefiner)"
        "; remove bindings without effect, or use the class"
    )


def test_a_class_named_only_in_a_grid_is_used():
    config = load(
        FULL + "toy_grid.variants = {'A': {'ToyRefiner.cache': @ToyEmaCache}}\n",
        "ToyRefiner.cache=@ToyNoCache",
    )
    config.check_used(["toy", "toy_grid"])


def test_unused_needs_no_complete_configuration():
    assert load("toy.lr = 1\nToyMix.hidden = 2").unused(["toy"]) == ("ToyMix.hidden",)


def test_simplify_drops_what_cannot_matter():
    canonical = load(FULL, "ToyRefiner.mixing=@ToyOff").canonical("toy")
    assert canonical["ToyRefiner.cache"] == Reference("ToyNoCache")
    assert not any(key.startswith("ToyEmaCache") for key in canonical)
    assert load(FULL).canonical("toy") == load(FULL).operative("toy")


def test_simplify_may_replace_the_class():
    canonical = load(FULL, "ToyRefiner.weight=0").canonical("toy")
    assert canonical["toy.refiner"] == Reference("ToyNullRefiner")
    assert {key.split(".")[0] for key in canonical} == {"toy"}


def test_simplify_is_applied_until_nothing_changes():
    class ToyOuter(Configurable):
        def __init__(self, *, inner: Annotated[Any, Part("toy_inner")]) -> None: ...

        @classmethod
        def simplify(cls, parameters: dict[str, Value]) -> dict[str, Value] | Reference:
            return Reference("ToyEnd") if parameters["inner"] == Reference("ToyEnd") else {}

    class ToyInner(Configurable):
        def __init__(self, *, weight: float = 0.0) -> None: ...

        @classmethod
        def simplify(cls, parameters: dict[str, Value]) -> dict[str, Value] | Reference:
            return Reference("ToyEnd") if parameters["weight"] == 0 else parameters

    class ToyEnd(Configurable): ...

    @dataclass(kw_only=True)
    class ToyTop(Configurable):
        outer: Annotated[Any, Part("toy_inner")]

    for cls in (ToyOuter, ToyInner, ToyEnd):
        register("toy_inner")(cls)
    register("toy_top")(ToyTop)
    config = load("ToyTop.outer = @ToyOuter\nToyOuter.inner = @ToyInner\n")
    assert config.canonical("ToyTop") == {"ToyTop.outer": Reference("ToyEnd")}
    kept = config.with_bindings({"ToyInner.weight": 1}, "test").canonical("ToyTop")
    assert kept["ToyTop.outer"] == Reference("ToyOuter")


def test_simplifications_are_checked_and_must_settle():
    class ToySwing(Configurable):
        def __init__(self, *, step: int = 0) -> None: ...

        @classmethod
        def simplify(cls, parameters: dict[str, Any]) -> dict[str, Value]:
            return {"step": -parameters["step"]}

    class ToyTypo(Configurable):
        @classmethod
        def simplify(cls, parameters: dict[str, Any]) -> dict[str, Value]:
            return {"stop": 1}

    register("toy_swing")(ToySwing)
    register("toy_swing")(ToyTypo)

    @register("toy_top")
    @dataclass(kw_only=True)
    class ToyTop(Configurable):
        part: Annotated[Any, Part("toy_swing")]

    assert load("ToyTop.part = @ToySwing").canonical("ToyTop")["ToySwing.step"] == 0
    with pytest.raises(RuntimeError, match="simplifications below 'ToyTop' do not converge"):
        load("ToyTop.part = @ToySwing\nToySwing.step = 1").canonical("ToyTop")
    with pytest.raises(ValueError, match=r"^ToyTypo.simplify: ToyTypo.stop: ToyTypo has no para"):
        load("ToyTop.part = @ToyTypo").canonical("ToyTop")


SAME = [
    ("toy.lr = 1e-3", "toy.lr = 0.001"),
    ("toy.lr = 1", "toy.lr = 1.0"),
    ("toy.lr = 0.001", ""),
    ("toy.seeds = [1, 2]", "toy.seeds = (1, 2)"),
    ("toy.name = 'a' 'b'", 'toy.name = "ab"'),
    ("ToyRefiner.mixing = @ToyOff", "ToyRefiner.mixing=@ToyOff\nToyRefiner.cache=@ToyNoCache"),
    ("ToyRefiner.weight = 0", "toy.refiner = @ToyNullRefiner"),
    ("toy.refiner = @ToyNullRefiner", "toy.refiner = @ToyNullRefiner\nToyEmaCache.decay = 0.5"),
]
DIFFERENT = [
    ("toy.lr = 1", "toy.lr = 2"),
    ("toy.seeds = [1, 2]", "toy.seeds = [2, 1]"),
    ("toy.name = 'None'", "toy.root = 'plain'"),
    ("toy.root = 'None'", "toy.root = None"),
    ("ToyEmaCache.decay = 1", ""),
    ("ToyRefiner.cache = @ToyNoCache", ""),
]
BASE = "toy.refiner = @ToyRefiner\nToyRefiner.cache = @ToyEmaCache\nToyRefiner.mixing = @ToyMix\n"


def identity(text: str) -> str:
    write("base.gin", BASE)
    return load("include 'base.gin'\n" + text).identity("toy")


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_settings_have_one_identity(one, other):
    assert identity(one) == identity(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_settings_have_different_identities(one, other):
    assert identity(one) != identity(other)


def test_a_reference_is_not_its_name_as_text():
    reference = load("toy_grid.variants = {'A': {'x': @ToyMix}}")
    text = load("toy_grid.variants = {'A': {'x': '@ToyMix'}}")
    assert reference.identity("toy_grid") != text.identity("toy_grid")


def test_the_order_of_a_dict_shows_in_the_text_but_not_in_the_identity():
    one = load("toy_grid.variants = {'A': {'x': 1, 'y': 2}, 'B': {}}")
    other = load("toy_grid.variants = {'B': {}, 'A': {'y': 2, 'x': 1}}")
    assert one.identity("toy_grid") == other.identity("toy_grid")
    assert one.text() != other.text(), "the order of a grid's variants is its author's"


def test_identity_is_stable_and_takes_fingerprints_in():
    config = load(BASE)
    assert config.identity("toy") == "265eee102212", "changing this abandons every finished run"
    assert config.identity("toy", {"split": "a"}) != config.identity("toy")
    one = config.identity("toy", {"split": "a", "backbone": "b"})
    assert one == config.identity("toy", {"backbone": "b", "split": "a"})
