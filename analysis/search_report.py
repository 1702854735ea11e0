"""The report of a search: what tuning gained on fresh seeds, what it cost, and how it got there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from analysis.figures import search as figures
from analysis.figures.figure import Figure, to_svg
from analysis.read.search_trials import DEFINITION_NAME, SearchData, Trial, read_search
from analysis.read.study_folder import load_study, seen_from
from analysis.render.page_templates import page_templates
from analysis.sections.comparisons import TESTS, Comparison, Options, compare_all
from analysis.sections.headline import EMBEDDED_CAVEAT, KINDS
from analysis.text import counted, interval_text, p_text, phrase, points
from core.store.record import write_atomic

__all__ = ["DEFINITION_NAME", "SearchReport", "build_search_report", "report_search"]

SCHEMA_VERSION = 1
TUNED, DEFAULT, CONTROL = "tuned", "default", "random search"


SLICES_CAPTION = (
    "One dot a complete trial. The other settings vary as well: a slice shows where the sampler "
    "looked and what it found, not the effect of one setting. Darker is later."
)


class Exhibit(NamedTuple):
    """A box of the page with its figures; ``reason`` says why there are none."""

    name: str
    caption: str
    figures: tuple[Figure, ...]
    reason: str

    @property
    def title(self) -> str:
        return figures.TITLES[self.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """A built report. ``findings`` are its sentences with their kind, ``page`` the file to open."""

    search: SearchData
    findings: tuple[tuple[str, str], ...]
    comparisons: tuple[Comparison, ...]
    exhibits: tuple[Exhibit, ...]
    page: Path

    def to_dict(self) -> dict[str, Any]:
        """What the report says, JSON-able, without paths and times."""
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.search.name,
            "objectives": list(self.search.objectives),
            "findings": [{"kind": kind, "text": text} for kind, text in self.findings],
            "trials": [
                {"number": t.number, "state": t.state, "params": dict(t.params)}
                | {"values": list(t.values)}
                for t in self.search.trials
            ],
            "result": self.search.result,
            "importances": self.search.importances,
            "comparisons": [_comparison(c) for c in self.comparisons],
            "figures": {
                e.name: {figure.name: figure.values for figure in e.figures}
                for e in self.exhibits
                if e.figures
            },
            "figures_absent": {e.name: e.reason for e in self.exhibits if not e.figures},
        }


def build_search_report(
    folder: Path,
    *,
    out: Path | None = None,
    options: Options | None = None,
    allow_mixed: bool = False,
) -> SearchReport:
    """Build the report of a search folder into ``out``: index.html, one self-contained page, and
    report.json.

    A search that was not judged yet has no sentence about test images. Raises ValueError for a
    folder that cannot be read.
    """
    search = read_search(folder)
    out = out or folder / "report"
    comparisons = _comparisons(search, options or Options(), allow_mixed)
    report = SearchReport(
        search=search,
        findings=tuple(_findings(search, comparisons)),
        comparisons=comparisons,
        exhibits=_exhibits(search),
        page=out / "index.html",
    )
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(out / "report.json", text + "\n")
    write_atomic(report.page, _page(report))
    return report


def report_search(
    folder: Path,
    out: Path | None,
    json_file: Path | None,
    options: Options,
    *,
    allow_mixed: bool = False,
) -> None:
    """Build the report of a search, print its findings, and say which page to open."""
    report = build_search_report(folder, out=out, options=options, allow_mixed=allow_mixed)
    if json_file is not None:
        text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(json_file, text + "\n")
    for _, text in report.findings:
        print(f"* {text}")
    print(f"page: {report.page}")


def _comparisons(search: SearchData, options: Options, allow_mixed: bool) -> tuple[Comparison, ...]:
    """The winner against the default, the control against it, and the winner against the control,
    on the metric that the first objective stands for.
    """
    if search.result is None:
        return ()
    final_dir = search.folder.parent / search.result["final_study"]
    study = load_study(final_dir, allow_mixed=allow_mixed)
    names = set(study.variants)
    metric = search.result["test_metrics"][0]
    against = [name for name in (CONTROL,) if name in names]
    results = seen_from(study, baseline=DEFAULT, references=against, metric=metric)
    blocks = {block.reference: block.comparisons[metric] for block in compare_all(results, options)}
    wanted = [(TUNED, DEFAULT), (CONTROL, DEFAULT), (TUNED, CONTROL)]
    return tuple(
        found
        for variant, reference in wanted
        for found in blocks.get(reference, ())
        if found.variant == variant
    )


def _findings(search: SearchData, comparisons: tuple[Comparison, ...]) -> list[tuple[str, str]]:
    """The sentences of the page, the most telling first."""
    if search.result is None:
        done, all_ = len(search.complete), len(search.trials)
        text = (
            f"Not judged yet: {done} of {counted(all_, 'trial')} complete, test images untouched."
        )
        return [("note", text)]
    found = [_gain(search, comparison) for comparison in comparisons]
    found.append(("note", _optimism(search)))
    if not search.control:
        text = "Not compared with a random search of equal budget: none was run; --control adds it."
        found.append(("note", text))
    if bad := [t for t in search.trials if not t.complete]:
        states = ", ".join(
            f"{sum(t.state == state for t in bad)} {state}"
            for state in dict.fromkeys(t.state for t in bad)
        )
        found.append(("note", f"Trials without a value: {states}; see the table."))
    if search.definition["mode"] == "asynchronous":
        text = "Asynchronous: the order of trials hung on timing, a second search will differ."
        found.append(("note", text))
    if all(name.startswith("mosaic/") for name in search.definition["datasets"]):
        found.append(("note", EMBEDDED_CAVEAT))
    return found


def _gain(search: SearchData, c: Comparison) -> tuple[str, str]:
    assert search.result is not None
    if c.difference is None:
        return "note", f"{c.variant} against {c.reference}: {c.reason or 'not comparable'}."
    runs = search.result["search_runs" if c.variant == TUNED else "control_runs"]
    who = {TUNED: "Tuning", CONTROL: "Random search of equal budget"}[c.variant]
    verb = "gained" if c.difference >= 0 else "lost"
    text = (
        f"{who} {verb} {points(abs(c.difference))} points {phrase(c.metric)} against the "
        f"{c.reference} on fresh seeds ({_certainty(c)}: {c.verdict})"
    )
    if c.reference == DEFAULT:
        text += f", cost {counted(runs, 'run')}"
        text += f" and {search.seconds / 60:.1f} minutes of compute" if c.variant == TUNED else ""
    kind = c.verdict if c.verdict in ("better", "worse") else "undecided"
    return kind, f"{text}.{_scope(c)}"


def _certainty(c: Comparison) -> str:
    """The interval and the p of a comparison, each with its name."""
    p = p_text(c.holm_p)
    shown = f"p {p.replace('<', '< ')}" if p.startswith("<") else f"p = {p}"
    kind = KINDS.get(c.decided_by, "t")
    return f"95 % {kind} interval {interval_text(c.interval)}, Holm-adjusted {shown}"


def _scope(c: Comparison) -> str:
    """What a verdict reaches where datasets are too few to stand for others."""
    if c.decided_by != "t_each":
        return ""
    if c.verdict in ("better", "worse", "equivalent"):
        found = f"Shown in each of the {c.num_datasets} datasets"
    else:
        found = f"Not shown in each of the {c.num_datasets} datasets"
        found += f" ({c.reason})" if c.reason else ""
    return f" {found}; no claim about other datasets."


def _optimism(search: SearchData) -> str:
    """How much of the gain at search time was left on test images."""
    assert search.result is not None
    variants = search.result["variants"]
    objective, metric = search.objectives[0], search.result["test_metrics"][0]
    promised = _difference(variants, "search", objective)
    kept = _difference(variants, "test", metric)
    if promised is None or kept is None:
        return "The default or the winner has a run without a score: optimism is unknown."
    return (
        f"Promised at search time: {points(promised, sign=True)} points of {objective} over the "
        f"default. Kept on test images with fresh seeds: {points(kept, sign=True)} points of "
        f"{metric}. The difference of {points(promised - kept, sign=True)} points is the optimism "
        f"of choosing the best of {counted(len(search.trials), 'trial')}."
    )


def _difference(variants: Mapping[str, Any], when: str, name: str) -> float | None:
    tuned, default = (variants[who][when].get(name) for who in (TUNED, DEFAULT))
    return None if tuned is None or default is None else tuned - default


def _exhibits(search: SearchData) -> tuple[Exhibit, ...]:
    """The figures of the page in their order, each with why it may be missing."""
    shapes, objective = search.definition["space"], search.objectives[0]
    numbers = search.result["pareto_front"] if search.result else []
    few = f"{counted(len(search.complete), 'trial')} complete"
    one = few if len(search.objectives) > 1 else "the search has one objective"
    front = figures.front(search.trials, numbers, search.objectives)
    drawn = (
        ("history", figures.history(search.trials, search.control, objective), few),
        ("budget", figures.budget(search.trials, search.control, objective), few),
        ("front", front, one),
        ("parallel", figures.parallel(search.trials, shapes, objective), few),
    )
    found = [
        Exhibit(name, figure.caption if figure else "", _listed(figure), reason)
        for name, figure, reason in drawn
    ]
    panels = figures.slices(search.trials, shapes, objective)
    return (*found, Exhibit("slices", SLICES_CAPTION, panels, few))


def _listed(figure: Figure | None) -> tuple[Figure, ...]:
    return () if figure is None else (figure,)


def _page(report: SearchReport) -> str:
    environment = page_templates()
    search = report.search
    environment.filters["shown"] = _shown
    return environment.get_template("search.html").render(
        report=report,
        search=search,
        definition=search.definition,
        result=search.result,
        svg={
            exhibit.name: [
                Markup(to_svg(figure, prefix=f"{exhibit.name}{index}"))
                for index, figure in enumerate(exhibit.figures)
            ]
            for exhibit in report.exhibits
        },
        best=_best(search),
        ranked=_ranked(search.trials),
        tests=TESTS,
    )


def _best(search: SearchData) -> Trial | None:
    """The winner."""
    done = search.complete
    return max(done, key=lambda t: (t.values[0], -t.number)) if done else None


def _ranked(trials: tuple[Trial, ...]) -> list[Trial]:
    """Complete trials from the best down, then the others."""
    done = sorted((t for t in trials if t.complete), key=lambda t: (-t.values[0], t.number))
    return [*done, *(t for t in trials if not t.complete)]


def _shown(value: float | None, name: str) -> str:
    """An objective as a reader wants it: percent, or a plain number for a cost."""
    if value is None:
        return "–"
    return f"{figures.scale_of(name) * value:.5g}" if name in figures.COSTS else points(value)


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        "variant": c.variant,
        "reference": c.reference,
        "metric": c.metric,
        "difference": c.difference,
        "interval": list(c.interval) if c.interval else None,
        "holm_p": c.holm_p,
        "verdict": c.verdict,
        "decided_by": c.decided_by,
        "reason": c.reason,
    }
