"""Reading configuration files: what they may say, and how the rest is refused in one line."""

from pathlib import Path

import pytest

from core.config import ConfigLibrary, Reference, load_config
from tests.helpers.toy_configs import FULL, load, read, refusal, toys, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("toys")


def test_literals_references_blocks_and_comments():
    config = load(
        """
# a remark
toy:
  refiner = @ToyNullRefiner  # another
  seeds = [1,
           2,  # two
           3]
toy.name = 'it''s' ' "quoted"'
toy_grid.variants = {
    'A': {'ToyRefiner.cache': @ToyNoCache},
    'B': {'ToyEmaCache.decay': 1e-3, 'x': [(-1,), None, True]},
}
"""
    )
    assert config.bindings == {
        "toy.refiner": Reference("ToyNullRefiner"),
        "toy.seeds": (1, 2, 3),
        "toy.name": 'its "quoted"',
        "toy_grid.variants": {
            "A": {"ToyRefiner.cache": Reference("ToyNoCache")},
            "B": {"ToyEmaCache.decay": 0.001, "x": ((-1,), None, True)},
        },
    }
    assert config.sources == {
        "toy.refiner": "a.gin:4",
        "toy.seeds": "a.gin:5",
        "toy.name": "a.gin:8",
        "toy_grid.variants": "a.gin:9",
    }
    assert str(Reference("ToyNoCache")) == "@ToyNoCache"


def test_an_empty_file_with_a_byte_order_mark_and_windows_line_ends():
    assert load("").bindings == {}
    Path("w.gin").write_bytes(b"\xef\xbb\xbf# x\r\ntoy.lr = 2\r\n")
    assert read("w.gin").bindings == {"toy.lr": 2.0}


def test_includes_are_deltas_found_beside_the_file_then_in_the_library():
    write("sub/near.gin", "include 'far.gin'\ntoy.lr = 2\ntoy.name = 'near'\n")
    write("library/far.gin", "toy.lr = 3\ntoy.seeds = [7]\ntoy.name = 'far'\n")
    config = load("include 'sub/near.gin'\ntoy.lr = 1\n")
    assert config.bindings == {"toy.lr": 1.0, "toy.name": "near", "toy.seeds": (7,)}
    assert config.sources == {
        "toy.lr": "a.gin:2",
        "toy.name": "sub/near.gin:3",
        "toy.seeds": "library/far.gin:2",
    }
    assert read("far.gin").bindings["toy.seeds"] == (7,)
    assert read(Path("sub/near.gin").absolute()).sources["toy.lr"] == "sub/near.gin:2"


def test_a_library_finds_its_files_by_short_names():
    for name in ("kinds/one.gin", "kinds/deep/two.gin", "other/three.gin", "four.gin"):
        write(f"library/{name}", "")
    library = ConfigLibrary(folder=Path("library"), sorted_by=("kinds",))
    assert list(library.files()) == ["deep/two", "four", "one", "other/three"]
    for name, path in library.files().items():
        assert library.find(name) == library.find(f"{name}.gin") == path
    assert library.find("three") is None and library.nearest("other/thre.gin") == "other/three"


def test_without_a_library_includes_are_found_beside_the_file_alone():
    write("library/far.gin", "toy.lr = 3\n")
    write("a.gin", "include 'far.gin'\n")
    with pytest.raises(
        ValueError, match=r"^a.gin:1: there is no configuration file 'far.gin' in .$"
    ):
        load_config("a.gin")
    write("b.gin", "import core\n")
    with pytest.raises(ValueError, match=r"may only name modules of \(none\)$"):
        load_config("b.gin")


def test_a_file_included_twice_does_not_undo_what_stands_in_between():
    write("base.gin", "toy.lr = 1\ntoy.name = 'base'\n")
    write("left.gin", "include 'base.gin'\ntoy.lr = 2\n")
    write("right.gin", "include 'base.gin'\ntoy.name = 'right'\n")
    config = load("include 'left.gin'\ninclude 'right.gin'\n")
    assert config.bindings == {"toy.lr": 2.0, "toy.name": "right"}


