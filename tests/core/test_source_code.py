"""The code behind a class: what belongs to it, and which edits are a change of it."""

import textwrap

import pytest

from core.source.tree import SourceFolder, SourceTree
from core.store.code import differences, names_of

METHODS = """
    '''Methods.'''
    import math
    from functools import lru_cache as cached
    from lib import blocks, scale as factor
    from lib.parts import Part
    import lib.deep.inner
    from .base import Base, register

    SIZE = 4
    TABLE = {}
    TABLE["a"] = SIZE

    @register("method")
    class Alpha(Base):
        '''Learns.'''
        width: int = SIZE

        def forward(self, x: "Batch") -> float:
            # a comment
            y = blocks.full(x)
            return helper(y) * factor + math.pi

        def other(self):
            from lib.lazy import late
            unit = 1
            return late(unit), lib.deep.inner.bottom()

    class Beta(Base):
        def forward(self, x):
            return TABLE, [SIZE for SIZE in x]

    def helper(x):
        match x:
            case [first, *unused]:
                return first
        return x

    def unit(x):
        return unused(x)

    def unused(x):
        return x
"""
FILES = {
    "paper/__init__.py": "",
    "paper/methods.py": METHODS,
    "paper/base.py": """
        from abc import ABC
        class Base(ABC):
            kind = "base"
        def register(kind):
            return lambda cls: cls
        def beside():
            return 1
    """,
    "lib/__init__.py": """
        from lib.constants import scale
        from . import blocks
        from .stars import *
    """,
    "lib/constants.py": "scale = 2.0\nother = 3.0\n",
    "lib/blocks.py": """
        try:
            import fast
        except ImportError:
            fast = None
        if fast:
            def inner(x):
                return fast.inner(x)
        else:
            def inner(x):
                return x
        def full(x):
            return inner(x)
        def half(x):
            return x
    """,
    "lib/parts.py": "class Part:\n    pass\n",
    "lib/lazy.py": "def late(x):\n    return x\n",
    "lib/stars.py": "def starred(x):\n    return x\n",
    "lib/deep/__init__.py": "",
    "lib/deep/inner.py": "def bottom():\n    return 1\n",
}


@pytest.fixture
def place(tmp_path):
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(text))
    return tmp_path


def called(place, name="Alpha", module="paper.methods", **options):
    tree = SourceTree(place, [SourceFolder(place)], **options)
    found = tree.find(module, name)
    assert found, f"there is no {module}:{name}"
    return tree.called(found)


def edit(place, path, old, new):
    text = (place / path).read_text()
    assert text.count(old) == 1, (path, old)
    (place / path).write_text(text.replace(old, new))


def test_the_closure_has_what_is_called_and_nothing_else(place):
    assert {path: sorted(names) for path, names in called(place).listing().items()} == {
        "lib/blocks.py": ["fast", "full", "inner"],
        "lib/constants.py": ["scale"],
        "lib/deep/inner.py": ["bottom"],
        "lib/lazy.py": ["late"],
        "paper/base.py": ["Base", "register"],
        "paper/methods.py": ["Alpha", "SIZE", "helper"],
    }
    assert {path: sorted(names) for path, names in called(place, "Beta").listing().items()} == {
        "paper/base.py": ["Base"],
        "paper/methods.py": ["Beta", "SIZE", "TABLE"],
    }


