"""Toggle grids answer by part, and a pair has one word, one p and one interval on the page."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.figures.attribution import attribution_figure
from analysis.figures.colors import PRINT
from analysis.read.csv_file import load_csv
from analysis.read.results import with_choices
from analysis.sections import methods_paragraph as methods
from analysis.sections.analysis import Analysis
from analysis.sections.answers import SHARE, rows_of
from analysis.sections.comparisons import compared
from analysis.sections.headline import answer_table, headline, question
from analysis.sections.pairwise import paired
from analysis.sections.parts import ATTRIBUTION, parts
from analysis.stats import SHIFT, contrast
from tests.helpers.paths import GOLDEN

TABLES = GOLDEN / "tables"
PAIRS = ("full_minus_base", "add_one_in", "leave_one_out")


def analyzed(results):
    return Analysis(results=results)


@pytest.fixture(scope="module", params=["toggle_grid", "toggle_grid_missing_runs"])
def grid(request):
    """A grid of three parts; in the second, 10 of 192 runs are missing."""
    return analyzed(load_csv(TABLES / f"{request.param}.csv"))


@pytest.fixture(scope="module")
def complete():
    return load_csv(TABLES / "toggle_grid.csv")


def variants_of(effect, view):
    """The variant that is added and the one that is subtracted."""
    weights = contrast(effect.kind, frozenset(effect.parts), view.attribution.parts)
    return [view.variant_of[cell] for cell in sorted(weights, key=lambda c: -weights[c])]


def test_every_effect_is_judged_in_both_scopes(grid):
    found = parts(grid).attribution
    assert found.complete and len(found.effects) == 1 + 4 * 3 + 4
    for effect in found.effects:
        for claim in (effect.judgment.these, effect.judgment.like):
            assert claim.interval and claim.holm_p is not None, effect
        assert None not in effect.per_dataset
    assert {e.judgment.these.word for e in found.of("shapley")} == {"better"}
    assert {e.judgment.like.word for e in found.of("shapley")} == {"better"}
    missing = np.isnan(grid.results.cube(grid.results.variants, grid.metric)).sum()
    assert {e.assumptions for e in found.of("shapley")} == {(SHIFT,) if missing else ()}
    assert (SHIFT in found.statement) == bool(missing)


def test_a_pair_has_one_judgment_and_one_value(grid):
    view, pairs = parts(grid), paired(grid)[grid.metric]
    (block,) = compared(grid)
    seen = 0
    for effect in (e for kind in PAIRS for e in view.attribution.of(kind)):
        one, two = variants_of(effect, view)
        assert effect.judgment == pairs.judgment(one, two)
        gap = pairs.difference_VV[pairs.variants.index(one), pairs.variants.index(two)]
        assert effect.value == pytest.approx(gap, abs=1e-15)
        if two == block.reference:
            c = block.of(one, grid.metric)
            assert (effect.judgment, effect.value) == (c.judgment, pytest.approx(c.difference))
            seen += 1
    assert seen == 4  # all parts, and each of them alone


def test_a_pair_without_common_seeds_has_one_judgment_and_one_value(complete):
    """All runs of one variant have the seeds 3 and 4, those of another 1 and 2."""
    frame = complete.frame
    gone = ((frame["variant"] == "v111") & (frame["seed"] < 3)) | (
        (frame["variant"] == "v000") & (frame["seed"] > 2)
    )
    analysis = analyzed(replace(complete, frame=frame[~gone]))
    view, (block,) = parts(analysis), compared(analysis)
    (whole,) = view.attribution.of("full_minus_base")
    c = block.of("v111", analysis.metric)
    assert c.num_pairs == 0 and c.judgment == whole.judgment and c.these.word == "better"
    assert whole.value == pytest.approx(c.difference)
    assert all(e.value is not None for e in view.attribution.effects)


def test_k_hat_and_verdict_agree(grid):
    (block,) = compared(grid)
    everywhere = [c for c in block.comparisons[grid.metric] if c.better_in.k_hat == c.num_datasets]
    assert {"v110"} <= {c.variant for c in everywhere}
    assert {c.these.word for c in everywhere} == {"better"}
    assert not any(c.worse_in.k_hat for c in block.comparisons[grid.metric])


def test_the_answer_is_by_part(grid):
    whole, *shares = rows_of(grid)
    found = parts(grid).attribution
    assert (whole.name, whole.against) == ("v111", "v000") and whole.all_parts
    assert [row.name for row in shares] == ["p0", "p1", "p2"]
    by_part = {e.parts[0]: e for e in found.of("shapley")}
    for row in shares:
        effect = by_part[row.name]
        assert row.role == SHARE and row.c.judgment == effect.judgment
        assert (row.c.difference, row.assumptions) == (effect.value, effect.assumptions)
        assert (row.c.wins, row.c.num_datasets) == (len(effect.per_dataset),) * 2
    for sentence in headline(grid.results, compared(grid), 0.05, rows_of(grid)):
        assert "v111 is better than v000: +" in sentence.text
        assert "Of its parts, each averaged over the others, p0 (+3.6" in sentence.text
        assert sentence.text.endswith(" help.")
    asked = question(grid.results, rows_of(grid))
    assert asked == "Does v111 beat v000, and which part helps?"


def test_the_assumption_is_named_wherever_the_numbers_are(grid):
    needed = bool(np.isnan(grid.results.cube(grid.results.variants, grid.metric)).any())
    (paper,) = methods.TOPIC.build(grid)
    drawn = attribution_figure(parts(grid).attribution, metric="m")
    (section,) = ATTRIBUTION.build(grid)
    effects = section.table("effects")
    kind, assumed = ([c.key for c in effects.columns].index(k) for k in ("kind", "assumptions"))
    marked = {row[kind] for row in effects.rows if SHIFT in row[assumed]}
    assert marked == ({"shapley", "main", "interaction"} if needed else set())
    notes = " ".join(answer_table(rows_of(grid), rope=0.01).notes)
    for text in (paper.text, drawn.caption, section.text, notes):
        assert (SHIFT in text) == needed


def test_the_answer_follows_the_direction(complete):
    """An error rate with the same numbers: every part hurts, the smallest one first."""
    lower = analyzed(replace(complete, lower_is_better=frozenset(complete.metrics)))
    whole, *shares = rows_of(lower)
    assert whole.c.these.word == "worse" and [r.name for r in shares] == ["p2", "p1", "p0"]
    assert {r.c.these.word for r in shares} == {"worse"} and {r.c.wins for r in shares} == {0}
    (first, _) = headline(lower.results, compared(lower), 0.05, rows_of(lower))
    assert first.text.endswith(" hurt.")


def test_a_baseline_with_all_parts_is_answered_the_same_way(complete):
    turned = analyzed(with_choices(complete, baseline="v111"))
    whole, *shares = rows_of(turned)
    before, *same = rows_of(analyzed(complete))
    assert (whole.name, whole.against) == ("v111", "v000")
    assert whole.c.difference == pytest.approx(before.c.difference)
    assert [row.c for row in shares] == [row.c for row in same]


def test_other_baselines_references_and_gaps_are_answered_by_variant(complete):
    within = analyzed(with_choices(complete, baseline="v010"))
    named = analyzed(with_choices(complete, references=["v111"]))
    rows = complete.frame[complete.frame["variant"] != "v101"]
    rest = tuple(v for v in complete.variants if v != "v101")
    factors = {v: complete.factors[v] for v in rest}
    lacking = analyzed(replace(complete, frame=rows, variants=rest, factors=factors))
    for analysis in (within, named, lacking):
        found = rows_of(analysis)
        assert found and not any(row.role == SHARE for row in found)
        assert {row.variant for row in found} == {
            v for v in analysis.results.variants if v != analysis.results.baseline
        }


def test_variants_outside_the_grid_keep_their_rows(complete):
    extra = complete.frame[complete.frame["variant"] == "v100"].assign(variant="extra")
    results = replace(
        complete,
        frame=pd.concat([complete.frame, extra], ignore_index=True),
        variants=(*complete.variants, "extra"),
        factors={**complete.factors, "extra": {}},
    )
    found = rows_of(analyzed(results))
    assert [row.name for row in found] == ["v111", "p0", "p1", "p2", "extra"]


def test_a_factor_of_several_levels_has_the_judgments_of_its_pairs(complete):
    names = ("v000", "v001", "v010")
    one = replace(
        complete,
        frame=complete.frame[complete.frame["variant"].isin(names)],
        variants=names,
        factors={name: {"part": name} for name in names},
        levels={},
    )
    analysis = analyzed(one)
    pairs, effects = paired(analysis)[analysis.metric], parts(analysis).levels
    assert [e.parts for e in effects] == [("part", "v000", "v001"), ("part", "v000", "v010")]
    for effect in effects:
        assert effect.judgment == pairs.judgment(effect.parts[2], effect.parts[1])


def test_blue_is_for_the_better(complete):
    found = parts(analyzed(complete)).attribution
    for direction, color in ((1, PRINT.better), (-1, PRINT.worse)):
        steps = attribution_figure(found, metric="m", direction=direction).panels[0].draw(PRINT)
        bars = [p for p in steps.axes[0].patches if p.get_fill()]
        assert {p.get_facecolor()[:3] for p in bars} == {rgb(color)}
        assert len(bars) == len(found.parts)


def rgb(color):
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_the_path_ends_where_the_shapley_values_add_up(grid):
    found = parts(grid).attribution
    total = sum(e.value for e in found.of("shapley"))
    (last,) = [
        t.get_text()
        for t in attribution_figure(found, metric="m").panels[0].draw(PRINT).axes[0].texts
        if "(" in t.get_text()
    ]
    assert f"(+{100 * total:.2f})" in last and f"{100 * (found.base + total):.2f}" in last
