"""Plug-ins: what is loaded, under which names, with which hash, and what is refused in one line."""

import sys
from pathlib import Path

import pytest

import experiments.cli.registered  # noqa: F401  (fills the registry)
from core.config import lookup, registered_classes
from core.data.catalog import dataset_names, load_dataset, register_dataset, registered_datasets
from core.plugin_sources import source_files, sources_sha256
from core.plugins import load_plugins, load_unchanged, loaded_plugins, used_plugins
from tests.helpers.plugin_folders import forgotten_plugins, write_plugin

REGISTERS = """
from core.config import register
from refiners.cache import NoCache
{more}

@register("cache")
class {name}(NoCache):
    \"\"\"No cache.\"\"\"
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with forgotten_plugins():
        yield


def plugin_file(name="mine.py", cls="OwnNoCache", more=""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(REGISTERS.format(name=cls, more=more))
    return path


@pytest.mark.parametrize("package", [True, False])
@pytest.mark.parametrize("spelling", ["my_paper", "./my_paper/", "my_paper/../my_paper"])
def test_a_folder_is_its_files_that_register_something(tmp_path, package, spelling):
    home = write_plugin(tmp_path, package=package)
    (home / "train.py").write_text("raise SystemExit('a script must not run')\n")
    (home / "test_it.py").write_text("from core.config import register\nregister('x')(1 / 0)\n")
    (plugin,) = load_plugins([spelling])
    assert plugin.classes == ("OwnCache", "PulledCoOp") and plugin.datasets == ("my_paper/squares",)
    assert plugin.folder == home and plugin.name == str(home)
    assert lookup("PulledCoOp", "method").reference == "ours, 2026, an example."
    assert load_plugins(["my_paper"]) == [plugin] == list(loaded_plugins())


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("my_paper/method.py", ("PulledCoOp",)),
        ("my_paper.method", ("PulledCoOp",)),
        ("my_paper", ("OwnCache", "PulledCoOp")),
        ("my_paper/__init__.py", ("OwnCache", "PulledCoOp")),
    ],
)
def test_a_file_or_a_module_of_a_package(tmp_path, name, classes):
    write_plugin(tmp_path)
    (plugin,) = load_plugins([name])
    assert plugin.classes == classes
    assert lookup("PulledCoOp").cls.__module__ == "my_paper.method"


def test_a_file_and_its_package_are_imported_once(tmp_path):
    write_plugin(tmp_path)
    load_plugins(["my_paper/method.py", "my_paper", "my_paper.method"])
    assert len([e for e in registered_classes("method") if e.name == "PulledCoOp"]) == 1


@pytest.mark.parametrize("name", ["core", "methods", "random", "my-paper", "2026"])
def test_a_name_that_is_taken_or_no_identifier_is_no_obstacle(name):
    kept = sys.modules.get(name)
    plugin_file(f"{name}/parts.py", cls="OneCache")
    plugin_file(f"{name}.py", cls="OtherCache")
    one, other = load_plugins([name, f"{name}.py"])
    assert (one.classes, other.classes) == (("OneCache",), ("OtherCache",))
    assert sys.modules.get(name) is kept or kept is None


def test_what_lies_beside_a_file_can_be_imported_and_is_part_of_its_hash():
    path = plugin_file(more="import beside")
    Path("beside.py").write_text("VALUE = 1\n")
    before = sources_sha256(path)
    assert [file.name for file in source_files(path)] == ["beside.py", "mine.py"]
    Path("beside.py").write_text('"""A docstring."""\n\nVALUE =    1  # a comment\n')
    assert sources_sha256(path) == before
    Path("beside.py").write_text("VALUE = 2\n")
    assert sources_sha256(path) != before
    Path("unrelated.py").write_text("syntax error here")
    load_plugins(["mine.py"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("import beta", ""), ("", "import alpha"), ("from . import beta", "import own.alpha")],
)
def test_files_of_a_folder_may_import_each_other_and_register_once(first, second):
    plugin_file("own/alpha.py", cls="AlphaCache", more=first)
    plugin_file("own/beta.py", cls="BetaCache", more=second)
    assert load_plugins(["own"])[0].classes == ("AlphaCache", "BetaCache")


BROKEN = [
    ("x = 1", "registers nothing"),
    ("import no_such_module_at_all", r"mine\.py:1: ModuleNotFoundError: No module named"),
    ("def f(:", r"mine\.py:1: SyntaxError"),
    ("\n\n1 / 0", r"mine\.py:3: ZeroDivisionError: division by zero"),
    ("import sys\nsys.exit(3)", r"mine\.py:2: SystemExit: 3"),
    (
        "from core.config import Configurable, register\n@register('method')\n"
        "class CoOp(Configurable): pass",
        r"mine\.py:2: 'CoOp' is already registered by methods\.coop\.CoOp",
    ),
    (
        "from core.data.catalog import register_dataset\n@register_dataset('imagenet')\n"
        "def read(options): pass",
        r"mine\.py:2: the dataset 'imagenet' is already registered",
    ),
    (
        "from core.data.catalog import register_dataset\n@register_dataset('a: b')\n"
        "def read(options): pass",
        r"mine\.py:2: 'a: b' cannot name a dataset",
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_plugin_that_cannot_be_loaded_is_one_line_and_leaves_nothing(text, message):
    before = registered_classes()
    Path("mine.py").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_plugins(["mine.py"])
    assert "\n" not in str(caught.value) and "the plug-in mine.py" in str(caught.value)
    assert registered_classes() == before and registered_datasets() == []
    Path("mine.py").write_text(REGISTERS.format(name="OwnNoCache", more=""))
    assert load_plugins(["mine.py"])[0].classes == ("OwnNoCache",)


def test_half_a_plugin_is_none():
    plugin_file("half/first.py", cls="FirstCache")
    plugin_file("half/second.py", cls="EmaCache")
    with pytest.raises(ValueError, match="'EmaCache' is already registered"):
        load_plugins(["half"])
    assert "FirstCache" not in {entry.name for entry in registered_classes("cache")}
    plugin_file("half/second.py", cls="SecondCache")
    assert load_plugins(["half"])[0].classes == ("FirstCache", "SecondCache")


@pytest.mark.parametrize(
    "name", ["nowhere.py", "no/such/folder", "no_such_module", "", "a b", "x\0"]
)
def test_what_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=r"there is no plug-in|must have a name|registers nothing"):
        load_plugins([name])


def test_another_kind_of_file_is_refused(tmp_path):
    Path("data.txt").write_text("x")
    with pytest.raises(ValueError, match=r"neither a \.py file nor a folder"):
        load_plugins(["data.txt"])


def test_the_packages_around_a_file_are_part_of_its_hash():
    path = plugin_file("outer/inner/mine.py")
    for folder in ("outer", "outer/inner"):
        Path(folder, "__init__.py").write_text("")
    before = sources_sha256(path.absolute())
    Path("outer/__init__.py").write_text("VALUE = 1\n")
    assert sources_sha256(path.absolute()) != before
    assert load_plugins([str(path)])[0].classes == ("OwnNoCache",)
    assert lookup("OwnNoCache").cls.__module__ == "outer.inner.mine"


def test_what_a_plugin_prints_is_no_part_of_an_answer(capsys):
    plugin_file(more="print('hello')")
    load_plugins(["mine.py"])
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "hello\n"


def test_a_module_in_a_package_that_cannot_be_imported_is_one_line():
    plugin_file("broken/mine.py")
    Path("broken/__init__.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match=r"broken/__init__\.py:1: ZeroDivisionError"):
        load_plugins(["broken.mine"])


def test_an_edited_plugin_is_not_mixed_with_what_is_loaded():
    path = plugin_file()
    (plugin,) = load_plugins(["mine.py"])
    load_unchanged({str(path.absolute()): plugin.sha256})
    with pytest.raises(ValueError, match="has changed since this command was started"):
        load_unchanged({str(path.absolute()): "0"})
    plugin_file(more="VALUE = 1")
    with pytest.raises(ValueError, match="has changed since it was loaded"):
        load_plugins(["mine.py"])


def test_a_plugin_counts_as_used_by_its_classes_and_datasets(tmp_path):
    write_plugin(tmp_path)
    (plugin,) = load_plugins(["my_paper"])
    assert used_plugins(["CoOp", "OwnCache"], []) == (plugin,)
    assert used_plugins(["CoOp"], ["my_paper/squares"]) == (plugin,)
    assert used_plugins(["CoOp"], ["mosaic/land"]) == ()


def test_a_registered_dataset_is_read_and_listed_by_its_name(tmp_path):
    write_plugin(tmp_path)
    load_plugins(["my_paper"])
    dataset = load_dataset("my_paper/squares", root=None, cache_dir=tmp_path)
    assert dataset.name == "my_paper/squares" and len(dataset.train) == 18
    assert dict(dataset_names())["my_paper/squares"] == "Six colors, drawn on demand."
    with pytest.raises(ValueError, match="did you mean 'my_paper/squares'"):
        load_dataset("my_paper/sqares", root=None, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["mosaic/mine", "Folder/x", "my_paper/squares", "", "/x", "a//b"])
def test_a_dataset_has_a_name_of_its_own(tmp_path, name):
    write_plugin(tmp_path)
    load_plugins(["my_paper"])
    with pytest.raises(ValueError, match=r"already registered|cannot name a dataset"):
        register_dataset(name)


READER = """
from PIL import Image


