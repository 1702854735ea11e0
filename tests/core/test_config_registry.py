"""What can be registered, what is refused, and what the table says about an entry."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import pytest

from core.config import (
    REQUIRED,
    AtLeast,
    Configurable,
    Parameter,
    Part,
    PositiveInt,
    Probability,
    Reference,
    build,
    config_from_text,
    isolated_registry,
    lookup,
    parameter_help,
    register,
    registered_classes,
)
from core.config.registry import did_you_mean_key
from core.suggestions import did_you_mean


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    with isolated_registry():
        yield


def test_an_entry_carries_what_the_class_says_about_itself():
    @register("toy_cache")
    class ToyCache(Configurable):
        """Keeps one row a slot.

        Source: Somebody and Somebody Else,
        "A cache", CVPR 2031, arXiv 3101.00001.

        Unrelated words.
        """

        def __init__(
            self,
            spec: object,
            *,
            num_slots: Annotated[int, AtLeast(1), "rows of the cache"] = 8,
            decay: Probability,
        ) -> None:
            self.spec = spec

    entry = lookup("ToyCache")
    assert (entry.name, entry.kind, entry.cls) == ("ToyCache", "toy_cache", ToyCache)
    assert entry.summary == "Keeps one row a slot."
    assert entry.reference == 'Somebody and Somebody Else, "A cache", CVPR 2031, arXiv 3101.00001.'
    assert list(entry.parameters) == ["num_slots", "decay"], "spec is positional: not a setting"
    assert entry.parameters["num_slots"].default == 8
    assert entry.parameters["num_slots"].doc == "rows of the cache"
    assert entry.parameters["decay"] == Parameter("decay", Probability, REQUIRED)
    assert parameter_help(entry) == [
        ("num_slots", "int >= 1", "8"),
        ("decay", "float in [0, 1]", "required"),
    ]


def test_classes_without_docstring_or_source_have_empty_texts():
    @register("toy")
    @dataclass(frozen=True, kw_only=True)
    class ToyUndocumented(Configurable):
        width: int = 1

    entry = lookup("ToyUndocumented")
    assert entry.summary == "", "the signature that @dataclass writes is no summary"
    assert entry.reference == ""


def test_the_entry_is_immutable():
    register("toy")(type("ToyPlain", (Configurable,), {}))
    with pytest.raises(AttributeError):
        lookup("ToyPlain").kind = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        lookup("ToyPlain").parameters["x"] = None  # type: ignore[index]


def test_frozen_keyword_only_dataclass_with_a_name_of_its_own():
    @register("toy_root", name="toy_root")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class ToyRoot(Configurable):
        """Root."""

        seeds: tuple[int, ...] = (1, 2)
        levels: dict[str, Any] = field(default_factory=lambda: {"a": [1]})

    entry = lookup("toy_root")
    assert entry.parameters["seeds"].default == (1, 2)
    assert entry.parameters["levels"].default == {"a": (1,)}
    assert ToyRoot().levels == {"a": [1]}


class PositionalOnly(Configurable):
    def __init__(self, spec, /, width) -> None: ...


class NoConstructor(Configurable):
    pass


class ToyProtocol(Protocol):
    def read(self) -> int: ...


class FromProtocol(ToyProtocol, Configurable):
    def read(self) -> int:
        return 1


class Inherited(NoConstructor):
    """Inherits."""


@pytest.mark.parametrize("cls", [PositionalOnly, NoConstructor, FromProtocol, Inherited])
def test_classes_without_settings(cls):
    register("toy")(cls)
    assert lookup(cls.__name__).parameters == {}


def test_an_inherited_constructor_brings_its_settings():
    class ToyBase(Configurable, ABC):
        def __init__(self, *, width: PositiveInt = 3) -> None:
            self.width = width

        @abstractmethod
        def read(self) -> int: ...

    @register("toy")
    class ToyChild(ToyBase):
        def read(self) -> int:
            return self.width

    assert list(lookup("ToyChild").parameters) == ["width"]
    assert ToyChild().read() == 3


def test_a_torch_module_can_be_registered_with_and_without_constructor():
    nn = pytest.importorskip("torch.nn")

    @register("toy")
    class ToyIdentity(nn.Module, Configurable):
        pass

    @register("toy")
    class ToyLayer(nn.Module, Configurable):
        def __init__(self, *, width: PositiveInt = 3) -> None:
            super().__init__()

    assert lookup("ToyIdentity").parameters == {}
    assert list(lookup("ToyLayer").parameters) == ["width"]


def test_registering_leaves_direct_calls_alone():
    @register("toy")
    class ToyDirect(Configurable):
        def __init__(self, *, width: int = 1) -> None:
            self.width = width

    assert ToyDirect().width == 1
    config = config_from_text("ToyDirect.width = 5")
    assert build(config, "ToyDirect").width == 5 and ToyDirect().width == 1


class TakesKwargs(Configurable):
    def __init__(self, *, width: int = 1, **rest: int) -> None: ...


class TakesArgs(Configurable):
    def __init__(self, *rest: int, width: int = 1) -> None: ...


class OnlyKwargs(Configurable):
    def __init__(self, **rest: int) -> None: ...


class NoAnnotation(Configurable):
    def __init__(self, *, width=1) -> None: ...


class UnknownName(Configurable):
    def __init__(self, *, width: "Nowhere" = 1) -> None: ...  # noqa: F821


class ObjectAnnotation(Configurable):
    def __init__(self, *, width: object = 1) -> None: ...


class PlainDict(Configurable):
    def __init__(self, *, width: dict[int, str]) -> None: ...


class RuleOnText(Configurable):
    def __init__(self, *, width: Annotated[str, AtLeast(1)]) -> None: ...


class DefaultBreaksRule(Configurable):
    def __init__(self, *, width: PositiveInt = 0) -> None: ...


class DefaultBreaksType(Configurable):
    def __init__(self, *, width: int = True) -> None: ...


class DefaultIsClass(Configurable):
    def __init__(
        self, *, cache: Annotated[Callable[..., Any], Part("toy_cache")] = NoConstructor
    ) -> None: ...


class DefaultIsPartial(Configurable):
    def __init__(self, *, cache: Any = functools.partial(NoConstructor)) -> None: ...  # noqa: B008


class DefaultIsReference(Configurable):
    def __init__(self, *, cache: Any = Reference("ToyCache")) -> None: ...  # noqa: B008


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (TakesKwargs, "TakesKwargs.__init__ takes .*rest: int, which accepts misspelled settings"),
        (TakesArgs, "TakesArgs.__init__ takes .*rest: int, which accepts misspelled settings"),
        (OnlyKwargs, "OnlyKwargs.__init__ takes .*rest"),
        (NoAnnotation, "NoAnnotation.width has no annotation"),
        (UnknownName, "annotations of UnknownName.__init__ cannot be read .*Nowhere"),
        (ObjectAnnotation, "ObjectAnnotation.width: .*object.* is not a type for a setting"),
        (PlainDict, "PlainDict.width: .* is not a type for a setting"),
        (RuleOnText, "RuleOnText.width: the rule >= 1 cannot apply to .*str"),
        (DefaultBreaksRule, "default of DefaultBreaksRule.width must be int >= 1, got 0"),
        (DefaultBreaksType, "default of DefaultBreaksType.width must be int, got True"),
        (DefaultIsClass, "DefaultIsClass.cache has .*NoConstructor.* as its default.*omit the"),
        (DefaultIsPartial, "DefaultIsPartial.cache has .* as its default"),
        (DefaultIsReference, "DefaultIsReference.cache has .* as its default"),
    ],
)
def test_unsafe_classes_are_refused_and_not_registered(cls, message):
    with pytest.raises(TypeError, match=message) as caught:
        register("toy")(cls)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no class"):
        lookup(cls.__name__)


def test_one_name_has_one_class():
    register("toy")(NoConstructor)
    with pytest.raises(ValueError, match=r"'NoConstructor' is already registered by .*NoConstr"):
        register("other", name="NoConstructor")(PositionalOnly)


@pytest.mark.parametrize("name", ["macro", "constant", "singleton", "a.b", "a b", "1a"])
def test_names_that_gin_would_misread_are_refused(name):
    with pytest.raises(TypeError, match="cannot name a class in a configuration"):
        register("toy", name=name)(NoConstructor)


def test_only_configurable_classes_are_registered():
    class ToyStranger:
        """Has hooks that nobody would call."""

    with pytest.raises(TypeError, match=r"^ToyStranger cannot be registered: derive it from core"):
        register("toy")(ToyStranger)  # type: ignore[type-var]


def test_registered_classes_are_sorted_and_filtered_by_kind():
    register("toy_b")(type("ToyZeta", (Configurable,), {}))
    register("toy_a")(type("ToyAlpha", (Configurable,), {}))
    register("toy_b")(type("ToyBeta", (Configurable,), {}))
    assert [entry.name for entry in registered_classes("toy_b")] == ["ToyBeta", "ToyZeta"]
    names = [entry.name for entry in registered_classes()]
    assert names == sorted(names) and {"ToyAlpha", "ToyBeta", "ToyZeta"} <= set(names)
    assert registered_classes("toy_c") == []


def test_lookup_says_what_is_near_and_what_is_valid():
    register("toy_cache")(type("ToyEmaCache", (Configurable,), {}))
    register("toy_cache")(type("ToyNoCache", (Configurable,), {}))
    register("toy_loss")(type("ToyLoss", (Configurable,), {}))
    assert lookup("ToyLoss", "toy_loss").name == "ToyLoss"
    with pytest.raises(ValueError) as caught:
        lookup("ToyEmaCach", "toy_cache")
    assert str(caught.value) == (
        "there is no toy_cache 'ToyEmaCach'; choose one of: ToyEmaCache, ToyNoCache; "
        "did you mean 'ToyEmaCache'?"
    )
    with pytest.raises(ValueError) as caught:
        lookup("ToyLoss", "toy_cache")
    assert str(caught.value) == (
        "'ToyLoss' is of kind toy_loss, not toy_cache; choose one of: ToyEmaCache, ToyNoCache"
    )
    with pytest.raises(ValueError, match=r"there is no class 'toynocache'; did you mean 'ToyNoC"):
        lookup("toynocache")
    with pytest.raises(ValueError, match=r"choose one of: \(none registered\)"):
        lookup("X", "toy_nothing")


def test_did_you_mean():
    assert did_you_mean("num_slot", ["num_slots", "decay"]) == "; did you mean 'num_slots'?"
    assert did_you_mean("zzz", ["num_slots"]) == ""
    assert did_you_mean("x", []) == ""

    @register("toy")
    class ToyOwner(Configurable):
        def __init__(self, *, toy_momentum: float = 0.9) -> None: ...

    assert did_you_mean_key("toy_mometum") == "; did you mean 'ToyOwner.toy_momentum'?"


def test_an_isolated_registry_forgets_what_was_registered_in_it():
    register("toy")(PositionalOnly)
    with isolated_registry():
        register("toy")(NoConstructor)
        assert lookup("PositionalOnly").kind == "toy"
    with isolated_registry(empty=True):
        assert registered_classes() == []
        register("toy_again")(NoConstructor)
    assert [entry.name for entry in registered_classes("toy")] == ["PositionalOnly"]
    assert registered_classes("toy_again") == []