def test_missing_includes_files_and_circles():
    assert refusal("# x\ninclude 'b.gin'\n").startswith(
        "a.gin:2: there is no configuration file 'b.gin' in . or library"
    )
    write("library/demo.gin", "")
    with pytest.raises(ValueError, match=r"^there is no configuration file 'dmo.gin'.*'demo'"):
        read("dmo.gin")
    with pytest.raises(ValueError, match="there is no configuration file"):
        read("library")
    write("b.gin", "include 'a.gin'\n")
    assert refusal("include 'b.gin'\n") == (
        "b.gin:1: the includes form a circle: a.gin -> b.gin -> a.gin"
    )
    assert refusal("include 'a.gin'\n").startswith("a.gin:1: the includes form a circle")
    write("c.gin", "")
    assert refusal("toy.lr = 1\ninclude 'c.gin'\n") == (
        "a.gin:2: an include must precede the bindings of its file"
    )


def test_a_file_that_is_not_text():
    Path("b.gin").write_bytes(b"toy.name = '\xff'\n")
    with pytest.raises(ValueError, match=r"^b.gin: not UTF-8 text"):
        read("b.gin")


@pytest.mark.parametrize("module", ["core.config.config", "core", "methods", "methods.coop"])
def test_imports_of_our_own_packages_are_allowed_and_not_executed(module):
    assert load(f"import {module}.that_does_not_exist\n").bindings == {}


def test_nothing_in_a_file_is_executed():
    assert refusal("import os\n") == (
        "a.gin:1: `import os` is refused: a configuration may only name modules of core, methods"
    )
    text = "from __gin__ import dynamic_registration\nimport os\ntoy.name = @os.system()\n"
    assert refusal(text).startswith("a.gin:1: `from __gin__ import dynamic_registration` is ref")
    Path("evil.py").write_text("open('ran', 'w')")
    assert "`import evil as core` is refused" in refusal("import evil as core\n")
    assert not Path("ran").exists()
    assert refusal("toy.refiner = @os.system\n").startswith(
        "a.gin:1: toy.refiner: there is no toy_refiner 'os.system'; choose one of: "
    )
    assert "there is no class 'os.system'" in refusal("toy_grid.variants={'a': {'b': @os.system}}")
    assert "there is no class 'gin.macro'" in refusal("toy_grid.variants={'a': {'b': @gin.macro}}")
    assert refusal("toy.name = @os.system('touch ran')\n").startswith("a.gin:1: Expected ')'")


def test_evaluated_references_and_scopes_are_refused():
    assert refusal("\ntoy.refiner = @ToyNullRefiner()\n") == (
        "a.gin:2: '@ToyNullRefiner()' would build an object immediately; write '@ToyNullRefiner'"
    )
    assert refusal("toy.refiner = @s/ToyNullRefiner") == (
        "a.gin:1: '@s/ToyNullRefiner' has a scope, and scopes are not supported"
    )
    assert refusal("s/toy.lr = 1") == (
        "a.gin:1: s/toy.lr has a scope, and scopes are not supported; write toy.lr"
    )
    assert "has a scope" in refusal("s/toy:\n  lr = 1\n")


def test_one_key_has_one_line_in_a_file():
    assert refusal("toy.lr = 1\n\ntoy.lr = 2\n") == (
        "a.gin:3: toy.lr is already bound at a.gin:1; keep one"
    )
    assert refusal("toy:\n  lr = 1\ntoy.lr = 2\n").startswith("a.gin:3: toy.lr is already bound")
    assert refusal("x = 1\nx = 2\n").startswith("a.gin:2: x is already bound at a.gin:1")


