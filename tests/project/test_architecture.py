"""Who may import whom, one door a library, and the house rules that a machine can read."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.source_files import (
    FILES,
    MODULES,
    PACKAGES,
    TEST_FILES,
    circles,
    imported_modules,
    imports,
    is_below,
    module_of,
    name_of,
    syntax_tree,
)

NAMES = [name_of(file) for file in FILES]
TEST_NAMES = [name_of(file) for file in TEST_FILES]


def for_each(names):
    """Makes one test of a check of many files, with every file that fails in its message: as
    thousands of tests they would take longer to be collected than to be checked.
    """

    def decorate(check):
        def test():
            wrong = []
            for name in names:
                try:
                    check(name)
                except (AssertionError, pytest.fail.Exception) as error:
                    wrong.append(f"{name}: {error}")
            assert not wrong, "\n".join(wrong)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


each_file = for_each(NAMES)
each_test_file = for_each(TEST_NAMES)

MAX_FILE = 600
MAX_FUNCTION = 40

# What each room may import of the project, besides itself: main -> cli -> search -> study ->
# workers -> run -> methods, refiners -> core, and cli -> report -> render -> sections -> figures
# -> read -> stats, text. A room may import everything below it.
RUN = {"methods", "refiners", "core", "experiments.configs"}
BELOW = {"core.store", "core.metrics", "core.suggestions", "core.program"}
READ = {"analysis.stats", "analysis.text", *BELOW}
MAY_IMPORT = {
    "core.metrics": set(),
    "core.suggestions": set(),
    "core.program": set(),
    "core.machine": set(),
    "core.store": {"core.metrics", "core.suggestions"},
    "core": set(),
    "methods": {"core"},
    "refiners": {"core"},
    "experiments.configs": {"core"},
    "experiments.run": RUN,
    "experiments.contracts": RUN | {"experiments.run"},
    "experiments.verify": RUN | {"experiments.run"},
    "experiments.workers": RUN | {"experiments.run"},
    "experiments.study": RUN | {"experiments.run", "experiments.workers"},
    "experiments.search": RUN | {"experiments.run", "experiments.workers", "experiments.study"},
    "experiments.cli": {"experiments", "analysis", *RUN},
    "main": {"experiments", "analysis", *RUN},
    "refinelab": {"experiments", "analysis", *RUN},
    "analysis.stats": set(),
    "analysis.text": {"analysis.stats"},
    "analysis.read": READ,
    "analysis.figures": READ | {"analysis.read"},
    "analysis.sections": READ | {"analysis.read", "analysis.figures"},
    "analysis.render": READ | {"analysis.read", "analysis.figures", "analysis.sections"},
    "analysis": {"analysis", *READ},
    "experiments": set(),
}

DOORS = {
    "open_clip": ("core/clip/open_clip_library.py",),
    "timm": ("core/clip/image_towers.py",),
    "torchvision": ("core/clip/torchvision_ops.py",),
    "gin": ("core/config/parse.py",),
    "mlflow": ("experiments/study/tracking.py",),
    "wandb": ("experiments/study/wandb_mirror.py",),
    "optuna": ("experiments/search/",),
    "sqlalchemy": ("experiments/search/mirror.py",),
    "ray": ("experiments/workers/",),
    "submitit": ("experiments/workers/",),
    "filelock": ("experiments/study/",),
    # the published splits of two datasets come as .mat files, and scipy.io reads them
    "scipy": ("analysis/stats/", "core/data/benchmarks/mat_files.py"),
    "statsmodels": ("analysis/stats/",),
    "scikit_posthocs": ("analysis/stats/",),
    "sklearn": ("core/data/digits.py",),
    "seaborn": ("analysis/figures/",),
    "matplotlib": ("analysis/figures/",),
    "jinja2": ("analysis/render/",),
}

# Rooms that analysis and the parent process read without torch: the standard library is enough.
STANDARD_LIBRARY_ONLY = ("core/store/", "core/source/", "core/metrics.py", "core/suggestions.py")

# The embedded model is stored in half precision; the released deep prompts round to it.
STORES_HALF = ("core/mosaic/", "core/clip/deep_prompts.py")


def room_of(module):
    """The most specific key of MAY_IMPORT that a module is in."""
    return max((room for room in MAY_IMPORT if is_below(module, room)), key=len)


def test_a_check_of_many_files_names_every_one_that_fails():
    @for_each(("a", "b", "c"))
    def test_a(name):
        assert name != "a", "the first"
        if name == "c":
            pytest.fail("the last")

    with pytest.raises(AssertionError, match=r"a: the first[^b]*c: the last"):
        test_a()


def test_there_is_something_to_read():
    assert len(FILES) > 60
    assert {"main.py", "core/config/registry.py", "methods/coop.py"} <= set(NAMES)
    assert "methods.base" in imported_modules("methods/coop.py")
    assert room_of("analysis.report") == "analysis" and room_of("core.clip.blocks") == "core"
    assert circles({"a": "b", "b": "c", "c": "a", "d": "a"}) == [["a", "b", "c"]]


@each_file
def test_imports_point_downwards(name):
    room = room_of(module_of(name))
    allowed = MAY_IMPORT[room] | {room}
    ours = {m for m in imports(name) if any(is_below(m, p) for p in (*PACKAGES, "main", "tests"))}
    wrong = {m for m in ours if not any(is_below(m, other) for other in allowed)}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def test_no_import_goes_round_in_a_circle():
    graph = {module: imported_modules(name) - {module} for module, name in MODULES.items()}
    assert not circles(graph)


@each_file
def test_no_import_is_for_the_type_checker_alone(name):
    """It hides a circle."""
    found = {n.id for n in ast.walk(syntax_tree(name)) if isinstance(n, ast.Name)}
    assert "TYPE_CHECKING" not in found


@each_file
def test_one_door_a_library(name):
    wrong = [
        f"{name} imports {library}: only {' and '.join(doors)} may"
        for library, doors in DOORS.items()
        if any(is_below(module, library) for module in imports(name)) and not name.startswith(doors)
    ]
    assert not wrong


@each_file
def test_what_everybody_reads_needs_the_standard_library_only(name):
    if name.startswith(STANDARD_LIBRARY_ONLY):
        roots = {module.split(".")[0] for module in imports(name)}
        outside = roots - set(sys.stdlib_module_names) - {"core"}
        assert not sorted(f"{name} imports {module}" for module in outside)


def test_analysis_never_loads_torch():
    modules = [module for module in MODULES if is_below(module, "analysis")]
    code = "; ".join(
        ["import sys", f"import {', '.join(modules)}", "print('torch' in sys.modules)"]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_core_names_no_path_of_experiments():
    core = [name for name in NAMES if name.startswith("core/")]
    assert not sorted(
        f"{name}:{node.lineno} names {node.value!r}"
        for name in core
        for node in ast.walk(syntax_tree(name))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("experiments")
    )


def test_one_name_a_concept():
    """No two classes of the same name in two modules."""
    where = defaultdict(list)
    for name in NAMES:
        for node in syntax_tree(name).body:
            if isinstance(node, ast.ClassDef):
                where[node.name].append(name)
    assert not sorted(
        f"{title}: {', '.join(files)}" for title, files in where.items() if len(files) > 1
    )


@each_file
def test_files_fit_a_reader(name):
    lines = (ROOT / name).read_text().count("\n")
    assert lines <= MAX_FILE, f"{name} has {lines} lines"


@each_file
def test_functions_fit_a_screen(name):
    long = [
        f"{name}:{node.lineno} {node.name} has {length} lines"
        for node in ast.walk(syntax_tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := body_lines(node)) > MAX_FUNCTION
    ]
    assert not long


def body_lines(node):
    """Lines of a function from its ``def`` on: without decorators, docstring, and, on the command
    line, where every parameter carries its help, without the parameters.
    """
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    skipped = first.end_lineno - first.lineno + 1 if documented else 0
    return node.end_lineno - node.body[0].lineno + 2 - skipped


@each_file
def test_no_shortcuts(name):
    for node in ast.walk(syntax_tree(name)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where}: bare"
        if isinstance(node, ast.Call):
            loose = [k for k in node.keywords if k.arg == "strict" and is_false(k.value)]
            loads = isinstance(node.func, ast.Attribute) and "load" in node.func.attr
            assert not (loose and loads), f"{where}: loads with strict=False"
            if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
                pytest.fail(f"{where}: the device is decided in experiments/run/")
            if isinstance(node.func, ast.Attribute) and node.func.attr == "half":
                assert name.startswith(STORES_HALF), f"{where}: precision: see experiments/run/"
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            kept = [t for t in node.targets if isinstance(t, ast.Attribute)]
            assert not kept, f"{where}: a lambda on an object cannot be copied to a worker"


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


@each_file
def test_no_leftovers(name):
    text = (ROOT / name).read_text()
    for mark in ("TODO", "FIXME", "XXX", "breakpoint("):
        assert mark not in text, f"{name}: {mark}"
    assert not any(line.startswith("    print(") for line in text.splitlines()) or (
        name == "main.py" or name.startswith(("experiments/", "analysis/"))
    ), f"{name} prints"


@each_file
def test_no_helper_drawers(name):
    assert Path(name).stem not in {"utils", "util", "helpers", "common", "misc"}


def test_every_public_thing_says_what_it_is():
    bare = []
    for name in NAMES:
        if not ast.get_docstring(syntax_tree(name)):
            bare.append(name)
        for node in syntax_tree(name).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                bare.append(f"{name}:{node.lineno} {node.name}")
    assert not bare, bare


def test_every_hook_of_the_interfaces_says_what_it_does():
    assert not [
        f"core/interfaces.py:{hook.lineno} {interface.name}.{hook.name}"
        for interface in syntax_tree("core/interfaces.py").body
        if isinstance(interface, ast.ClassDef)
        for hook in interface.body
        if isinstance(hook, ast.FunctionDef) and hook.name[0] != "_"
        if not ast.get_docstring(hook)
    ]


@each_test_file
def test_no_test_module_imports_another(name):
    """What several test modules share is in tests/helpers/, and helpers import no test module."""
    shared = ("tests.helpers", "tests.conftest")
    found = {module for module in imports(name) if is_below(module, "tests")}
    assert not [m for m in found if not any(is_below(m, allowed) for allowed in shared)]
    parts = {part for module in imports(name) for part in module.split(".")}
    assert not [part for part in parts if part.startswith("test_")]


def test_tests_are_sorted_by_room():
    """``tests/ROOM/test_SUBJECT.py``, helpers without tests, and no two files of one name."""
    rooms = {"core", "methods", "refiners", "experiments", "analysis", "project", "faults"}
    stems = [Path(name).stem for name in TEST_NAMES]
    assert sorted(set(stems)) == sorted(stems)
    for name in TEST_NAMES:
        _, *room, file = name.split("/")
        tests = [
            n.name for n in syntax_tree(name).body if getattr(n, "name", "").startswith("test_")
        ]
        if room == ["helpers"] or name == "tests/conftest.py":
            assert not tests, name
        else:
            assert len(room) == 1 and room[0] in rooms and file.startswith("test_"), name
