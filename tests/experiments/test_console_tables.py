"""A table in a file is written without the library where that gives the same lines."""

import io

import pytest

from experiments.cli import console as console_module
from experiments.cli.console import TerminalTable, table
from experiments.study.terminal import PrintableConsole

TABLES = {
    "plain": table("study demo", ["variant", "dataset", "finished"], [["CoOp", "land", 3]]),
    "numbers": table("t", ["name", "n"], [["a", 1], ["long name", 12345]], numbers=1),
    "brackets": table("[b]x[/b] :smile:", ["[red]"], [["[link]"], ["a\\[b]"]]),
    "no rows": table("study demo", ["variant", "dataset"], []),
    "long title": table("a title that is wider than the table", ["a", "b"], [["1", "2"]]),
    "wide": table("t", ["a", "b"], [["x" * 200, "y"], ["a b " * 60, "z"]]),
    "at the edge": table("t", ["a", "b"], [["x" * 150, "y" * 3], ["", "z"]]),
    "beyond the edge": table("t", ["a", "b"], [["x" * 151, "y" * 3], ["", "z"]]),
    "wide characters": table("t", ["名前"], [["数据集"], ["é"]]),
    "control characters": table("t", ["a"], [["x\x1b[31m\ty"], ["two\nlines"]]),
    "spaces": table(" t ", [" a"], [["  x  "], [""]]),
}


def written(found):
    stream = io.StringIO()
    PrintableConsole(stream).print(found)
    return stream.getvalue()


@pytest.mark.parametrize("name", TABLES)
def test_the_lines_are_those_of_the_library(name, monkeypatch):
    fast = written(TABLES[name])
    monkeypatch.setattr(TerminalTable, "_is_simple", lambda self: False)
    assert fast == written(TABLES[name])


def test_a_long_table_is_no_work_for_the_library(monkeypatch):
    def refuse(self):
        raise AssertionError("the library was asked")

    monkeypatch.setattr(console_module.TerminalTable, "_table", refuse)
    rows = [[f"variant {i}", "land", i] for i in range(100)]
    assert written(table("study", ["variant", "dataset", "finished"], rows)).count("\n") == 105