def test_one_key_stands_once_in_a_dict():
    text = "toy_grid.variants = {'A': {},\n 'B': {'x': 1},\n 'A': {'x': 2}}"
    assert refusal(text) == "a.gin:3: the key 'A' appears twice in one dict"
    assert load("toy_grid.variants = {'A': {'x': 1}, 'B': {'x': 1}}")
    assert refusal("toy_grid.variants = {1: {}}") == (
        "a.gin:1: the dict key 1 must be text in quotes"
    )
    assert "must be text in quotes" in refusal("toy_grid.variants = {[1]: {}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy.lr = 1\ntoy.seeds = (1,\n", "a.gin:2: "),
        ("toy.lr = 1\ntoy.name = '''x\n", "a.gin:2: "),
        ("toy.lr = 1\ntoy.name = 'x\n", "a.gin:2: "),
        ("toy.lr = 1\n  toy.lr = 1\n toy.lr = 1\n", "a.gin:3: unindent does not match"),
        ("toy.lr =", "a.gin:1: the value is missing, or not a literal"),
        (
            "toy.lr = 1e-3 * 2",
            "a.gin:1: unexpected text after the value: a value is a single literal",
        ),
        ("toy.lr 3", "a.gin:1: Couldn't parse statement, expected ':' or '='; a line is"),
        ("@toy = 3", "a.gin:1: this is not `Class.parameter = value`"),
        ("toy.seeds = {1, 2}", "a.gin:1: Expected ':'; a line is `Class.parameter = value`"),
        ("toy.name = plain", "a.gin:1: plain is not a value: write @plain for a class, %plain"),
        ("toy.lr = nan", "a.gin:1: nan is not a setting: a number must be finite"),
        ("toy.lr = -inf", "a.gin:1: -inf is not a setting: a number must be finite"),
        ("toy.lr = 1e999", "a.gin:1: toy.lr must be float > 0, got inf; nan and infinity"),
        ("toy.name = b'x'", "a.gin:1: toy.name must be text, got b'x'"),
        ("toy.lr = 1j", "a.gin:1: toy.lr must be float > 0, got 1j"),
        ("toy:\n", "a.gin:2: Expected indentation"),
        ("toy.lr = $", "a.gin:1: "),
        ("toy.name = 'a\0b'", "a.gin:1: "),
        ("import", "a.gin:1: "),
        ("include b", "a.gin:1: b is not a value"),
        ("toy.lr = \\", "a.gin:1: "),
        ("toy.lr = f'x'", "a.gin:1: "),
    ],
)
def test_broken_text_is_one_line_with_its_place(text, message):
    assert refusal(text).startswith(message)


def test_unknown_names():
    assert refusal("\nToyEmaCach.decay = 1") == (
        "a.gin:2: ToyEmaCach.decay: there is no class 'ToyEmaCach'; did you mean 'ToyEmaCache'?"
    )
    assert refusal("ToyEmaCache.numslots = 1") == (
        "a.gin:1: ToyEmaCache.numslots: ToyEmaCache has no parameter 'numslots'; its parameters: "
        "num_slots, decay, mode; did you mean 'num_slots'?"
    )
    assert refusal("ToyRefiner.num_slots = 1").endswith("did you mean 'ToyEmaCache.num_slots'?")
    assert "has no parameter 'width'" in refusal("ToyEmaCache.width = 1"), "positional"
    assert "its parameters: (none)" in refusal("ToyNoCache.x = 1")
    assert "there is no class 'a.b'" in refusal("a.b.c = 1")


def test_wrong_values_name_place_key_rule_and_value():
    assert refusal("\nToyEmaCache.num_slots = 0") == (
        "a.gin:2: ToyEmaCache.num_slots must be int >= 1, got 0"
    )
    assert refusal("ToyEmaCache.decay = 1.5") == (
        "a.gin:1: ToyEmaCache.decay must be float in [0, 1], got 1.5"
    )
    assert refusal("ToyRefiner.cache = @ToyMix") == (
        "a.gin:1: ToyRefiner.cache: 'ToyMix' is of kind toy_mixing, not toy_cache; "
        "choose one of: ToyEmaCache, ToyNoCache"
    )
    assert refusal("ToyRefiner.cache = None") == (
        "a.gin:1: ToyRefiner.cache must be @toy_cache, got None; "
        "choose one of @ToyEmaCache, @ToyNoCache"
    )
    assert "a class is written @ToyNoCache" in refusal("ToyRefiner.cache = 'ToyNoCache'")