NO_CHANGE = {
    "a docstring": ("paper/methods.py", "'''Learns.'''", "'''Learns more.'''"),
    "no docstring": ("paper/methods.py", "'''Learns.'''", "pass"),
    "a comment": ("paper/methods.py", "# a comment", "# another"),
    "line breaks": ("paper/methods.py", "return helper(y) * factor + math.pi",
                    "return (\n            helper(y)\n            * factor + math.pi\n        )"),
    "a literal": ("lib/constants.py", "scale = 2.0", "scale = 0.2e1"),
    "a string": ("paper/base.py", '"base"', "'ba' 'se'"),
    "annotations": ("paper/methods.py", 'x: "Batch") -> float', "x: Part) -> int"),
    "an annotated constant": ("lib/constants.py", "scale = 2.0", "scale: float = 2.0"),
    "imports in another order": ("paper/methods.py", "from .base import Base, register",
                                 "from .base import register, Base"),
    "an absolute import": ("paper/methods.py", "from .base", "from paper.base"),
    "an import that nobody reads": ("paper/methods.py", "import math", "import math, os"),
    "a function beside it": ("paper/base.py", "return 1", "return 2"),
    "a constant beside it": ("lib/constants.py", "other = 3.0", "other = 4.0"),
    "a function of a local's name": ("paper/methods.py", "return unused(x)", "return x + 1"),
    "another class": ("paper/methods.py", "return TABLE,", "return 1, TABLE,"),
    "a new definition": ("paper/base.py", "def beside", "def new():\n    pass\ndef beside"),
    "the docstring of a module": ("paper/methods.py", "'''Methods.'''", ""),
    "a script": ("paper/base.py", "def beside",
                 "if __name__ == '__main__':\n    beside()\ndef beside"),
    "for type checkers": ("paper/base.py", "def beside", "import typing\nif typing.TYPE_CHECKING:\n"
                          "    from lib import x\ndef beside"),
}  # fmt: skip


@pytest.mark.parametrize("change", NO_CHANGE.values(), ids=NO_CHANGE)
def test_what_the_class_does_not_call_or_cannot_notice_is_no_change(place, change):
    before = called(place)
    edit(place, *change)
    after = called(place)
    assert after.hash == before.hash and not differences(before.listing(), after.listing())


