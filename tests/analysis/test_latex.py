"""The report as LaTeX: it compiles as it is, and no name can do anything in it."""

import re
import shutil
import subprocess

import pytest

from analysis.render.latex_text import SPECIAL, breakable, escape, unknown_letters
from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.section import known_citations
from tests.helpers.report_studies import EVIL, evil_study
from tests.helpers.study_folders import make_study

QUICK = Options(reps=200)
COMPILER = next((c for c in ("pdflatex", "tectonic") if shutil.which(c)), None)
OURS = {
    "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar",
    "textquotedbl", "textasciigrave", "pm", "approx", "dag", "rightarrow", "times", "alpha",
    "ldots", "cdot", "geq", "bigtriangleup", "bigtriangledown", "circ", "leq", "documentclass",
    "usepackage", "begin", "end", "section", "subsection", "item", "rule", "caption",
    "centering", "small", "scriptsize", "resizebox", "ifdim", "width", "linewidth", "else", "fi",
    "toprule", "midrule", "bottomrule", "textbf", "underline", "includegraphics", "IfFileExists",
    "cite", "bibitem", "allowbreak", "noindent", "normalsize", "clearpage", "emergencystretch",
    "setlength", "belowcaptionskip", "newsavebox", "newcommand", "drawn", "fitted", "sbox",
    "usebox", "wd", "ht", "textheight",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = evil_study(tmp_path_factory.mktemp("latex") / "names", datasets=2, seeds=2)
    return build_report(folder, out=folder / "report", options=QUICK, figures=False)


def test_environments_and_braces_are_balanced_and_all_commands_are_ours(report):
    text = (report.out / "report.tex").read_text()
    open_ = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    bare = re.sub(r"\\[\\{}$&%#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= OURS
    assert text.count(r"\toprule") == text.count(r"\bottomrule") >= 4


def test_rows_have_as_many_cells_as_columns(report):
    text = (report.out / "report.tex").read_text()
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S
    ):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)


def test_names_are_escaped(report):
    text = (report.out / "report.tex").read_text()
    for name in EVIL:
        assert escape(name) in text
    assert escape(r"50% of_A & \input{x}") == r"50\% of\_A \& \textbackslash{}input\{x\}"
    assert escape("日\x07\n") == "{[}U+65E5{]} " and all(escape(c) == SPECIAL[c] for c in SPECIAL)
    assert escape("--x ''") == "-{}-x '{}'" and escape("e\u0301ħλ") == r"é{[}U+0127{]}$\lambda$"
    assert breakable("a_b/c=1") == r"a\_\allowbreak{}b/\allowbreak{}c=\allowbreak{}1"
    assert unknown_letters(["é日", "λ [", "日語"]) == ("日", "語")


def test_marks_methods_and_references(tmp_path):
    folder = make_study(tmp_path / "s", {"CoOp": (0, 0), "Full": (20, 20)}, datasets=6, seeds=3)
    made = build_report(folder, out=tmp_path / "out", options=QUICK, figures=False)
    text = (tmp_path / "out" / "report.tex").read_text()
    assert r"\textbf{" in text and r"\underline{" in text and r"\dag{}" in text
    cited = set(re.findall(r"\\cite\{(\w+)\}", text))
    assert cited == set(re.findall(r"\\bibitem\{(\w+)\}", text)) and "demsar2006" in cited
    bib = (tmp_path / "out" / "references.bib").read_text()
    assert cited == set(re.findall(r"@\w+\{(\w+),", bib)) <= set(known_citations())
    markdown, paragraph = (tmp_path / "out" / "report.md").read_text(), made.section("methods").text
    assert "demsar2006" not in markdown and "\\[1]" in markdown
    assert "exact Wilcoxon" in paragraph and "6 datasets" in paragraph
    assert "t test of the mean difference" in paragraph and "over dataset means" in paragraph


WILD = (
    "a_b & 50% #1 <script> $x^2$ {y} ~ \\ é 数",
    "[1cm] option",
    "*starred* `q` --x",
    "😀 e\u0301ħ",
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """50 variants on 15 datasets, four of them with names that LaTeX would stumble over."""
    names = [*WILD, *(f"variant {i}" for i in range(46))]
    lines = ["variant,dataset,seed,accuracy"]
    for i, name in enumerate(names):
        lines += [f"{name},set_{d},1,{50 + d + i % 7}" for d in range(15)]
    path = tmp_path_factory.mktemp("wide") / "wide.csv"
    path.write_text("\n".join(lines) + "\n")
    return build_report(path, out=path.parent / "report", options=QUICK, figures=False)


def test_wide_and_long_tables_become_several(wide):
    text = (wide.out / "report.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S)
    assert max(len(columns) for columns, _ in tables) <= 9
    assert max(body.count("\\\\\n") for _, body in tables) <= 46
    results = text.partition(r"\section*{Results}")[2].partition(r"\section*{Comparisons}")[0]
    for name in WILD:
        assert results.count(escape(name) + " & ") == 2  # twice 8 columns
    assert "Columns, part 2 of 2. Rows, part 2 of 2." in text
    assert "fonts lack: {[}U+0127{]}, {[}U+6570{]}, {[}U+1F600{]}." in text


def compiled(report, folder):
    """The log after two runs of the compiler, which must be enough."""
    shutil.copytree(report.out, folder)
    command, runs = [COMPILER, "report.tex"], 1
    if COMPILER == "pdflatex":
        command[1:1], runs = ["-interaction=nonstopmode", "-halt-on-error"], 2
    for _ in range(runs):
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "report.pdf").exists()
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.skipif(COMPILER is None, reason="neither pdflatex nor tectonic is installed")
def test_it_compiles_to_a_finished_document(report, wide, tmp_path):
    for name, made in (("evil", report), ("wide", wide)):
        log = compiled(made, tmp_path / name)
        assert not re.findall(r"(?i)undefined|Overfull|too large", log)