def test_macros_are_replaced_by_their_last_value():
    write("b.gin", "size = 4\nrate = %other\nother = 0.5\nToyEmaCache.num_slots = %size\n")
    config = load("include 'b.gin'\nsize = 6\ntoy.lr = %rate\ntoy.seeds = [%size, 1]\n")
    assert config.bindings == {"ToyEmaCache.num_slots": 6, "toy.lr": 0.5, "toy.seeds": (6, 1)}
    assert config.sources["ToyEmaCache.num_slots"] == "b.gin:4"
    assert "%" not in config.text()


def test_macros_may_hold_references_and_stand_in_dicts():
    config = load("part = @ToyNoCache\ntoy_grid.variants = {'A': {'x': %part}}")
    assert config.bindings["toy_grid.variants"] == {"A": {"x": Reference("ToyNoCache")}}


def test_undefined_unused_and_circular_macros():
    assert refusal("size = 3\ntoy.seeds = [%sise, %size]") == (
        "a.gin:2: the macro %sise is not defined; "
        "define it with a line `sise = ...`; did you mean 'size'?"
    )
    assert refusal("toy.lr = 1\nnum_slots = 3") == (
        "a.gin:2: nothing uses the macro 'num_slots'; a setting is written "
        "Class.parameter = value; did you mean 'ToyEmaCache.num_slots'?"
    )
    assert refusal("a = %b\nb = %a\ntoy.lr = %a") == (
        "a.gin:3: the macros a -> b -> a form a circle"
    )
    assert "is not defined" in refusal("toy.lr = %gin.REQUIRED")
    assert refusal("size = 0\nToyEmaCache.num_slots = %size") == (
        "a.gin:2: ToyEmaCache.num_slots must be int >= 1, got 0"
    )


def test_a_macro_may_outlive_the_binding_that_used_it_but_not_when_it_is_set_by_hand():
    write("b.gin", "rate = 0.5\ntoy.lr = %rate\n")
    text = "include 'b.gin'\ntoy.lr = 2\n"
    assert load(text).bindings == {"toy.lr": 2.0}
    assert refusal(text, "rate=3").startswith("--set: nothing uses the macro 'rate'")
    assert read("b.gin", "rate=3").bindings == {"toy.lr": 3.0}


def test_overrides_win_and_say_so():
    config = load(FULL, "toy.lr=1", "ToyRefiner.cache = @ToyNoCache", "toy.seeds=[1, 2]")
    assert config.bindings["toy.lr"] == 1.0
    assert config.bindings["ToyRefiner.cache"] == Reference("ToyNoCache")
    assert config.bindings["toy.seeds"] == (1, 2)
    assert config.sources["toy.lr"] == "--set"
    assert config.sources["toy.refiner"] == "a.gin:2"


@pytest.mark.parametrize("value", ["soft", "'soft'", '"soft"'])
def test_bare_words_stand_for_text(value):
    assert load("", f"ToyEmaCache.mode={value}").bindings == {"ToyEmaCache.mode": "soft"}