CHANGE = {
    "a method": ("paper/methods.py", "y = blocks.full(x)", "y = blocks.full(-x)", "Alpha"),
    "an attribute": ("paper/base.py", '"base"', '"other"', "Base"),
    "a base class": ("paper/methods.py", "class Alpha(Base)", "class Alpha(Base, Part)", "Alpha"),
    "the field of a class": ("paper/methods.py", "width: int = SIZE", "width: 'x' = SIZE", "Alpha"),
    "a function": ("paper/methods.py", "return first", "return [first]", "helper"),
    "a constant": ("paper/methods.py", "SIZE = 4", "SIZE = 5", "SIZE"),
    "a constant behind two imports": ("lib/constants.py", "scale = 2.0", "scale = 2.5", "scale"),
    "a function of a module": ("lib/blocks.py", "return inner(x)", "return -inner(x)", "full"),
    "one branch": ("lib/blocks.py", "        return x\ndef full", "        return 0\ndef full",
                   "inner"),
    "a fallback": ("lib/blocks.py", "fast = None", "fast = 0", "fast"),
    "a decorator": ("paper/base.py", "return lambda cls: cls", "return lambda cls: None",
                    "register"),
    "an argument of a decorator": ("paper/methods.py", '@register("method")', '@register("m")',
                                   "Alpha"),
    "an import inside a function": ("lib/lazy.py", "return x", "return -x", "late"),
    "a module of a package": ("lib/deep/inner.py", "return 1", "return 2", "bottom"),
    "an integer that becomes a float": ("paper/methods.py", "SIZE = 4", "SIZE = 4.0", "SIZE"),
    "a library's function": ("paper/methods.py", "import math", "import cmath as math", "Alpha"),
    "which function an import names": ("paper/methods.py", "scale as factor", "other as factor",
                                       "Alpha"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGE.values(), ids=CHANGE)
def test_what_the_class_calls_is_a_change_of_it(place, change):
    *change, name = change
    if name == "Alpha" and "other as" in change[2]:
        edit(place, "lib/__init__.py", "import scale", "import scale, other")
    before = called(place)
    edit(place, *change)
    after = called(place)
    assert after.hash != before.hash
    assert [found for _, found in differences(before.listing(), after.listing())] == [name]


def test_what_changes_a_constant_in_place_belongs_to_it(place):
    before = called(place, "Beta").hash
    edit(place, "paper/methods.py", 'TABLE["a"] = SIZE', 'TABLE["b"] = SIZE')
    after = called(place, "Beta").hash
    assert after != before
    with (place / "paper/methods.py").open("a") as file:
        file.write("\nTABLE.update(c=1)\n")
    assert called(place, "Beta").hash != after


def test_a_definition_that_was_moved_is_no_change(place):
    before = called(place)
    text = (place / "lib/lazy.py").read_text()
    (place / "lib/later.py").write_text(f"import os\n\n\n{text}")
    (place / "lib/lazy.py").unlink()
    edit(place, "paper/methods.py", "from lib.lazy", "from lib.later")
    after = called(place)
    assert after.hash == before.hash and not differences(before.listing(), after.listing())
    tree = SourceTree(place, [SourceFolder(place)])
    assert not tree.find("lib.lazy", "late")
    assert [p.module.path for p in tree.search("lib", "late")] == ["lib/later.py"]


def test_two_names_that_change_places_are_a_change(place):
    edit(place, "lib/lazy.py", "def late", "def early(x):\n    return -x\ndef late")
    edit(place, "paper/methods.py", "import late\n", "import late, early as e; e(1)\n")
    before = called(place)
    edit(place, "paper/methods.py", "import late, early as e", "import early as late, late as e")
    assert called(place).hash != before.hash


def test_star_imports_and_modules_as_values_are_followed(place):
    edit(place, "paper/methods.py", "y = blocks.full(x)", "y = lib.starred(vars(blocks))")
    listing = called(place).listing()
    assert "starred" in listing["lib/stars.py"] and "half" in listing["lib/blocks.py"]


def test_what_lies_outside_is_known_by_name_only(place):
    options = {"outside": ("lib.blocks", "lib.deep")}
    before = called(place, **options)
    assert not any(path.startswith(("lib/blocks", "lib/deep")) for path in before.listing())
    edit(place, "lib/blocks.py", "return inner(x)", "return 0")
    assert called(place, **options).hash == before.hash


def test_a_folder_can_be_limited_to_some_packages(place):
    tree = SourceTree(place, [SourceFolder(place, frozenset({"paper"}))])
    found = tree.called(tree.find("paper.methods", "Alpha")).listing()
    assert set(found) == {"paper/methods.py", "paper/base.py"}


def test_a_package_under_another_name_is_the_same(place):
    before = called(place)
    edit(place, "paper/methods.py", "from lib.parts", "from alias.lib.parts")
    edit(place, "paper/methods.py", "from lib import blocks", "from alias.lib import blocks")
    assert called(place, aliases={"alias": ""}).hash == before.hash


def test_a_file_that_is_not_python_is_named(place):
    before = called(place)
    (place / "lib/lazy.py").write_text("def late(x:\n")
    after = called(place)
    assert after.hash != before.hash
    found = differences(before.listing(), after.listing())
    assert ("lib/lazy.py", "not valid Python") in found


def test_definitions_that_call_each_other_are_read_once(place):
    edit(place, "lib/lazy.py", "return x", "return back(x)\ndef back(x):\n    return late(x)")
    assert sorted(called(place).listing()["lib/lazy.py"]) == ["back", "late"]


def test_a_tree_reads_a_file_once(place):
    tree = SourceTree(place, [SourceFolder(place)])
    tree.keep(place / "lib/lazy.py")
    edit(place, "lib/lazy.py", "return x", "return -x")
    edit(place, "lib/constants.py", "scale = 2.0", "scale = 9.0")
    found = tree.called(tree.find("paper.methods", "Alpha"))
    assert [name for _, name in differences(found.listing(), called(place).listing())] == ["late"]


def test_differences_are_named_by_file_and_a_few_of_them():
    before = {"a.py": dict.fromkeys("abcde", "1")}
    after = {"a.py": {name: f"{n}2" for n, name in enumerate("abcde")}}
    text = names_of(differences(before, after), lambda path: f" [{path}]")
    assert text == "a.py: a, b, c and 2 more [a.py]"
    assert names_of(differences({}, after)) == "a.py: a, b, c and 2 more"
    assert names_of(differences(before, before)) == ""
