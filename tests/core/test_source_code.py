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
        if not x:
            raise ValueError("no text")
        elif x == 1:
            raise TypeError(f"got {x}") from None
        elif x == 2:
            raise KeyError("key")
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
    "the text of an error": ("paper/methods.py", "no text", "other text"),
    "the text around a value in an error": ("paper/methods.py", "got {x}", "there was {x} here"),
    "definitions in another order": ("paper/methods.py", "def unit(x):\n    return unused(x)\n\n"
                                     "def unused(x):\n    return x",
                                     "def unused(x):\n    return x\n\ndef unit(x):\n"
                                     "    return unused(x)"),
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
    "the value in the text of an error": ("paper/methods.py", "got {x}", "got {-x}", "helper"),
    "the class of an error": ("paper/methods.py", "TypeError", "ValueError", "helper"),
    "the text of an error that can be data": ("paper/methods.py", '"key"', '"other"', "helper"),
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


REWIRED = {
    "an import": ({"a.py": "def g():\n    return 1\n", "b.py": "def g():\n    return 2\n"},
                  "from a import g\nimport a, b\nclass C:\n    def f(self):\n"
                  "        return g(), a.g(), b.g()\n", "from a import g", "from b import g"),
    "an object of another module": ({"a.py": "T = {}\n", "b.py": "T = {}\n"},
                                    "from a import T\nimport a, b\nclass C:\n    def f(self):\n"
                                    "        return T, a.T, b.T\n", "from a", "from b"),
    "bases": ({"a.py": "class P:\n    x = 1\nclass Q:\n    x = 2\n"},
              "from a import P as A, Q as B\nclass C(A):\n    z = B\n",
              "P as A, Q as B", "Q as A, P as B"),
    "an import of a branch": ({"a.py": "g = 1\n", "b.py": "g = 2\n"},
                              "try:\n    from a import g\nexcept ImportError:\n"
                              "    from b import g\nclass C:\n    x = g\n",
                              "from a import g\nexcept ImportError:\n    from b",
                              "from b import g\nexcept ImportError:\n    from a"),
    "imports of methods": ({"a.py": "g = 1\n", "b.py": "g = 2\n"},
                           "class C:\n    def e(self):\n        from a import g\n        return g\n"
                           "    def f(self):\n        from b import g\n        return g\n"
                           "    def h(self):\n        from a import g  # one\n        return g\n",
                           "from a import g  # one", "from b import g"),
    "two imports of a name": ({"a.py": "g = 1\n", "b.py": "g = 2\n"},
                              "from a import g\nfrom b import g\nclass C:\n    x = g\n",
                              "from a import g\nfrom b", "from b import g\nfrom a"),
    "two star imports": ({"a.py": "g = 1\n", "b.py": "g = 2\n"},
                         "from a import *\nfrom b import *\nclass C:\n    x = g\n",
                         "from a import *\nfrom b", "from b import *\nfrom a"),
    "two changes of a constant": ({}, "K = 1\nK = K * 2\nK = K + 3\nclass C:\n    x = K\n",
                                  "K = K * 2\nK = K + 3", "K = K + 3\nK = K * 2"),
    "a constant read between": ({}, "K = 1\nJ = K\nK = 2\nclass C:\n    x = J, K\n",
                                "J = K\nK = 2", "K = 2\nJ = K"),
    "two functions of a name": ({}, "def g():\n    return 1\ndef g():\n    return 2\n"
                                "class C:\n    x = g()\n",
                                "return 1\ndef g():\n    return 2",
                                "return 2\ndef g():\n    return 1"),
    "two patches": ({"a.py": "class P:\n    pass\n"},
                    "from a import P\nsetattr(P, 'x', 1)\nsetattr(P, 'x', 2)\nclass C(P):\n"
                    "    pass\n",
                    "1)\nsetattr(P, 'x', 2)", "2)\nsetattr(P, 'x', 1)"),
    "a patch by another name": ({"a.py": "class P:\n    pass\n"},
                                "import a as other\nfrom a import P\nother.P.x = 1\n"
                                "class C(P):\n    pass\n", "x = 1", "x = 2"),
    "functions that call each other": ({}, "def g(n):\n    return h(n) or 1\ndef h(n):\n"
                                       "    return g(n) or 2\nclass C:\n    x = g(1), h(1)\n",
                                       "h(n) or 1\ndef h(n):\n    return g(n) or 2",
                                       "h(n) or 2\ndef h(n):\n    return g(n) or 1"),
    "a comprehension over its name": ({}, "xs = [1]\nclass C:\n    def f(self):\n"
                                      "        return [xs for xs in xs]\n", "[1]", "[2]"),
    "a generic function": ({}, "from functools import singledispatch\n@singledispatch\n"
                           "def g(x):\n    return 0\n@g.register\ndef _(x: int):\n    return 1\n"
                           "class C:\n    x = g(1)\n", "return 1", "return 2"),
    "a function by its name": ({}, "def g():\n    return 1\nclass C:\n    def f(self):\n"
                               "        return globals()['g']()\n", "return 1", "return 2"),
}  # fmt: skip


@pytest.mark.parametrize(("beside", "source", "old", "new"), REWIRED.values(), ids=REWIRED)
def test_what_a_name_stands_for_and_when_is_part_of_the_code(tmp_path, beside, source, old, new):
    for name, text in {**beside, "m.py": source}.items():
        (tmp_path / name).write_text(text)
    before = called(tmp_path, "C", "m").hash
    edit(tmp_path, "m.py", old, new)
    assert called(tmp_path, "C", "m").hash != before


def test_constants_that_change_places_are_a_change_and_are_named(tmp_path):
    for name, value in (("a", "1e-5"), ("b", "1e-8")):
        (tmp_path / f"{name}.py").write_text(f"EPS = {value}\n\ndef {name}():\n    return EPS\n")
    (tmp_path / "m.py").write_text("from a import a\nfrom b import b\nclass C:\n    x = a(), b()\n")
    before = called(tmp_path, "C", "m")
    edit(tmp_path, "a.py", "1e-5", "1e-8")
    edit(tmp_path, "b.py", "1e-8", "1e-5")
    after = called(tmp_path, "C", "m")
    assert after.hash != before.hash
    assert differences(before.listing(), after.listing()) == [("a.py", "EPS"), ("b.py", "EPS")]


def test_the_statements_of_a_package_belong_to_its_modules(place):
    before = called(place).hash
    (place / "paper/__init__.py").write_text("import math\nmath.tau = 6\n")
    assert called(place).hash != before


def test_a_whole_module_comes_with_those_that_it_imports(place):
    edit(place, "paper/base.py", "from abc import ABC", "from abc import ABC\nimport lib.parts")
    (place / "lib/parts.py").write_text(
        "import lib.deep.inner as i, os\nTABLE = {}\nTABLE['a'] = 1"
    )
    tree = SourceTree(place, [SourceFolder(place)])
    found = tree.called(tree.whole("paper.base", lambda name: not name.startswith("lib.deep")))
    assert {path: list(names) for path, names in found.listing().items()} == {
        "lib/constants.py": ["other", "scale"],
        "lib/blocks.py": ["fast", "full", "half", "inner"],
        "lib/parts.py": ["TABLE"],
        "lib/stars.py": ["starred"],
        "paper/base.py": ["Base", "beside", "register"],
    }


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