def test_bare_words_may_be_paths_and_contain_equal_signs():
    config = load("", "toy.root=/data/sets-1/a b", "toy.name=a=b")
    assert config.bindings == {"toy.root": "/data/sets-1/a b", "toy.name": "a=b"}
    assert load("", "toy.root=None").bindings == {"toy.root": None}, "a literal stays a literal"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("toy.lr=fast", "--set 'toy.lr=fast': fast is not a value"),
        ("toy.refiner=ToyRefiner", "--set 'toy.refiner=ToyRefiner': ToyRefiner is not a value"),
        ("toy.lr=nan", "--set 'toy.lr=nan': nan is not a setting"),
        ("toy.name=3", "--set: toy.name must be text, got 3; text is written in quotes"),
        ("ToyEmaCache.mode=sof", "--set: ToyEmaCache.mode must be one of 'hard', 'soft', got"),
        ("ToyEmaCache.mod=soft", "--set 'ToyEmaCache.mod=soft': soft is not a value"),
        ("toy.lr", "--set 'toy.lr': write --set Class.parameter=value"),
        ("=3", "--set '=3': write --set Class.parameter=value"),
        ("s/toy.lr=3", "--set 's/toy.lr=3': write --set Class.parameter=value"),
        ("import os#=3", "--set 'import os#=3': write --set Class.parameter=value"),
        ("toy.lr=1\ntoy.seeds=[1]", r"--set 'toy.lr=1\ntoy.seeds=[1]': write --set"),
        ("toy.lr=@os.system(1)", "--set 'toy.lr=@os.system(1)': Expected ')'"),
        ("toy.name='x", '--set "toy.name=\'x": '),
        ("toy.lr=", "--set 'toy.lr=': the value is missing"),
        ("momentum=3", "--set: nothing uses the macro 'momentum'"),
        ("toy.lr=0", "--set: toy.lr must be float > 0, got 0"),
    ],
)
def test_bad_overrides(override, message):
    assert refusal("", override).startswith(message)


def test_one_override_a_key():
    assert refusal("", "toy.lr=1", "toy.lr=2") == "--set 'toy.lr=2': toy.lr is set twice; keep one"


DEEP = 5000
IMPOSSIBLE = [
    ("toy.name = " + "[" * DEEP, "nested more than 50 deep"),
    ("toy.name = " + "[" * DEEP + "]" * DEEP, "nested more than 50 deep"),
    ("toy.name = " + "(" * DEEP, "nested more than 50 deep"),
    ("toy.name = " + "{'a': " * DEEP, "nested more than 50 deep"),
    (
        "".join(f"m{n} = %m{n + 1}\n" for n in range(DEEP)) + f"m{DEEP} = 1\ntoy.name = %m0",
        "leads through more than 50 others",
    ),
    ("include '" + "a" * DEEP + ".gin'", "there is no configuration file"),
    ("include ''", "there is no configuration file ''"),
    ("include 'a\\0b'", "there is no configuration file"),
    ("toy.name = 'a\\0b'", "text has no null characters"),
    ("ToyMix.hidden = 0x" + "f" * DEEP, "a whole number goes up to"),
    ("ToyMix.hidden = " + "9" * 400, "a whole number goes up to"),
    ("ToyMix.hidden = 1\0", "unexpected text"),
]


@pytest.mark.parametrize(
    ("text", "message"), IMPOSSIBLE, ids=[t[:12] + t[-3:] for t, _ in IMPOSSIBLE]
)
def test_impossible_texts_are_one_line(tmp_path, text, message):
    path = tmp_path / "bad.gin"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [bytes(range(256)), "toy.name = 'b\u00e4ume'".encode("latin-1"), "a = 1".encode("utf-16")],
)
def test_files_that_are_not_text_are_told_so(tmp_path, raw):
    path = tmp_path / "bad.gin"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_config(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_other_systems_are_read(tmp_path, end):
    path = tmp_path / "other.gin"
    path.write_bytes(("\ufeff" + end.join(["toy.name = 'x'", "toy.lr = 0.5", ""])).encode())
    assert dict(load_config(path).bindings) == {"toy.name": "x", "toy.lr": 0.5}


def test_deep_overrides_are_refused(tmp_path):
    path = tmp_path / "fine.gin"
    path.write_text("toy.name = 'x'\n")
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        load_config(path, ["toy.name=" + "[" * DEEP])
