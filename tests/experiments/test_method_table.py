"""The table of methods, the matrix of methods and refiners, and the costs of steps."""

import functools
import json
import re

import pytest
import torch

from core.config import isolated_registry, register, registered_classes
from experiments.cli.method_table import (
    markdown_table,
    matrix_rows,
    matrix_table,
    method_rows,
    methods_markdown,
    paper,
)
from experiments.run.protocols import PROTOCOLS
from experiments.run.step_costs import measure_step_costs, read_step_costs, write_step_costs
from experiments.verify.verify import CASES
from main import main
from methods.coop import CoOp
from tests.helpers.readme_tables import shown_table


@functools.cache
def rows():
    return {row["name"]: row for row in method_rows()}


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["main.py", *map(str, words)])
    code = main()
    return code, capsys.readouterr()


def names(kind):
    return [entry.name for entry in registered_classes(kind)]


def test_the_readme_has_the_table_of_now():
    """``python -m tests.helpers.readme_tables`` writes it; what is measured may be older."""

    def static(table):
        cells = [line.split(" | ") for line in table.splitlines() if line.startswith("|")]
        step = cells[0].index("step")
        return [cell[:step] + cell[step + 1 :] for cell in cells]

    assert static(shown_table()) == static(methods_markdown())


def test_every_method_has_a_row_with_its_own_facts():
    assert list(rows()) == names("method")
    width, depth = 512, 12
    assert rows()["CoOp"]["parameters"] == 4 * width
    assert rows()["IVLP"]["parameters"] == 2 * depth * (width + 768)
    assert rows()["MaPLe"]["parameters"] == 9 * (2 * width + 768 * width + 768)
    hidden = width // 4
    net = hidden * width + hidden + 4 * width * hidden + 4 * width
    assert rows()["TCP"]["parameters"] == 4 * width + net
    assert rows()["ZeroShot"]["parameters"] == 0 and rows()["ZeroShot"]["learns"] == "nothing"
    assert rows()["PromptKD"]["regime"] == "limited"
    assert "coop" in rows()["CoOp"]["presets"] and "text_refiner" not in rows()["CoOp"]["presets"]
    for row in rows().values():
        assert row["vectors"] is (row["name"].lower() in CASES)
        assert row["file"].startswith("methods/") and row["protocols"]


def test_a_closed_set_method_names_the_protocols_that_admit_it():
    with isolated_registry():

        @register("method")
        class OneTextEach(CoOp):
            """A context for each class that was trained on."""

            @classmethod
            def closed_set(cls, parameters):
                return "it has a context for each of them"

        (row,) = [row for row in method_rows() if row["name"] == "OneTextEach"]
    admitted = {name for name, protocol in PROTOCOLS.items() if not protocol.scores_others}
    assert set(row["protocols"]) == admitted < set(PROTOCOLS)
    assert not row["vectors"] and row["cost"] is None and row["makes_steps"]


def test_the_matrix_holds_every_pair_and_says_why_not():
    with isolated_registry():

        @register("method")
        class PooledOnly(CoOp):
            """Has no local tokens."""

            provides = frozenset({"pooled"})

        cells = matrix_rows()
        table = {row[:2]: row for row in matrix_table(cells)}
        methods, refiners = names("method"), names("refiner")
        assert set(table) == {(m, r) for m in methods for r in refiners}
    alone = {cell["part"] for cell in cells if cell["slot"]}
    on = {
        part
        for kind in ("alignment", "cache", "aggregation", "loss")
        for part in names(kind)
        if not re.match(r"No[A-Z]", part)
    }
    assert alone == on
    found = {(c["method"], c["part"]): c for c in cells if c["refiner"] == "TextRefiner"}
    assert all(found["CoOp", part]["works"] for part in on)
    refused = found["PooledOnly", "EmaCache"]
    assert not refused["works"] and "needs the image fields ['local']" in refused["reason"]
    assert found["PooledOnly", "LinearAggregation"]["works"]
    _, _, whole, works, does_not = table["PooledOnly", "TextRefiner"]
    assert "does not provide" in whole and "LinearAggregation" in works and "EmaCache" not in works
    assert "cache EmaCache" in does_not and "SemanticLoss" in does_not
    assert table["CoOp", "TextRefiner"][2:4] == ("yes", "all")


def test_the_command_prints_matrix_and_table(monkeypatch, capsys):
    code, shown = command(monkeypatch, capsys, "list", "matrix", "--markdown")
    assert code == 0 and "| CoOp | TextRefiner | yes | all |" in shown.out
    code, shown = command(monkeypatch, capsys, "list", "matrix", "--json")
    assert code == 0 and {c["method"] for c in json.loads(shown.out)} == set(names("method"))
    code, shown = command(monkeypatch, capsys, "list", "methods", "--markdown")
    assert code == 0 and shown.out.startswith("| method | paper |")


@pytest.mark.parametrize(
    "words", [("parts", "--markdown"), ("--markdown",), ("methods", "--markdown", "--json")]
)
def test_what_has_no_markdown_is_refused(monkeypatch, capsys, words):
    code, shown = command(monkeypatch, capsys, "list", *words)
    assert code == 2 and "--markdown writes 'list methods' or 'list matrix' alone" in shown.err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Zhou et al., A Title, with Comma, IJCV 2022, arXiv 2109.01134.",
         "Zhou et al., IJCV 2022, [arXiv 2109.01134](https://arxiv.org/abs/2109.01134)"),
        ("Mensink et al., One, TPAMI 2013; Snell et al., Two, NeurIPS 2017, arXiv 1703.05175.",
         "Snell et al., NeurIPS 2017, [arXiv 1703.05175](https://arxiv.org/abs/1703.05175)"),
        ("Ours, after the adapter of Gao et al., A Title, 2021, arXiv 2110.04544. They blend.",
         "Ours, after [arXiv 2110.04544](https://arxiv.org/abs/2110.04544)"),
        ("Ours, after nobody.", "Ours, after nobody"),
        ("", "-"),
    ],
)  # fmt: skip
def test_a_reference_loses_its_title(source, expected):
    assert paper(source) == expected


def test_bars_in_cells_are_escaped():
    assert markdown_table(("a", "b"), [("x|y", "z")]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_costs_are_measured_for_methods_that_make_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.step_costs.ROUNDS", 1)
    monkeypatch.setattr("experiments.run.step_costs.NUM_CLASSES", 3)
    threads = torch.get_num_threads()
    costs = measure_step_costs("cpu")
    assert set(costs.ratios) == {name for name, row in rows().items() if row["makes_steps"]}
    assert "CoOp" in costs.ratios and "ZeroShot" not in costs.ratios
    assert costs.ratios["CoOp"] == 1.0 and all(ratio > 0 for ratio in costs.ratios.values())
    assert costs.threads == threads and costs.device.startswith("cpu")
    write_step_costs(tmp_path / "costs.json", costs)
    assert read_step_costs(tmp_path / "costs.json") == costs


def test_the_shipped_costs_are_relative_to_coop():
    costs = read_step_costs()
    assert costs.ratios["CoOp"] == 1.0 and set(costs.ratios) <= set(names("method"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", costs.date) and costs.device and costs.base_ms > 0