class Squares:
    def read(self, path):
        return Image.new("RGB", (40, 40), path.partition("/")[0])
"""


def read_again(tmp_path, name="my_paper"):
    """The dataset as a process of its own reads it."""
    with forgotten_plugins():
        load_plugins([name])
        return load_dataset("my_paper/squares", root=None, cache_dir=tmp_path)


@pytest.mark.parametrize("package", [True, False])
def test_an_edited_reader_is_another_dataset(tmp_path, package):
    home = write_plugin(tmp_path, package=package)
    data = home / "data.py"
    shared = "from my_paper.reader import Squares" if package else "from reader import Squares"
    start = data.read_text().index("@dataclass(frozen=True)")
    end = data.read_text().index("def items")
    text = data.read_text()
    data.write_text(f"{shared}\n" + text[:start] + text[end:])
    (home / "reader.py").write_text(READER)
    first = read_again(tmp_path)
    data.write_text(data.read_text().replace("\n\n\n", "\n\n\n\n# colors\n"))
    (home / "method.py").write_text(
        (home / "method.py").read_text().replace("1 - self", "2 - self")
    )
    for name in ("my_paper", "my_paper/data.py"):
        same = read_again(tmp_path, name)
        assert (same.content, same.fingerprint) == (first.content, first.fingerprint)
    for file, old, new in [
        (home / "reader.py", '("/")[0]', '("/")[2] or "red"'),
        (data, 'my_paper/squares",\n', 'my_paper/squares",\n        content="version 2",\n'),
        (data, "(40, 40)" if "(40, 40)" in data.read_text() else "items(2, 20)", "items(2, 21)"),
    ]:
        assert old in file.read_text()
        before = read_again(tmp_path)
        file.write_text(file.read_text().replace(old, new))
        after = read_again(tmp_path)
        assert after.content != before.content and after.test_fingerprint != before.test_fingerprint


def test_a_reader_from_a_factory_is_that_of_the_file_that_registers_it(tmp_path):
    (tmp_path / "made.py").write_text(
        "from core.data.dataset import Dataset\n\n\n"
        "def make(name, color):\n"
        "    def load(options):\n"
        "        return Dataset(name=name, class_names=('a',), template='{}', train=(), val=(),\n"
        "                       test=(), reader=color)\n\n"
        "    return load\n"
    )
    path = tmp_path / "some.py"
    path.write_text(
        "from core.data.catalog import register_dataset\nfrom made import make\n\n"
        "register_dataset('my_paper/squares')(make('my_paper/squares', 'red'))\n"
    )
    first = read_again(tmp_path, "some.py")
    path.write_text(path.read_text().replace("'red'", "'blue'"))
    assert read_again(tmp_path, "some.py").content != first.content


def test_a_dataset_under_another_name_than_the_registered_is_refused(tmp_path):
    home = write_plugin(tmp_path)
    text = (
        (home / "data.py")
        .read_text()
        .replace('register_dataset("my_paper/squares")', 'register_dataset("my_paper/tiles")')
    )
    (home / "data.py").write_text(text)
    load_plugins(["my_paper"])
    with pytest.raises(ValueError, match="a Dataset of this name, got 'my_paper/squares'"):
        load_dataset("my_paper/tiles", root=None, cache_dir=tmp_path)


def test_a_hook_inherited_from_a_class_with_more_parameters_says_nothing(tmp_path):
    """PulledCoOp has no ctx_init, of which CoOp's own hooks speak."""
    write_plugin(tmp_path)
    load_plugins(["my_paper"])
    entry = lookup("PulledCoOp")
    assert entry.ask("idle", {"pull": 0.1}, {}) == {}
    assert entry.ask("simplify", {"pull": 0.1}) == {"pull": 0.1}
    assert entry.ask("closed_set", {"pull": 0.1}) == ""
    assert entry.ask("reads_template", {"pull": 0.1}, {}) is False
    with pytest.raises(KeyError):
        lookup("CoOp").ask("idle", {"num_ctx": 4}, {})
